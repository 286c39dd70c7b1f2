//! Every crate that we use has a licence that a permissive project can ship, and every one that a manifest names is used.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::files::Files;

/// Licences that dependencies may have, one of several if they offer a choice.
const LICENCES: [&str; 9] = [
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "NCSA",
    "Zlib",
    "Unicode-3.0",
    "Apache-2.0 WITH LLVM-exception",
];

/// Asks cargo for the packages in the lock file, which must fit the manifests.
pub(crate) fn check(root: &Path, files: &Files) -> Result<Vec<String>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--locked", "--all-features"])
        .current_dir(root)
        .output()
        .context("starting cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: Value = serde_json::from_slice(&output.stdout).context("reading what cargo says")?;
    let packages = metadata["packages"].as_array().context("cargo names no packages")?;
    let mut offences = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or_default();
        if !is_permissive(licence) {
            offences.push(format!("Cargo.lock: {name} has the licence {licence:?}"));
        }
        // Ours are those without a registry.
        if package["source"].is_null() {
            let folder = package["manifest_path"].as_str().and_then(|path| relative(root, path)).unwrap_or_default();
            offences
                .extend(unused(files, &folder, package).map(|name| format!("{folder}Cargo.toml: {name} is not used")));
        }
    }
    Ok(offences)
}

/// Whether one of the alternatives of a licence expression (SPDX) asks for known licences only. `/` is what old manifests write for OR.
fn is_permissive(expression: &str) -> bool {
    let known = |word: &str| LICENCES.contains(&word.trim().trim_matches(['(', ')']));
    let expression = expression.replace('/', " OR ");
    // `A AND (B OR C)`: every part of the conjunction needs one that is known.
    let part = |part: &str| part.split(" OR ").any(known);
    expression.split(" AND ").all(part) || expression.split(" OR ").any(known)
}

/// The folder of a manifest from the root on, with `/` behind it.
fn relative(root: &Path, manifest: &str) -> Option<String> {
    let folder = Path::new(manifest).parent()?.canonicalize().ok()?;
    let folder = folder.strip_prefix(root.canonicalize().ok()?).ok()?.to_string_lossy().into_owned();
    Some(if folder.is_empty() { folder } else { folder + "/" })
}

/// Dependencies whose name stands nowhere in the crate's sources.
fn unused<'a>(files: &'a Files, folder: &'a str, package: &'a Value) -> impl Iterator<Item = &'a str> {
    let names = package["dependencies"].as_array().into_iter().flatten();
    names.filter_map(|dependency| dependency["rename"].as_str().or(dependency["name"].as_str())).filter(move |name| {
        let word = name.replace('-', "_");
        let is_source = |path: &str| path.starts_with(folder) && path.ends_with(".rs");
        !files.iter().any(|(path, text)| is_source(path) && names_crate(text, &word))
    })
}

/// Whether a source names a crate: `name::`, `use name;`, `extern crate name`.
fn names_crate(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let behind = text.get(at + name.len()..).unwrap_or_default();
        !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
            && ["::", ";", " as "].iter().any(|next| behind.starts_with(next))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_permissive_if_one_choice_is() {
        for licence in
            ["MIT", "MIT OR Apache-2.0", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"]
        {
            assert!(is_permissive(licence), "{licence}");
        }
        for licence in ["", "GPL-3.0", "MIT AND GPL-3.0", "LGPL-2.1-only", "MPL-2.0"] {
            assert!(!is_permissive(licence), "{licence}");
        }
    }

    #[test]
    fn a_dependency_that_no_source_names_is_found() {
        let files = [("a/src/lib.rs", "use used::X; fn f() { other::g() } // notused: no")];
        let files: Files = files.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
        let package =
            serde_json::json!({ "dependencies": [{ "name": "used" }, { "name": "other" }, { "name": "not-used" }] });
        assert_eq!(unused(&files, "a/", &package).collect::<Vec<_>>(), ["not-used"]);
    }
}
