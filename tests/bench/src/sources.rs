//! Finds the Debian mirror that this machine already uses, so that the bench fetches from there and names no server itself.

use std::{fs, path::Path};

use anyhow::{Result, bail};

/// A mirror's addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// The archive proper.
    pub(crate) archive: String,
    /// Security updates, where the machine has them.
    pub(crate) security: Option<String>,
}

/// The variable that overrides what the machine's configuration says (and is needed on machines that are not Debian).
const OVERRIDE: &str = "DEBIAN_MIRROR";

const CODENAMES: [&str; 8] = ["bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable"];

impl Mirror {
    /// Reads `/etc/apt`.
    pub(crate) fn of_this_machine() -> Result<Self> {
        if let Ok(archive) = std::env::var(OVERRIDE) {
            return Ok(Self { archive, security: None });
        }
        let mut texts: Vec<(bool, String)> = Vec::new();
        if let Ok(text) = fs::read_to_string("/etc/apt/sources.list") {
            texts.push((false, text));
        }
        for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
            let path = entry.path();
            let deb822 = path.extension().is_some_and(|extension| extension == "sources");
            if deb822 || path.extension().is_some_and(|extension| extension == "list") {
                texts.push((deb822, fs::read_to_string(path)?));
            }
        }
        match Self::from_texts(&texts) {
            Some(mirror) => Ok(mirror),
            None => bail!("no Debian mirror in /etc/apt; set {OVERRIDE} to the address of one (it ends in /debian)"),
        }
    }

    /// Picks the first archive and the first security source out of `(is deb822, text)` files.
    fn from_texts(texts: &[(bool, String)]) -> Option<Self> {
        let sources =
            texts.iter().flat_map(|(deb822, text)| if *deb822 { parse_deb822(text) } else { parse_one_line(text) });
        let mut archive = None;
        let mut security = None;
        for Source { uri, suites } in sources {
            for suite in suites {
                let (codename, pocket) = suite.split_once(['-', '/']).unwrap_or((&suite, ""));
                match (CODENAMES.contains(&codename), pocket) {
                    (true, "") => archive.get_or_insert_with(|| uri.clone()),
                    (true, "security") => security.get_or_insert_with(|| uri.clone()),
                    _ => continue,
                };
            }
        }
        archive.map(|archive| Self { archive, security })
    }

    /// The source list for one suite of this mirror.
    pub(crate) fn source_list(&self, codename: &str) -> String {
        // On Debian apt trusts these keys anyway; elsewhere they have to be named.
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let options = if Path::new(keyring).exists() { format!("[signed-by={keyring}] ") } else { String::new() };
        let mut list = format!("deb {options}{} {codename} main\n", self.archive);
        if let Some(security) = &self.security {
            list += &format!("deb {options}{security} {codename}-security main\n");
        }
        list
    }
}

struct Source {
    uri: String,
    suites: Vec<String>,
}

/// `sources.list(5)`, "one-line-style": `deb [options] uri suite component…`.
fn parse_one_line(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let rest = match rest.trim_start().strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [uri, suite, components @ ..] = &words[..]
            && components.contains(&"main")
        {
            sources.push(Source { uri: (*uri).to_owned(), suites: vec![(*suite).to_owned()] });
        }
    }
    sources
}

/// `sources.list(5)`, "deb822-style": stanzas of `Field: value`.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let text: String = text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
    for stanza in text.split("\n\n") {
        let words = |field: &str| -> Vec<String> {
            let line = stanza.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        };
        if let Some(uri) = words("URIs").first()
            && words("Components").iter().any(|component| component == "main")
        {
            sources.push(Source { uri: uri.clone(), suites: words("Suites") });
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_archive_and_security_among_other_sources_in_both_styles() {
        let deb822 = "Types: deb\n# a comment\nURIs: http://vendor.example/deb\nSuites: nodistro\nComponents: main\n\n\
                      Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                      Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n";
        let one_line = "# deb http://old.example/debian bookworm main\n\
                        deb [arch=amd64 signed-by=/k.gpg] http://vendor.example/linux bookworm stable\n\
                        deb http://vendor.example/pg bookworm-pgdg main\n\
                        deb [arch=amd64] http://mirror.example/debian trixie main contrib\n\
                        deb http://mirror.example/debian-security trixie-security main\n";
        let expected = Mirror {
            archive: "http://mirror.example/debian".into(),
            security: Some("http://mirror.example/debian-security".into()),
        };
        assert_eq!(Mirror::from_texts(&[(true, deb822.into())]).as_ref(), Some(&expected));
        assert_eq!(Mirror::from_texts(&[(false, one_line.into())]).as_ref(), Some(&expected));
    }

    #[test]
    fn a_machine_without_debian_sources_has_no_mirror() {
        let text = "deb http://mirror.example/ubuntu noble main universe\n";
        assert_eq!(Mirror::from_texts(&[(false, text.into())]), None);
    }
}
