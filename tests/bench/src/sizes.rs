//! How large the stub's image and the tool are, by section and by crate, against a saved table.
//!
//! The linker leaves no other trace of crates than the names of functions, so code alone is told apart by crate. Functions that the compiler made
//! of sequences which occur in several others belong to nobody.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

use crate::tally::Tally;

/// The saved table: `FILE section|crate NAME BYTES`, sorted.
const TABLE: &str = "tests/bench/sizes";
/// An entry may be this much larger than in the table before it counts as grown: compilers differ that much from release to release.
const TOLERANCE_PERCENT: u64 = 10;
const TOLERANCE_BYTES: u64 = 2048;
/// Crates with less code than this are added up.
const SMALL_BYTES: u64 = 512;

/// Sizes in bytes by `FILE section|crate NAME`.
type Sizes = BTreeMap<String, u64>;

/// Prints the sizes in `files` (not stripped) beside those of the table. With `keep` they become the table. True unless something grew.
pub(crate) fn run(files: &[PathBuf], keep: bool) -> Result<bool> {
    let mut sizes = Sizes::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        sizes.extend(measure(&bytes)?.into_iter().map(|(what, bytes)| (format!("{name} {what}"), bytes)));
    }
    if keep {
        let lines = sizes.iter().map(|(what, bytes)| format!("{what} {bytes}\n"));
        fs::write(TABLE, lines.collect::<String>()).with_context(|| format!("writing {TABLE}"))?;
    }
    let saved = parse(&fs::read_to_string(Path::new(TABLE)).with_context(|| format!("reading {TABLE}"))?)?;
    print!("{}", table(&sizes, &saved));
    let grown = grown(&sizes, &saved);
    let passed = grown.is_empty();
    if passed {
        println!("case sizes_are_within_the_saved_table ... ok");
    } else {
        let grown = grown.join(", ");
        println!("case sizes_are_within_the_saved_table ... FAILED: {grown} (make sizes KEEP=1 saves a new table)");
    }
    println!("{}", Tally::one(passed));
    Ok(passed)
}

/// Sections that are loaded, and code by crate.
fn measure(elf: &[u8]) -> Result<Sizes> {
    let file = object::File::parse(elf)?;
    let mut sizes = Sizes::new();
    for section in file.sections() {
        let kind = section.kind();
        if matches!(
            kind,
            SectionKind::Text | SectionKind::Data | SectionKind::ReadOnlyData | SectionKind::UninitializedData
        ) || matches!(kind, SectionKind::ReadOnlyString | SectionKind::ReadOnlyDataWithRel)
        {
            *sizes.entry(format!("section {}", section.name()?)).or_default() += section.size();
        }
    }
    let mut crates: BTreeMap<&str, u64> = BTreeMap::new();
    // Equal functions are one function with several names.
    let mut functions: BTreeMap<u64, (u64, &str)> = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
        functions.entry(symbol.address()).or_insert((symbol.size(), symbol.name()?));
    }
    for (bytes, name) in functions.into_values() {
        *crates.entry(crate_of(name)).or_default() += bytes;
    }
    for (name, bytes) in crates {
        let name = if bytes < SMALL_BYTES { "(small)" } else { name };
        *sizes.entry(format!("crate {name}")).or_default() += bytes;
    }
    Ok(sizes)
}

/// The crate that a function's mangled name names first: that of the function, or of the type that it belongs to.
fn crate_of(symbol: &str) -> &str {
    let named = if let Some(rest) = symbol.strip_prefix("_ZN") { legacy(rest) } else { v0(symbol) };
    match named {
        Some(name) => name,
        None if symbol.starts_with("OUTLINED_FUNCTION") => "(outlined)",
        None => "(not Rust)",
    }
}

/// `7pciback7service…`, `55_$LT$impl$u20$pciback..core..Core…`: the first path of the first component.
fn legacy(rest: &str) -> Option<&str> {
    let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
    let component = rest.get(digits..digits + rest.get(..digits)?.parse::<usize>().ok()?)?;
    if component.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') && !component.starts_with("_$") {
        return Some(component);
    }
    // Words between punctuation (`$LT$`, `..`); a path is a word with `..` behind it.
    let path = component.split("..").next()?;
    path.rsplit('$').next().filter(|word| !word.is_empty())
}

