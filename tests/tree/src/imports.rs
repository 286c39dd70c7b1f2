//! Which file of a crate uses what of which other file of it, from the paths in `use` and in the code. Tests are left out: they may use what
//! they test. A name that a module passes on (`pub use`) belongs to the file that it comes from, and to pass it on is no use of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use syn::visit::{self, Visit};

use crate::files::Files;

/// A module's or an item's path from the crate's root.
type Path = Vec<String>;

/// The files that each file uses.
pub(crate) type Imports = BTreeMap<String, BTreeSet<String>>;

/// Looks through the crate whose root file (`lib.rs` or `main.rs`) is `root`.
pub(crate) fn of_crate(files: &Files, root: &str) -> Result<Imports> {
    let mut names = Names::default();
    let mut parsed = Vec::new();
    let mut waiting = vec![(Vec::new(), root.to_owned())];
    while let Some((path, file)) = waiting.pop() {
        let text = files.get(&file).with_context(|| format!("{file} is not there"))?;
        let syntax = syn::parse_file(text).with_context(|| format!("reading {file}"))?;
        names.modules.insert(path.clone(), file.clone());
        names.note_items(files, &file, &path, &syntax.items, &mut waiting);
        parsed.push((path, file, syntax));
    }
    let mut imports = Imports::new();
    for (path, file, syntax) in parsed {
        let mut visitor = Visitor { names: &names, path, used: BTreeSet::new() };
        visitor.visit_file(&syntax);
        visitor.used.remove(&file);
        imports.insert(file, visitor.used);
    }
    Ok(imports)
}

/// Names of the crate's modules and their re-exports.
#[derive(Default)]
struct Names {
    /// Each module's file.
    modules: BTreeMap<Path, String>,
    /// Names that a module passes on, by what they are called there, with the path that they stand for in that module.
    passed_on: BTreeMap<Path, Path>,
}

impl Names {
    /// Notes the modules that these items declare, of which those in files of their own are still to be read, and what they pass on.
    fn note_items(
        &mut self,
        files: &Files,
        file: &str,
        path: &[String],
        items: &[syn::Item],
        waiting: &mut Vec<(Path, String)>,
    ) {
        for item in items {
            match item {
                syn::Item::Use(item) if passes_on(item) => each_name(&[], &item.tree, &mut |name, target| {
                    self.passed_on.insert([path, &[name.to_owned()]].concat(), target);
                }),
                syn::Item::Mod(module) if !is_test(&module.attrs) => {
                    let path = [path, &[module.ident.to_string()]].concat();
                    if let Some((_, items)) = &module.content {
                        self.modules.insert(path.clone(), file.to_owned());
                        self.note_items(files, file, &path, items, waiting);
                        continue;
                    }
                    let folder = folder_of_children(file);
                    let places = [format!("{folder}/{}.rs", module.ident), format!("{folder}/{}/mod.rs", module.ident)];
                    waiting
                        .extend(places.into_iter().find(|place| files.contains_key(place)).map(|place| (path, place)));
                }
                _ => {}
            }
        }
    }

    /// The file that a path in module `from` leads to; `None` for one that begins outside of the crate.
    fn file_of(&self, from: &[String], segments: &[String]) -> Option<&str> {
        let mut place = match segments.first()?.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => from.to_vec(),
            name => {
                let inner = [from, &[name.to_owned()]].concat();
                if !self.modules.contains_key(&inner) && !self.passed_on.contains_key(&inner) {
                    return None;
                }
                from.to_vec()
            }
        };
        for segment in segments.iter().filter(|segment| !matches!(segment.as_str(), "crate" | "self")) {
            if segment == "super" {
                place.pop();
                continue;
            }
            let module = place.clone();
            place.push(segment.clone());
            if self.modules.contains_key(&place) {
                continue;
            }
            return match self.passed_on.get(&place) {
                // A name that stands for itself would lead round and round.
                Some(target) if target.first() != Some(segment) => self.file_of(&module, target),
                _ => self.modules.get(&module).map(String::as_str),
            };
        }
        self.modules.get(&place).map(String::as_str)
    }
}

/// Whether a `use` is there for others.
fn passes_on(item: &syn::ItemUse) -> bool {
    !matches!(item.vis, syn::Visibility::Inherited)
}

/// Calls `note` with each name that a tree of `use` makes, and the path that it stands for.
fn each_name(before: &[String], tree: &syn::UseTree, note: &mut dyn FnMut(&str, Path)) {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        syn::UseTree::Path(path) => each_name(&with(&path.ident), &path.tree, note),
        syn::UseTree::Name(name) => note(&name.ident.to_string(), with(&name.ident)),
        syn::UseTree::Rename(rename) => note(&rename.rename.to_string(), with(&rename.ident)),
        syn::UseTree::Glob(_) => note("*", before.to_vec()),
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| each_name(before, tree, note)),
    }
}

/// Where the files of a file's modules are.
fn folder_of_children(file: &str) -> String {
    let (folder, name) = file.rsplit_once('/').unwrap_or((".", file));
    match name {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        _ => format!("{folder}/{}", name.trim_end_matches(".rs")),
    }
}

/// Whether an item is for tests alone.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

struct Visitor<'a> {
    names: &'a Names,
    /// The module that is looked at.
    path: Path,
    used: BTreeSet<String>,
}

impl Visitor<'_> {
    fn note(&mut self, segments: &[String]) {
        self.used.extend(self.names.file_of(&self.path, segments).map(str::to_owned));
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.content.is_some() {
            self.path.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.path.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !passes_on(item) {
            each_name(&[], &item.tree, &mut |_, target| self.note(&target));
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.note(&segments);
        }
        visit::visit_path(self, path);
    }

    /// `pub(in path)` says who may use something, and uses nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_found_in_all_their_forms() {
        let files: Files = [
            ("src/lib.rs", "mod a; mod b; mod c; #[cfg(test)] mod t; pub use a::A; pub use crate::b::B as Bee;"),
            ("src/a.rs", "mod inner; use crate::{b::{self}, Bee}; use std::fs; pub(in crate::c) struct A(inner::I);"),
            (
                "src/a/inner.rs",
                "pub struct I; fn f() { super::super::c::g() } #[cfg(test)] mod tests { use crate::b::B; }",
            ),
            ("src/b/mod.rs", "pub struct B;"),
            ("src/c.rs", "pub fn g() {} #[test] fn t() { crate::a::A }"),
        ]
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .into();
        let imports = of_crate(&files, "src/lib.rs").unwrap();
        let used = |file: &str| imports[file].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(used("src/lib.rs"), [""; 0]);
        assert_eq!(used("src/a.rs"), ["src/a/inner.rs", "src/b/mod.rs"]);
        assert_eq!(used("src/a/inner.rs"), ["src/c.rs"]);
        assert_eq!(used("src/b/mod.rs"), [""; 0]);
        assert_eq!(used("src/c.rs"), [""; 0]);
    }
}
