//! What each part says of itself, and who understands whom (`docs/protocol.md`, "Versions of the parts").

use alloc::string::String;
use core::cmp::Ordering;
use core::fmt;

macro_rules! contract {
    () => {
        1
    };
}

/// Which contract this is. It is raised when a part that knows the former one would misread a node, a path or a request; an addition that
/// the other parts can ignore does not raise it. `tests/contract.rs` holds a copy of the contract, so that a change of it is noticed.
pub const VERSION: u32 = contract!();

/// What the parts of this release announce: the release and the contract.
pub const ANNOUNCEMENT: &str = concat!(env!("CARGO_PKG_VERSION"), " contract ", contract!());

/// Stands between the release and the number of the contract.
const CONTRACT: &str = " contract ";

/// The contract of parts that name none: releases before the first that did.
const UNNAMED: u32 = 1;

/// Letters of a release that are kept.
const LONGEST: usize = 40;

/// What a part announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartVersion {
    /// Its release, for people.
    pub release: String,
    /// Its contract; none where what stands there is no number.
    pub contract: Option<u32>,
}

/// Whether a part understands this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It has the same contract.
    Same,
    /// It has an older one.
    Older,
    /// It has a newer one, or says which in a way that is not known here.
    Newer,
}

impl PartVersion {
    /// Reads an announcement. A stub may write anything: what a terminal could take for more than text is left out of the release.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (release, contract) = match text.split_once(CONTRACT) {
            Some((release, contract)) => (release, contract.parse().ok()),
            None => (text, Some(UNNAMED)),
        };
        Self { release: release.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect(), contract }
    }

    /// Of this program.
    #[must_use]
    pub fn own() -> Self {
        Self::parse(ANNOUNCEMENT)
    }

    /// Whether the part fits one of the contract `ours`, which is [`VERSION`] but in tests.
    #[must_use]
    pub fn fit(&self, ours: u32) -> Fit {
        match self.contract.map(|theirs| theirs.cmp(&ours)) {
            Some(Ordering::Equal) => Fit::Same,
            Some(Ordering::Less) => Fit::Older,
            Some(Ordering::Greater) | None => Fit::Newer,
        }
    }
}

impl fmt::Display for PartVersion {
    /// `0.1.0 (contract 1)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.contract {
            Some(contract) => write!(f, "{} (contract {contract})", self.release),
            None => write!(f, "{} (contract unknown)", self.release),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_fits_one_of_the_same_contract() {
        for (text, release, ours, fit) in [
            ("0.1.0 contract 1", "0.1.0", 1, Fit::Same),
            ("9.9.9 contract 2", "9.9.9", 2, Fit::Same),
            ("0.1.0 contract 1", "0.1.0", 2, Fit::Older),
            ("9.9.9 contract 2", "9.9.9", 1, Fit::Newer),
            // Releases that named none had the first.
            ("0.0.9", "0.0.9", 1, Fit::Same),
            ("0.0.9", "0.0.9", 2, Fit::Older),
            ("9.9.9 contract two", "9.9.9", 2, Fit::Newer),
            ("9.9.9 contract 1 ", "9.9.9", 1, Fit::Newer),
            ("", "", 1, Fit::Same),
        ] {
            let version = PartVersion::parse(text);
            assert_eq!((version.release.as_str(), version.fit(ours)), (release, fit), "{text:?}");
        }
    }

    #[test]
    fn the_announcement_is_of_this_release_and_contract() {
        let version = PartVersion::own();
        assert_eq!(version.release, env!("CARGO_PKG_VERSION"));
        assert_eq!((version.contract, version.fit(VERSION)), (Some(VERSION), Fit::Same));
        assert_eq!(PartVersion::parse("2.0 contract 7").to_string(), "2.0 (contract 7)");
        assert_eq!(PartVersion::parse("2.0 contract x").to_string(), "2.0 (contract unknown)");
        assert_eq!(PartVersion::parse("2\u{1b}[31m.0\n").release, "2[31m.0");
        assert_eq!(PartVersion::parse(&"9".repeat(1000)).release.len(), LONGEST);
    }
}