/// `_RNvNtCs1a2b_7pciback…`: the first crate root, `C`, a hash behind `s`, and the name behind its length.
fn v0(symbol: &str) -> Option<&str> {
    let rest = symbol.strip_prefix("_R")?;
    rest.match_indices('C').find_map(|(at, _)| {
        let rest = rest.get(at + 1..)?.strip_prefix('s')?;
        let (_, rest) = rest.split_once('_')?;
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let bytes = rest.get(..digits)?.parse::<usize>().ok()?;
        let name = rest.get(digits..)?;
        // A `_` stands between the length and a name that could be read as a part of it.
        name.strip_prefix('_').unwrap_or(name).get(..bytes)
    })
}

fn parse(text: &str) -> Result<Sizes> {
    let line = |line: &str| -> Option<(String, u64)> {
        let (what, bytes) = line.rsplit_once(' ')?;
        Some((what.to_owned(), bytes.parse().ok()?))
    };
    text.lines().map(|text| line(text).with_context(|| format!("{TABLE}: {text:?} is no line of it"))).collect()
}

fn table(sizes: &Sizes, saved: &Sizes) -> String {
    let mut lines = String::new();
    for (what, bytes) in sizes {
        let before = saved.get(what).copied().unwrap_or_default();
        let change = bytes.cast_signed() - before.cast_signed();
        let change = if change == 0 { String::new() } else { format!("{change:+}") };
        let _ = writeln!(lines, "{what:<48} {bytes:>9} {change:>8}");
    }
    lines
}

/// Entries that exceed the table by more than the tolerance. One that is not in the table counts from 0.
fn grown(sizes: &Sizes, saved: &Sizes) -> Vec<String> {
    let limit = |what: &String| {
        let before = saved.get(what).copied().unwrap_or_default();
        before + (before * TOLERANCE_PERCENT / 100).max(TOLERANCE_BYTES)
    };
    let grown = sizes.iter().filter(|(what, bytes)| **bytes > limit(what));
    grown.map(|(what, bytes)| format!("{what} has {bytes} bytes, at most {}", limit(what))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_belong_to_the_crate_that_their_names_begin_with() {
        for (symbol, name) in [
            ("_ZN7pciback7service3run17h520eef8da483da39E", "pciback"),
            ("_ZN11pcidom_stub4Stub6settle17hc94cfe04602f67c7E", "pcidom_stub"),
            ("_ZN55_$LT$impl$u20$pciback..control..core..Core$LT$P$GT$$GT$4turn17h591d907452fa1d5dE", "pciback"),
            ("_ZN54_$LT$$RF$mut$u20$W$u20$as$u20$core..fmt..Write$GT$9write_str17h0E", "core"),
            ("_RNvNtCs6Zyx3_4core9panicking5panic", "core"),
            ("_RNvMs_NtCsabc_7___rustc3foo", "__rustc"),
            ("OUTLINED_FUNCTION_12", "(outlined)"),
            ("memcpy", "(not Rust)"),
        ] {
            assert_eq!(crate_of(symbol), name, "{symbol}");
        }
    }

    #[test]
    fn growth_beyond_the_tolerance_is_found_and_a_new_crate_is_growth() {
        let saved = parse("a crate core 100000\na crate x 100\n").unwrap();
        let sizes = |text: &str| parse(text).unwrap();
        assert_eq!(grown(&sizes("a crate core 110000\na crate x 2148\na crate y 2048\n"), &saved), [""; 0]);
        assert_eq!(grown(&sizes("a crate core 110001\n"), &saved), ["a crate core has 110001 bytes, at most 110000"]);
        assert_eq!(grown(&sizes("a crate y 2049\n"), &saved), ["a crate y has 2049 bytes, at most 2048"]);
        assert!(parse("a crate\n").is_err());
    }
}
