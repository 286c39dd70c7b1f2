//! Every reference in documents and comments leads somewhere.
//!
//! | what | where it must lead |
//! |---|---|
//! | a link of Markdown, `[text](path#heading)` | a file beside the document, and a heading in it |
//! | a file in backticks: its name, or the end of its path | some file of the tree that ends so |
//! | `protocol.md §2.4`, `docs/protocol.md §2.4` | a heading of that document that begins with the number |
//! | `pcidom(8)`, `pcidom.cfg(5)` | a page in `docs/man` |
//! | an address on the web | one of the hosts that are known to exist |

use crate::files::Files;

/// Files whose names are looked for when they stand in backticks.
const NAMED: [&str; 7] = [".rs", ".md", ".sh", ".service", ".ld", ".toml", ".json"];
/// Folders of build products, which are not in the tree.
const PRODUCTS: [&str; 2] = ["build/", "target/"];
/// Hosts that addresses may lead to, and the name that is kept for examples (RFC 2606).
const HOSTS: [&str; 6] =
    ["www.apache.org", "json-schema.org", "www.w3.org", "xenproject.org", "xenbits.xen.org", "rustup.rs"];
const EXAMPLES: &str = ".example";
/// The document whose sections are cited by number.
const PROTOCOL: &str = "protocol.md";

/// References that lead nowhere, a line each.
pub(crate) fn check(files: &Files) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| is_read(path)) {
        for (number, line) in (1..).zip(text.lines()) {
            let mut offend = |what: String| offences.push(format!("{path}:{number}: {what} leads nowhere"));
            if path.ends_with(".md") {
                links(line).filter(|link| !leads(files, path, link)).for_each(|link| offend(format!("({link})")));
            }
            hosts(line).for_each(|host| offend(format!("the address of {host}")));
            if path.ends_with(".rs") && !line.trim_start().starts_with("//") {
                continue;
            }
            named_files(line).filter(|name| !is_there(files, name)).for_each(|name| offend(format!("`{name}`")));
            sections(line)
                .filter(|section| !has_section(files, section))
                .for_each(|section| offend(format!("{PROTOCOL} §{section}")));
            pages(line)
                .filter(|(name, chapter)| !is_page(files, name, *chapter))
                .for_each(|(name, chapter)| offend(format!("{name}({chapter})")));
        }
    }
    offences
}

fn is_read(path: &str) -> bool {
    [".rs", ".md", ".toml", ".service", ".cfg"].iter().any(|end| path.ends_with(end)) || path == "Makefile"
}

/// Hosts of a line's addresses that are not known.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    let addresses = ["http://", "https://"].into_iter().flat_map(|scheme| line.split(scheme).skip(1));
    let hosts = addresses.map(|rest| {
        let end = rest.find(|letter: char| !(letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-')));
        rest.split_at(end.unwrap_or(rest.len())).0
    });
    hosts.filter(|host| !host.is_empty() && !HOSTS.contains(host) && !host.ends_with(EXAMPLES))
}

/// The targets of a line's links.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// Whether a document's link leads to a file, and to a heading where it names one. Addresses elsewhere are not looked up.
fn leads(files: &Files, document: &str, link: &str) -> bool {
    if link.contains("://") || link.starts_with("mailto:") {
        return true;
    }
    let (path, heading) = link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
    let target = if path.is_empty() { document.to_owned() } else { beside(document, path) };
    let is_folder = || files.keys().any(|file| file.starts_with(&format!("{}/", target.trim_end_matches('/'))));
    match (files.get(&target), heading) {
        (Some(text), Some(heading)) => headings(text).any(|title| anchor(title) == heading),
        (Some(_), None) => true,
        (None, _) => heading.is_none() && is_folder(),
    }
}

/// A path that is relative to a document's folder, from the root.
fn beside(document: &str, path: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

fn headings(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim())
}

/// Anchor of a heading: small letters, `-` for blanks, no punctuation.
fn anchor(title: &str) -> String {
    let letters = title.to_lowercase().replace(' ', "-");
    letters.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_')).collect()
}

/// Files that a line names in backticks. Absolute paths are a host's, and patterns no names.
fn named_files(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|word| {
        NAMED.iter().any(|end| word.ends_with(end))
            && !word.starts_with(['/', '.', '~'])
            && !PRODUCTS.iter().any(|product| word.starts_with(product))
            && word.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '/' | '.' | '-' | '_'))
    })
}

