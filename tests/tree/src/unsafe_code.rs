//! Every `unsafe` of the programs that are shipped, with its place and its reason: what `make unsafe` prints. Attributes (`#[unsafe(no_mangle)]`) and types of
//! foreign functions are none: what may go wrong with them goes wrong in a block.

use std::fmt;

use crate::files::Files;

/// Where the stub's image, the broker and the command come from. What tests have of their own is not shipped.
const SHIPPED: [&str; 4] = ["boot/", "kernel/", "drivers/", "toolstack/"];
/// What is not, of these.
const TESTS: [&str; 4] = ["/tests/", "/tests.rs", "/fakes/", "/examples/"];
/// What is looked for, as it stands in code.
const KINDS: [&str; 3] = ["unsafe {", "unsafe impl", "unsafe fn"];
/// How far above its `unsafe` a reason may begin: a statement may have several lines.
const LINES_ABOVE: usize = 12;

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    path: &'a str,
    line: usize,
    kind: &'static str,
    /// The SAFETY comment in one line, or the Safety section of a function's docs; empty where there is none.
    reason: String,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, kind, reason } = self;
        write!(f, "{path}:{line}: {}: {reason}", kind.trim_end_matches([' ', '{']))
    }
}

/// All of them, in the order of the files.
pub(crate) fn places(files: &Files) -> Vec<Place<'_>> {
    let is_shipped = |path: &str| {
        path.ends_with(".rs")
            && SHIPPED.iter().any(|folder| path.starts_with(folder))
            && !TESTS.iter().any(|part| path.contains(part))
    };
    files.iter().filter(|(path, _)| is_shipped(path)).flat_map(|(path, text)| in_file(path, text)).collect()
}

fn in_file<'a>(path: &'a str, text: &str) -> Vec<Place<'a>> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut places = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let found = KINDS.into_iter().filter(|kind| code.contains(kind));
        places.extend(found.map(|kind| Place { path, line: index + 1, kind, reason: reason(&lines, index) }));
    }
    places
}

/// The comment that belongs to a line: on it, or nearest above it.
fn reason(lines: &[&str], index: usize) -> String {
    let begins = |line: &&str| line.contains("SAFETY:") || line.starts_with("/// # Safety");
    let Some(first) = (index.saturating_sub(LINES_ABOVE)..=index).rev().find(|at| lines.get(*at).is_some_and(begins))
    else {
        return String::new();
    };
    let block = lines.get(first..).unwrap_or_default().iter().enumerate();
    let words = block.take_while(|(at, line)| *at == 0 || line.starts_with("//")).map(|(_, line)| {
        let comment = line.find("//").and_then(|at| line.get(at..)).unwrap_or_default();
        comment.trim_start_matches('/').trim().trim_start_matches("SAFETY:").trim_start_matches("# Safety").trim()
    });
    words.filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The list for people, and how many there are.
pub(crate) fn describe(files: &Files) -> String {
    let places = places(files);
    let mut text: String = places.iter().map(|place| format!("{place}\n")).collect();
    for folder in SHIPPED {
        let count = places.iter().filter(|place| place.path.starts_with(folder)).count();
        text.push_str(&format!("{count:>4} in {folder}\n"));
    }
    text + &format!("{:>4} in all", places.len())
}

/// Those without a reason.
pub(crate) fn check(files: &Files) -> Vec<String> {
    let without = places(files).into_iter().filter(|place| place.reason.is_empty());
    without.map(|Place { path, line, .. }| format!("{path}:{line}: unsafe without a SAFETY comment")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_with_its_reason() {
        let text = "// unsafe { no }\n// SAFETY: alive\n// until the end.\nlet x = f(\n    unsafe { a() },\n);\n\
                    /// # Safety\n/// Only once.\npub unsafe fn b() {}\nunsafe impl C for D {} // SAFETY: no state\n";
        let files = [("kernel/src/a.rs", text), ("tests/x/src/a.rs", text), ("toolstack/src/tests/a.rs", text)];
        let files: Files = files.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
        let found: Vec<String> = places(&files).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "kernel/src/a.rs:5: unsafe: alive until the end.",
                "kernel/src/a.rs:9: unsafe fn: Only once.",
                "kernel/src/a.rs:10: unsafe impl: no state",
            ]
        );
        assert_eq!(check(&files), [""; 0]);
    }

    #[test]
    fn one_without_a_reason_is_an_offence() {
        let files: Files = [("boot/src/a.rs".to_owned(), "fn f() {\n    unsafe { a() }\n}\n".to_owned())].into();
        assert_eq!(check(&files), ["boot/src/a.rs:2: unsafe without a SAFETY comment"]);
    }
}
