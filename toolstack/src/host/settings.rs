//! The settings file for all commands (`docs/pcidom.md`, "Files and environment").
//!
//! One `KEY = VALUE` a line; `#` begins a comment. An unknown key is reported and ignored: the file may be for a later
//! release. A bad value is an error.

use std::io;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, HostError};

/// Where the admin keeps it.
pub(crate) const FILE: &str = "/etc/pcidom/pcidom.conf";

/// Domains that the audit searches after a detach (`docs/audit.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Audit {
    /// The guest that had it.
    #[default]
    Guest,
    /// Every PV guest of the host.
    All,
    /// Nobody: guests are trusted.
    Nobody,
}

impl FromStr for Audit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "guest" => Ok(Self::Guest),
            "all" => Ok(Self::All),
            "none" => Ok(Self::Nobody),
            _ => Err(format!("want guest, all or none, not {text:?}")),
        }
    }
}

/// All of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) audit: Audit,
}

/// Settings from the file, and notes for the user. Defaults if there is no file.
pub(crate) fn load(path: &Path) -> Result<(Settings, Vec<String>), Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(HostError::File { path: path.to_owned(), source }.into()),
    };
    parse(&text, &path.display().to_string())
}

pub(crate) fn parse(text: &str, source: &str) -> Result<(Settings, Vec<String>), Error> {
    let (mut settings, mut notes) = (Settings::default(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        let fail = |what: String| Error::Config { place: format!("{source}:{number}"), what };
        if line.is_empty() {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| fail(format!("{line:?} is no KEY = VALUE")))?;
        match key.trim() {
            // Read by who puts them into the pool (`records/configured_devices.rs`).
            "device" => {}
            "audit" => settings.audit = value.trim().parse().map_err(|error| fail(format!("audit: {error}")))?,
            key => notes.push(format!("{source}:{number}: there is no setting {key:?}")),
        }
    }
    Ok((settings, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(text: &str) -> Audit {
        let (settings, notes) = parse(text, "pcidom.conf").unwrap();
        assert_eq!(notes, [""; 0]);
        settings.audit
    }

    #[test]
    fn settings_are_read_with_their_comments_and_blanks() {
        for text in ["", "\n  \n", "# audit = all\n", "audit = guest", "audit=all\naudit=guest # the last one counts"] {
            assert_eq!(audit(text), Audit::Guest, "{text:?}");
        }
        assert_eq!(audit("\n\t audit  =  all  \n"), Audit::All);
        assert_eq!(audit("audit=none#whoever"), Audit::Nobody);
        assert_eq!(load(Path::new("/nonexistent/pcidom.conf")).unwrap().0, Settings::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let error = |text| parse(text, "pcidom.conf").unwrap_err().to_string();
        assert_eq!(error("audit = al"), "pcidom.conf:1: audit: want guest, all or none, not \"al\"");
        assert_eq!(error("\naudit"), "pcidom.conf:2: \"audit\" is no KEY = VALUE");
        let (settings, notes) = parse("audit = all\ncolour = red\n", "pcidom.conf").unwrap();
        assert_eq!(settings.audit, Audit::All);
        assert_eq!(notes, ["pcidom.conf:2: there is no setting \"colour\""]);
    }
}
