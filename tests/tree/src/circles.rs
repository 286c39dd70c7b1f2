//! Files that use each other, directly or through others. A reader can begin nowhere in a circle, so there shall be none.
//!
//! Those that are there still stand in `tests/tree/circles`, a line a file. A file that is in a circle and not in the list is an offence, and so is one in the list
//! that is in none any more: the list can only become shorter.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::files::Files;
use crate::imports::{self, Imports};

const KNOWN: &str = "tests/tree/circles";

/// Files that are in a circle and should not be, and those that stand in the list for nothing.
pub(crate) fn check(files: &Files) -> Result<Vec<String>> {
    let known: BTreeSet<&str> = files.get(KNOWN).map(|text| text.lines().collect()).unwrap_or_default();
    let roots = files.keys().filter(|path| {
        let is_root = |name: &str| {
            path.strip_suffix(name).is_some_and(|folder| files.contains_key(&format!("{folder}Cargo.toml")))
        };
        is_root("src/lib.rs") || is_root("src/main.rs")
    });
    let (mut offences, mut found) = (Vec::new(), BTreeSet::new());
    for root in roots {
        for circle in circles(&imports::of_crate(files, root)?) {
            if circle.iter().any(|file| !known.contains(file.as_str())) {
                offences.push(format!("files use each other in a circle: {}", circle.join(", ")));
            }
            found.extend(circle);
        }
    }
    let over = known.iter().filter(|file| !found.contains(**file));
    offences.extend(over.map(|file| format!("{KNOWN}: {file} is in no circle any more: remove the line")));
    Ok(offences)
}

/// The circles, each with its files in order. (Tarjan's strongly connected components, those with more than one file.)
fn circles(imports: &Imports) -> Vec<Vec<String>> {
    let mut search = Search { imports, marks: BTreeMap::new(), stack: Vec::new(), found: Vec::new() };
    for file in imports.keys() {
        if !search.marks.contains_key(file.as_str()) {
            search.visit(file);
        }
    }
    search.found
}

struct Search<'a> {
    imports: &'a Imports,
    /// In which order a file was come to, the earliest that it leads to, and whether it is still open.
    marks: BTreeMap<&'a str, (usize, usize, bool)>,
    stack: Vec<&'a str>,
    found: Vec<Vec<String>>,
}

impl<'a> Search<'a> {
    /// Returns the earliest file that this one leads to.
    fn visit(&mut self, file: &'a str) -> usize {
        let order = self.marks.len();
        let mut lowest = order;
        self.marks.insert(file, (order, order, true));
        self.stack.push(file);
        for used in self.imports.get(file).into_iter().flatten() {
            match self.marks.get(used.as_str()) {
                None => lowest = lowest.min(self.visit(used)),
                Some((order, _, true)) => lowest = lowest.min(*order),
                Some((_, _, false)) => {}
            }
        }
        self.marks.insert(file, (order, lowest, true));
        if lowest == order {
            let start = self.stack.iter().rposition(|open| *open == file).unwrap_or_default();
            let mut circle: Vec<String> = Vec::new();
            for member in self.stack.split_off(start) {
                if let Some(mark) = self.marks.get_mut(member) {
                    mark.2 = false;
                }
                circle.push(member.to_owned());
            }
            if circle.len() > 1 {
                circle.sort_unstable();
                self.found.push(circle);
            }
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(known: &str) -> Files {
        [
            ("x/Cargo.toml", ""),
            ("x/src/lib.rs", "mod a; mod b; mod c; mod d;"),
            ("x/src/a.rs", "use crate::b::B;"),
            ("x/src/b.rs", "use crate::c::C;"),
            ("x/src/c.rs", "use crate::a::A; use crate::d::D;"),
            ("x/src/d.rs", ""),
            (KNOWN, known),
        ]
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .into()
    }

    #[test]
    fn a_circle_is_found_and_what_only_hangs_on_it_is_not() {
        let offences = check(&files("")).unwrap();
        assert_eq!(offences, ["files use each other in a circle: x/src/a.rs, x/src/b.rs, x/src/c.rs"]);
    }

    #[test]
    fn the_list_of_those_that_are_left_can_only_become_shorter() {
        assert_eq!(check(&files("x/src/a.rs\nx/src/b.rs\nx/src/c.rs\n")).unwrap(), [""; 0]);
        let offences = check(&files("x/src/a.rs\nx/src/b.rs\nx/src/c.rs\nx/src/d.rs\n")).unwrap();
        assert!(matches!(&offences[..], [offence] if offence.contains("x/src/d.rs is in no circle")), "{offences:?}");
    }
}
