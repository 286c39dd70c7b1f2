//! The `state` node of a device in the pool, written by the stub.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use core::fmt;

use xen_types::DomId;
use xenstore::number;

/// The value of `pool/BDF/state`. The tool writes [`PoolState::New`], the stub everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// The stub has not looked at the device since it was described or came back: it is to look at it anew.
    New,
    /// Here, and fit to be assigned.
    Free,
    /// Assigned to this guest. Written in the transaction in which the stub takes the device.
    Assigned(DomId),
    /// Assigned to this guest, and not there any more: it reads all ones.
    Absent(DomId),
    /// It cannot be used: the reason, one line for people.
    Refused(String),
    /// The stub has let go of it, as `online` asked.
    Released,
    /// No node, or a word of a newer contract: the text as it is.
    Unknown(String),
}

impl PoolState {
    /// The first word of the node; empty for [`PoolState::Unknown`].
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Free => "free",
            Self::Assigned(_) => "assigned",
            Self::Absent(_) => "absent",
            Self::Refused(_) => "refused",
            Self::Released => "released",
            Self::Unknown(_) => "",
        }
    }

    /// The guest in the node's value, and whether the device is absent: what [`PoolState::parse`] says in [`PoolState::Assigned`] and
    /// [`PoolState::Absent`], in a fraction of its size for the stub.
    #[must_use]
    pub fn holder(value: &[u8]) -> Option<(DomId, bool)> {
        let is_absent = value.starts_with(b"absent ");
        let guest = value.strip_prefix(if is_absent { &b"absent "[..] } else { b"assigned " })?;
        let guest = number::decimal(guest).ok()?;
        Some((DomId(u16::try_from(guest).ok()?), is_absent))
    }

    /// Reads the node's value; the empty text where there is none.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let guest = || rest.parse().map(DomId);
        let states = [Self::New, Self::Free, Self::Released, Self::Refused(rest.to_owned())];
        if let Some(state) = states.into_iter().find(|state| state.word() == word) {
            return state;
        }
        match guest() {
            Ok(guest) if word == Self::Assigned(guest).word() => Self::Assigned(guest),
            Ok(guest) if word == Self::Absent(guest).word() => Self::Absent(guest),
            _ => Self::Unknown(text.to_owned()),
        }
    }

    /// The node's value.
    #[must_use]
    pub fn text(&self) -> String {
        let word = self.word();
        match self {
            Self::Assigned(guest) | Self::Absent(guest) => format!("{word} {guest}"),
            Self::Refused(reason) => format!("{word} {reason}"),
            Self::Unknown(text) => text.clone(),
            Self::New | Self::Free | Self::Released => word.to_owned(),
        }
    }

    /// The guest that the stub has assigned the device to, there or not.
    #[must_use]
    pub const fn guest(&self) -> Option<DomId> {
        match self {
            Self::Assigned(guest) | Self::Absent(guest) => Some(*guest),
            _ => None,
        }
    }
}

impl fmt::Display for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back() {
        for (state, text) in [
            (PoolState::New, "new"),
            (PoolState::Free, "free"),
            (PoolState::Assigned(DomId(5)), "assigned 5"),
            (PoolState::Absent(DomId(65535)), "absent 65535"),
            (PoolState::Refused("it is a bridge: no".to_owned()), "refused it is a bridge: no"),
            (PoolState::Released, "released"),
        ] {
            assert_eq!(state.to_string(), text);
            assert_eq!(PoolState::parse(text), state);
        }
    }

    #[test]
    fn other_words_are_kept_as_they_are() {
        for text in ["", "gone", "assigned", "assigned x", "absent 70000", "Free"] {
            let state = PoolState::parse(text);
            assert_eq!(state, PoolState::Unknown(text.to_owned()));
            assert_eq!((state.to_string(), state.guest()), (text.to_owned(), None));
        }
    }
}
