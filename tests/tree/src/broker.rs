//! How large the broker is: what runs resident as root, with all of our crates that it consists of. It shall not grow.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{files::Files, imports};

const PACKAGE: &str = "pcidom-broker";
/// The limits: `all LINES`, `deciding LINES`, and `decides FILE` for each file whose lines decide what a stub may have.
const LIMITS: &str = "tests/tree/broker";

/// Lines of code of the broker.
#[derive(Debug, PartialEq, Eq)]
struct Size {
    /// Of each of our crates.
    crates: BTreeMap<String, usize>,
    /// Of the files that decide.
    deciding: usize,
}

/// What is saved.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    all: usize,
    deciding: usize,
    files: Vec<String>,
}

/// Says where the broker has outgrown its limits, and which of the files that decide is not in it.
pub(crate) fn check(root: &Path, files: &Files) -> Result<Vec<String>> {
    let (size, limits, mut offences) = measure(root, files)?;
    let all: usize = size.crates.values().sum();
    for (what, lines, limit) in [("all", all, limits.all), ("deciding", size.deciding, limits.deciding)] {
        if lines > limit {
            offences.push(format!("{LIMITS}: {what}: the broker has {lines} lines of code, {limit} are allowed"));
        }
    }
    Ok(offences)
}

/// The same for people: each crate, the sum, and what decides.
pub(crate) fn describe(root: &Path, files: &Files) -> Result<String> {
    let (size, limits, _) = measure(root, files)?;
    let mut text = String::from("lines of code, resident as root:\n");
    for (name, lines) in &size.crates {
        writeln!(text, "  {lines:6}  {name}")?;
    }
    writeln!(text, "  {:6}  in all (limit {})", size.crates.values().sum::<usize>(), limits.all)?;
    write!(text, "  {:6}  of them decide (limit {})", size.deciding, limits.deciding)?;
    Ok(text)
}

fn measure(root: &Path, files: &Files) -> Result<(Size, Limits, Vec<String>)> {
    let limits = Limits::parse(files.get(LIMITS).with_context(|| format!("{LIMITS} is not there"))?)?;
    let mut size = Size { crates: BTreeMap::new(), deciding: 0 };
    let mut deciding: Vec<&String> = limits.files.iter().collect();
    for Member { name, folder, features } in members(root)? {
        let lib = format!("{folder}src/lib.rs");
        for file in imports::of_crate(files, &lib)?.into_keys() {
            let text = files.get(&file).map(String::as_str).unwrap_or_default();
            if !is_enabled(files, &lib, &file, &features) {
                continue;
            }
            *size.crates.entry(name.clone()).or_default() += lines_of_code(text);
            if limits.files.contains(&file) {
                size.deciding += lines_of_code(text);
                deciding.retain(|other| **other != file);
            }
        }
    }
    let offences = deciding.into_iter().map(|file| format!("{LIMITS}: {file} is no file of the broker")).collect();
    Ok((size, limits, offences))
}

impl Limits {
    fn parse(text: &str) -> Result<Self> {
        let mut limits = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("all", lines)) => limits.all = lines.parse()?,
                Some(("deciding", lines)) => limits.deciding = lines.parse()?,
                Some(("decides", file)) => limits.files.push(file.to_owned()),
                _ => anyhow::bail!("{LIMITS}: {line:?} is none of `all LINES`, `deciding LINES`, `decides FILE`"),
            }
        }
        Ok(limits)
    }
}

/// One of our crates that the broker consists of.
struct Member {
    name: String,
    /// From the root on, with `/` behind it.
    folder: String,
    features: Vec<String>,
}

/// Asks cargo for them: it knows which features the broker alone asks for.
fn members(root: &Path) -> Result<Vec<Member>> {
    let output = Command::new("cargo")
        .args(["tree", "--locked", "--edges", "normal", "--package", PACKAGE, "--prefix", "none", "--no-dedupe"])
        .args(["--format", "{p}|{f}"])
        .current_dir(root)
        .output()
        .context("starting cargo")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8(output.stdout).context("reading what cargo says")?;
    let root = root.canonicalize()?.to_string_lossy().into_owned();
    let mut members: Vec<Member> = text.lines().filter_map(|line| member(line, &root)).collect();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    members.dedup_by(|one, other| one.name == other.name);
    Ok(members)
}

