//! Bounded queue of watch events.

use alloc::string::String;
use alloc::vec::Vec;
use core::str;

/// Something changed at or below a watched node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The node that changed; relative if the watch was set on a relative path.
    pub path: String,
    /// As given when the watch was set.
    pub token: String,
}

impl WatchEvent {
    /// Reads the payload of a WATCH_EVENT: two strings, each with a NUL behind it.
    pub(crate) fn decode(payload: &[u8]) -> Option<(&str, &str)> {
        let mut parts = payload.strip_suffix(&[0])?.split(|byte| *byte == 0);
        let (path, token) = (parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        Some((str::from_utf8(path).ok()?, str::from_utf8(token).ok()?))
    }
}

/// Result of queueing an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queued {
    New,
    Coalesced,
    Overflowed,
}

/// Events in order of arrival, no two the same: a second one would tell nothing new, since readers look at the node as it is
/// then. A guest can make any number of different ones, so what does not fit is only remembered as "something was lost".
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    /// The payloads of the messages, which are events.
    events: Vec<Vec<u8>>,
    bytes: usize,
    overflowed: bool,
}

impl EventQueue {
    pub(crate) const MAX_EVENTS: usize = 1024;
    /// Paths can be 3 KiB long, and a domain can have as little as 1 MiB of memory.
    pub(crate) const MAX_BYTES: usize = 64 * 1024;

    pub(crate) fn push(&mut self, payload: Vec<u8>) -> Queued {
        if self.events.contains(&payload) {
            return Queued::Coalesced;
        }
        let bytes = self.bytes + payload.len();
        if self.events.len() >= Self::MAX_EVENTS || bytes > Self::MAX_BYTES {
            self.overflowed = true;
            return Queued::Overflowed;
        }
        self.bytes = bytes;
        self.events.push(payload);
        Queued::New
    }

    pub(crate) fn pop(&mut self) -> Option<WatchEvent> {
        if self.events.is_empty() {
            return None;
        }
        let payload = self.events.remove(0);
        self.bytes -= payload.len();
        let (path, token) = WatchEvent::decode(&payload)?;
        Some(WatchEvent { path: path.into(), token: token.into() })
    }

    pub(crate) fn take_overflowed(&mut self) -> bool {
        core::mem::take(&mut self.overflowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &str, token: &str) -> Vec<u8> {
        format!("{path}\0{token}\0").into_bytes()
    }

    #[test]
    fn equal_events_are_queued_once_and_again_after_they_were_taken() {
        let mut queue = EventQueue::default();
        assert_eq!(queue.push(event("a", "t")), Queued::New);
        assert_eq!(queue.push(event("a", "u")), Queued::New);
        assert_eq!(queue.push(event("a", "t")), Queued::Coalesced);
        assert_eq!(queue.pop(), Some(WatchEvent { path: "a".into(), token: "t".into() }));
        assert_eq!(queue.push(event("a", "t")), Queued::New);
        assert_eq!(queue.pop().map(|event| event.token), Some("u".into()));
        assert_eq!(queue.pop().map(|event| event.token), Some("t".into()));
        assert_eq!(queue.pop(), None);
        assert!(!queue.take_overflowed());
    }

    #[test]
    fn too_many_events_leave_a_mark_once() {
        let mut queue = EventQueue::default();
        for number in 0..EventQueue::MAX_EVENTS {
            assert_eq!(queue.push(event(&number.to_string(), "t")), Queued::New);
        }
        assert_eq!(queue.push(event("one more", "t")), Queued::Overflowed);
        assert_eq!(queue.push(event("0", "t")), Queued::Coalesced);
        assert!(queue.take_overflowed());
        assert!(!queue.take_overflowed());
        assert_eq!(queue.pop().map(|event| event.path), Some("0".into()));
        assert_eq!(queue.push(event("one more", "t")), Queued::New);
    }

    #[test]
    fn long_paths_are_bounded_by_their_bytes_and_give_the_room_back() {
        let mut queue = EventQueue::default();
        let long = |number: usize| format!("{number:03072}");
        let fits = EventQueue::MAX_BYTES / 3073;
        for round in 0..3 {
            for number in 0..fits {
                assert_eq!(queue.push(event(&long(round * fits + number), "t")), Queued::New);
            }
            assert_eq!(queue.push(event(&long(usize::MAX), "t")), Queued::Overflowed);
            while queue.pop().is_some() {}
        }
    }

    #[test]
    fn only_two_ended_strings_are_an_event() {
        assert_eq!(WatchEvent::decode(b"backend/pci\0be\0"), Some(("backend/pci", "be")));
        assert_eq!(WatchEvent::decode(b"\0\0"), Some(("", "")));
        for payload in [&b""[..], b"a", b"a\0", b"a\0b", b"a\0b\0c\0", b"a\0\xff\0"] {
            assert_eq!(WatchEvent::decode(payload), None, "{payload:?}");
        }
    }
}
