//! Xenbus states.

use core::fmt;

use crate::number;

/// `enum xenbus_state` (`xen/include/public/io/xenbus.h`), used for `state` and for `state-N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XenbusState {
    /// No such node, or nonsense in it.
    #[default]
    Unknown = 0,
    /// Made by the toolstack, its driver has not looked at it.
    Initialising = 1,
    /// The backend waits for information from the frontend or the toolstack.
    InitWait = 2,
    /// Has published its details and waits for the other end.
    Initialised = 3,
    /// In use.
    Connected = 4,
    /// Wants to stop, or has failed.
    Closing = 5,
    /// Holds nothing any more.
    Closed = 6,
    /// The set of devices is changing.
    Reconfiguring = 7,
    /// The set of devices has changed.
    Reconfigured = 8,
}

impl XenbusState {
    /// All of them in order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Initialising,
        Self::InitWait,
        Self::Initialised,
        Self::Connected,
        Self::Closing,
        Self::Closed,
        Self::Reconfiguring,
        Self::Reconfigured,
    ];

    /// Reads a node's value; nonsense is [`XenbusState::Unknown`], as for Linux. For a node that may be missing:
    /// `value.map(XenbusState::parse).unwrap_or_default()`.
    #[must_use]
    pub fn parse(value: impl AsRef<[u8]>) -> Self {
        number::decimal(value).map(Self::from_number).unwrap_or_default()
    }

    /// The state with this number; [`XenbusState::Unknown`] where there is none.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        let index = usize::try_from(number).ok();
        index.and_then(|index| Self::ALL.get(index)).copied().unwrap_or_default()
    }

    /// The number that the node holds.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The number's text, to write into the node.
    #[must_use]
    pub const fn digit(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
            Self::Reconfiguring => "7",
            Self::Reconfigured => "8",
        }
    }

    /// Xen's word for it, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Initialising => "Initialising",
            Self::InitWait => "InitWait",
            Self::Initialised => "Initialised",
            Self::Connected => "Connected",
            Self::Closing => "Closing",
            Self::Closed => "Closed",
            Self::Reconfiguring => "Reconfiguring",
            Self::Reconfigured => "Reconfigured",
        }
    }
}

impl fmt::Display for XenbusState {
    /// As in the node: the decimal digit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.digit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back() {
        for (number, state) in (0..).zip(XenbusState::ALL) {
            assert_eq!(state.number(), number);
            assert_eq!(state.to_string(), number.to_string());
            assert_eq!(XenbusState::parse(state.digit()), state);
            assert_eq!(XenbusState::from_number(number.into()), state);
            assert_eq!(format!("{state:?}"), state.name());
        }
        assert_eq!(XenbusState::parse("4\0"), XenbusState::Connected);
    }

    #[test]
    fn missing_and_nonsense_are_unknown() {
        for value in ["", "9", "-1", "+4", "4 4", "four", "4294967300", "18446744073709551620"] {
            assert_eq!(XenbusState::parse(value), XenbusState::Unknown, "{value:?}");
        }
        assert_eq!(None::<&[u8]>.map(XenbusState::parse).unwrap_or_default(), XenbusState::Unknown);
    }
}