/// `dom0 v0.1.0 (/path/toolstack/dom0)|feature,feature`; others have no path, or one that is none of ours (`(proc-macro)`).
fn member(line: &str, root: &str) -> Option<Member> {
    let (package, features) = line.split_once('|')?;
    let (head, path) = package.split_once(" (")?;
    let folder = path.strip_suffix(')')?.strip_prefix(root)?.strip_prefix('/')?;
    Some(Member {
        name: head.split(' ').next()?.to_owned(),
        folder: format!("{folder}/"),
        features: features.split(',').map(str::to_owned).collect(),
    })
}

/// Whether a file is compiled with these features: whether its outermost module is.
fn is_enabled(files: &Files, lib: &str, file: &str, features: &[String]) -> bool {
    let text = files.get(lib).map(String::as_str).unwrap_or_default();
    let folder = lib.trim_end_matches("lib.rs");
    let module = file.strip_prefix(folder).unwrap_or_default().trim_end_matches(".rs").split('/').next();
    let mut wanted = None;
    for line in text.lines().map(str::trim) {
        if let Some(feature) = line.strip_prefix("#[cfg(feature = \"").and_then(|rest| rest.strip_suffix("\")]")) {
            wanted = Some(feature);
        } else {
            let name = line.trim_start_matches("pub ").strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
            if name.is_some() && name == module {
                return wanted.is_none_or(|wanted| features.iter().any(|feature| feature == wanted));
            }
            if !line.starts_with("//") {
                wanted = None;
            }
        }
    }
    true
}

/// Lines that are neither blank, comments, attributes nor tests.
fn lines_of_code(text: &str) -> usize {
    let code = text.lines().map(str::trim).take_while(|line| !(line.starts_with("mod tests") && line.ends_with('{')));
    code.filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with('#')).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_code_are_those_that_run() {
        let text = "//! Head.\n\n#[derive(Debug)]\nstruct A;\n\n/// B.\nfn b() {\n    // why\n    c()\n}\n\n#[cfg(test)]\nmod tests {\n    fn d() {}\n}\n";
        assert_eq!(lines_of_code(text), 4);
    }

    #[test]
    fn what_a_feature_leaves_out_does_not_count() {
        let lib = "mod a;\n#[cfg(feature = \"more\")]\npub mod b;\nmod c;\n";
        let files = Files::from([("x/src/lib.rs".to_owned(), lib.to_owned())]);
        let is_in = |file, features: &[&str]| {
            let features: Vec<String> = features.iter().map(|feature| (*feature).to_owned()).collect();
            is_enabled(&files, "x/src/lib.rs", file, &features)
        };
        assert!(is_in("x/src/a.rs", &[]) && is_in("x/src/c/d.rs", &[]) && is_in("x/src/lib.rs", &[]));
        assert!(!is_in("x/src/b.rs", &["less"]) && !is_in("x/src/b/d.rs", &[""]));
        assert!(is_in("x/src/b.rs", &["less", "more"]));
    }

    #[test]
    fn our_crates_are_those_with_a_path_below_the_root() {
        let found = member("dom0 v0.1.0 (/tree/toolstack/dom0)|a,b", "/tree").unwrap();
        assert_eq!((found.name.as_str(), found.folder.as_str()), ("dom0", "toolstack/dom0/"));
        assert_eq!(found.features, ["a", "b"]);
        for other in ["rustix v1.1.2|event,fs", "thiserror-impl v2.0.1 (proc-macro)|", "x v1.0.0 (/elsewhere/x)|"] {
            assert!(member(other, "/tree").is_none(), "{other}");
        }
    }

    #[test]
    fn limits_read_as_they_are_written() {
        let limits = Limits::parse("all 3000\ndeciding 600\ndecides a/b.rs\n").unwrap();
        assert_eq!(limits, Limits { all: 3000, deciding: 600, files: vec!["a/b.rs".to_owned()] });
        assert!(Limits::parse("everything 1\n").is_err());
    }
}
