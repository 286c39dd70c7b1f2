//! Each of Xen's advisories in the threat model has its test, and each such test stands there.

use crate::files::Files;

/// The document with the table.
const DOCUMENT: &str = "docs/threat-model.md";
/// The folder of such tests in a crate; each file is a module of the one beside them.
const FOLDER: &str = "/advisories/";

/// Rows without their file, files without their row, files that no crate has for a module.
pub(crate) fn check(files: &Files) -> Vec<String> {
    let Some(text) = files.get(DOCUMENT) else { return vec![format!("there is no {DOCUMENT}")] };
    let mut offences = Vec::new();
    let mut named = Vec::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("| XSA-")) {
        let number: String = row.chars().take_while(char::is_ascii_digit).collect();
        let file = format!("xsa_{number:0>3}.rs");
        let test = row.split('`').find(|word| word.ends_with(&format!("{FOLDER}{file}")));
        match test {
            Some(test) if files.contains_key(test) => named.push(test.to_owned()),
            Some(test) => offences.push(format!("{DOCUMENT}: XSA-{number}: there is no {test}")),
            None => offences.push(format!("{DOCUMENT}: XSA-{number} names no test {file}")),
        }
    }
    let tests = files.keys().filter(|path| path.contains(&format!("{FOLDER}xsa_")) && path.ends_with(".rs"));
    for test in tests {
        if !named.contains(test) {
            offences.push(format!("{test}: not in the table of {DOCUMENT}"));
        }
        let Some((folder, file)) = test.rsplit_once('/') else { continue };
        let module = format!("mod {};", file.trim_end_matches(".rs"));
        let is_module = |root: &str| files.get(&format!("{folder}/{root}")).is_some_and(|text| text.contains(&module));
        if !is_module("main.rs") && !is_module("mod.rs") {
            offences.push(format!("{test}: no module of its crate"));
        }
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_files_belong_together() {
        let row = |number: &str, file: &str| format!("| XSA-{number} (CVE) | a | b | `a/advisories/{file}` |\n");
        let check = |table: String, modules: &str| {
            let files = [
                (DOCUMENT, table.as_str()),
                ("a/advisories/mod.rs", modules),
                ("a/advisories/xsa_043.rs", ""),
                ("a/advisories/xsa_120.rs", ""),
            ];
            super::check(&files.map(|(path, text)| (path.to_owned(), text.to_owned())).into())
        };
        let both = row("43", "xsa_043.rs") + &row("120", "xsa_120.rs");
        assert_eq!(check(both.clone(), "mod xsa_043;\nmod xsa_120;"), [""; 0]);
        assert_eq!(check(both.clone(), "mod xsa_043;"), ["a/advisories/xsa_120.rs: no module of its crate"]);
        let missing = check(both + &row("9", "xsa_009.rs"), "mod xsa_043;\nmod xsa_120;");
        assert_eq!(missing, ["docs/threat-model.md: XSA-9: there is no a/advisories/xsa_009.rs"]);
        let offences = check(row("43", "xsa_120.rs"), "mod xsa_043;\nmod xsa_120;");
        assert_eq!(offences.len(), 3, "{offences:?}");
    }
}
