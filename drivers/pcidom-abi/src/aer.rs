//! The `aer` node of a device in the pool: an error of the device that its guest is to be told of, and what the guest answers.
//!
//! The tool writes what is to be told, the stub says that the guest was notified, and then what it has answered. The tool removes the node when it has
//! no more to tell.

use core::fmt;

use pciif::{ChannelState, Command, ErrorResult};
use xenstore::number;

/// The node's value, a decimal number. Ten and more: a notification, ten times the command and the state of the channel. 0: the guest is notified. Others:
/// its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AerValue(u8);

impl AerValue {
    /// The guest is notified, and has not answered yet.
    pub const NOTIFIED: Self = Self(0);
    /// The device is to be as if it were gone, which its guest is told. The answer is [`ErrorResult::Disconnect`], at once.
    pub const ISOLATE: Self = Self::notification(Command::AerDetected, ChannelState::PermanentFailure);
    /// The guest's answer is none, or it was lost in a restart.
    const UNUSABLE: Self = Self(9);

    /// To be told to the guest.
    #[must_use]
    pub const fn notification(command: Command, state: ChannelState) -> Self {
        // Both have one digit.
        Self(command as u8 * 10 + state as u8)
    }

    /// Command and state of a notification, as numbers.
    #[must_use]
    pub fn as_notification(self) -> Option<(u32, u32)> {
        (self.0 >= 10).then(|| (u32::from(self.0 / 10), u32::from(self.0 % 10)))
    }

    /// What a guest has answered; it may have said anything.
    #[must_use]
    pub fn answer(result: u32) -> Self {
        match u8::try_from(result) {
            Ok(result @ 1..=6) => Self(result),
            _ => Self::UNUSABLE,
        }
    }

    /// What the guest has answered, if this is an answer, and if it means anything.
    #[must_use]
    pub fn as_answer(self) -> Option<Option<ErrorResult>> {
        matches!(self.0, 1..=9).then(|| ErrorResult::from_raw(self.0.into()))
    }

    /// The same as bytes of the node, for values that the stub writes.
    #[must_use]
    pub const fn digit(self) -> [u8; 1] {
        [b'0' + self.0 % 10]
    }

    /// Reads the node's value; `None` where it makes no sense.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        Some(Self(u8::try_from(number::decimal(value).ok()?).ok()?))
    }
}

impl fmt::Display for AerValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_and_answers_read_back() {
        let frozen = AerValue::notification(Command::AerDetected, ChannelState::Frozen);
        assert_eq!((frozen.to_string().as_str(), frozen.as_notification()), ("62", Some((6, 2))));
        assert_eq!(AerValue::parse(b"62"), Some(frozen));
        assert_eq!(AerValue::ISOLATE.to_string(), "63");
        let reset = AerValue::notification(Command::AerSlotReset, ChannelState::Normal);
        assert_eq!((reset.to_string().as_str(), reset.as_answer()), ("91", None));
        assert_eq!((AerValue::NOTIFIED.as_answer(), AerValue::NOTIFIED.as_notification()), (None, None));
        for result in ErrorResult::ALL {
            let answer = AerValue::answer(result as u32);
            assert_eq!(AerValue::parse(&answer.digit()), Some(answer));
            assert_eq!((answer.as_answer(), answer.as_notification()), (Some(Some(result)), None));
        }
    }

    #[test]
    fn a_guest_may_answer_anything_and_a_node_may_say_anything() {
        for result in [0, 7, 99, u32::MAX] {
            assert_eq!(AerValue::answer(result).as_answer(), Some(None));
            assert_eq!(AerValue::answer(result).digit(), *b"9");
        }
        for value in ["", "x", "256", "-1", "4294967296"] {
            assert_eq!(AerValue::parse(value.as_bytes()), None, "{value}");
        }
    }
}
