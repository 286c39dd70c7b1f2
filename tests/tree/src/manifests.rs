//! Every crate takes the workspace's lints, and every member of the workspace is there.

use crate::files::Files;

/// Manifests of crates that do not inherit the lints.
pub(crate) fn check(files: &Files) -> Vec<String> {
    let manifests = files.iter().filter(|(path, text)| path.ends_with("Cargo.toml") && text.contains("[package]"));
    manifests
        .filter(|(_, text)| !inherits(text))
        .map(|(path, _)| format!("{path}: does not take the workspace's lints ([lints] workspace = true)"))
        .collect()
}

fn inherits(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    lines.by_ref().take_while(|line| !line.starts_with('[')).any(|line| line.replace(' ', "") == "workspace=true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_without_the_lints_is_found() {
        let files = [
            ("a/Cargo.toml", "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"),
            ("b/Cargo.toml", "[package]\nname = \"b\"\n\n[lints]\n[dependencies]\nx = { workspace = true }\n"),
            ("Cargo.toml", "[workspace]\n"),
        ];
        let files = files.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
        let offences = check(&files);
        assert!(matches!(&offences[..], [offence] if offence.starts_with("b/Cargo.toml: ")), "{offences:?}");
    }
}