fn is_there(files: &Files, name: &str) -> bool {
    files.contains_key(name) || files.keys().any(|path| path.ends_with(&format!("/{name}")))
}

/// Numbers of sections that a line cites: one or several of the same document (`§5.1, §5.2`, `§4.2 and §6`, `§6.1 to §6.4`). What other document a
/// later `§` is of, is told before it.
fn sections(line: &str) -> impl Iterator<Item = &str> {
    line.split(PROTOCOL).skip(1).flat_map(|cited| {
        let mut rest = cited.trim_start_matches(['`', ')', ' ']);
        std::iter::from_fn(move || {
            let joined = [", and ", ", ", " and ", " to ", ""]
                .iter()
                .find_map(|word| rest.strip_prefix(word)?.strip_prefix('§'));
            let section = joined?;
            let end = section.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(section.len());
            let (number, behind) = section.split_at(end);
            rest = behind;
            Some(number.trim_end_matches('.'))
        })
    })
}

fn has_section(files: &Files, section: &str) -> bool {
    let text = files.iter().find(|(path, _)| path.ends_with(&format!("docs/{PROTOCOL}"))).map(|(_, text)| text);
    let is_it = |title: &str| title.split_whitespace().next().is_some_and(|word| word.trim_end_matches('.') == section);
    text.is_some_and(|text| headings(text).any(is_it))
}

/// Whether there is such a page, or what it is made of.
fn is_page(files: &Files, name: &str, chapter: char) -> bool {
    ["", ".in"].iter().any(|end| files.contains_key(&format!("docs/man/{name}.{chapter}{end}")))
}

/// Manual pages of ours that a line cites, with their chapters.
fn pages(line: &str) -> impl Iterator<Item = (&str, char)> {
    line.match_indices('(').filter_map(|(at, _)| {
        let (before, rest) = (line.get(..at)?, line.get(at + 1..)?);
        let start = before.rfind(|letter: char| !(letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_')));
        let name = before.get(start.map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8))..)?;
        let mut rest = rest.chars();
        let (chapter, end) = (rest.next()?, rest.next()?);
        (name.starts_with("pcidom") && chapter.is_ascii_digit() && end == ')').then_some((name, chapter))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(text: &str) -> Vec<String> {
        let files = [
            ("docs/a.md", text),
            ("docs/protocol.md", "# The protocol\n\n## 2. States\n\n### 2.4 Attach\n"),
            ("docs/man/pcidom.8.in", ""),
            ("toolstack/src/error.rs", ""),
        ];
        check(&files.map(|(path, text)| (path.to_owned(), text.to_owned())).into())
    }

    #[test]
    fn references_that_lead_somewhere_are_none_of_its_business() {
        let text = "# What it is\n[a](protocol.md), [b](../toolstack/src/error.rs), [c](#what-it-is), [d](protocol.md#24-attach), [e](man)\n\
                    [f](https://xenproject.org/x) `error.rs` `src/error.rs` `build/x.json` `/etc/x.toml` protocol.md §2.4, §2, pcidom(8)\n";
        assert_eq!(offences(text), [""; 0]);
    }

    #[test]
    fn each_kind_of_dangling_reference_is_found_with_its_place() {
        for (text, what) in [
            ("[a](b.md)", "docs/a.md:1: (b.md)"),
            ("[a](protocol.md#nothing)", "docs/a.md:1: (protocol.md#nothing)"),
            ("\nsee `errors.rs`", "docs/a.md:2: `errors.rs`"),
            ("docs/protocol.md §2.5", "docs/a.md:1: protocol.md §2.5"),
            ("(protocol.md §2.4 and §7, PCI 3.0 §8)", "docs/a.md:1: protocol.md §7"),
            ("see pcidom.fake(5)", "docs/a.md:1: pcidom.fake(5)"),
            (concat!("https", "://made.up/x"), "docs/a.md:1: the address of made.up"),
        ] {
            let found = offences(text);
            assert!(matches!(&found[..], [offence] if offence.starts_with(what)), "{text}: {found:?}");
        }
    }
}
