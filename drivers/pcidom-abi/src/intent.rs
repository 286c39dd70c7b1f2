//! Intent log: what a command is about to do, recorded before it begins, so that the next one can undo or finish it.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use xen_types::DomId;

use crate::Malformed;

/// Stands for nobody.
const NONE: &str = "-";

/// The value of [`crate::paths::intent_node`]: what happens to a device between dom0's drivers, xen-pciback and the stub. Of a device that is
/// on its way to or from a guest, [`crate::Phase`] says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It comes from this driver of dom0 (from xen-pciback, if it is parked already) and goes to the stub, if there is one. To be undone.
    Add {
        /// The driver's name, as in sysfs.
        from: Option<String>,
        /// The stub.
        stub: Option<DomId>,
    },
    /// It goes back to dom0. To be finished.
    Remove {
        /// Whether it goes back to the driver that it came from.
        rebind: bool,
    },
}

impl fmt::Display for Intent {
    /// `add 3 ahci`, `add - -`, `remove`, `remove rebind`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { from, stub } => {
                match stub {
                    Some(stub) => write!(f, "add {stub}")?,
                    None => write!(f, "add {NONE}")?,
                }
                write!(f, " {}", from.as_deref().unwrap_or(NONE))
            }
            Self::Remove { rebind: false } => f.write_str("remove"),
            Self::Remove { rebind: true } => f.write_str("remove rebind"),
        }
    }
}

impl FromStr for Intent {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "remove" => return Ok(Self::Remove { rebind: false }),
            "remove rebind" => return Ok(Self::Remove { rebind: true }),
            _ => {}
        }
        let known = |word: &str| (word != NONE).then(|| word.to_owned());
        let (stub, from) = text.strip_prefix("add ").and_then(|rest| rest.split_once(' ')).ok_or(Malformed)?;
        let stub = known(stub).map(|id| id.parse().map(DomId)).transpose().map_err(|_| Malformed)?;
        Ok(Self::Add { from: known(from), stub })
    }
}

/// The value of [`crate::paths::creation_node`]: how far `pcidom create` has come with a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreationProgress {
    /// It is being made, or taken down. To be undone, unless it was unpaused.
    Building,
    /// It has everything and is about to run. To be finished; once it runs there is no node.
    Running,
}

impl CreationProgress {
    /// The word in the node.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Running => "running",
        }
    }
}

impl fmt::Display for CreationProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CreationProgress {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        [Self::Building, Self::Running].into_iter().find(|progress| progress.name() == text).ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intents_read_back() {
        for (intent, text) in [
            (Intent::Add { from: Some("ahci".to_owned()), stub: Some(DomId(3)) }, "add 3 ahci"),
            (Intent::Add { from: Some("a b".to_owned()), stub: None }, "add - a b"),
            (Intent::Add { from: None, stub: None }, "add - -"),
            (Intent::Remove { rebind: false }, "remove"),
            (Intent::Remove { rebind: true }, "remove rebind"),
        ] {
            assert_eq!(intent.to_string(), text);
            assert_eq!(text.parse(), Ok(intent));
        }
        for text in ["", "add", "add 3", "add x ahci", "remove 3", "remove rebind now"] {
            assert_eq!(text.parse::<Intent>(), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn progress_reads_back() {
        for (progress, text) in [(CreationProgress::Building, "building"), (CreationProgress::Running, "running")] {
            assert_eq!(progress.to_string(), text);
            assert_eq!(text.parse(), Ok(progress));
        }
        assert_eq!("".parse::<CreationProgress>(), Err(Malformed));
    }
}
