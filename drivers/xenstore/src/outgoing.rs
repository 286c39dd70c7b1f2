//! Requests on their way to the transport.

use alloc::vec::Vec;

use crate::wire::ReqId;

/// Encoded messages one behind the other, and where each ends.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    /// How much of `bytes` is sent already. Moved to the front only now and then, so that sending in small pieces (the
    /// ring has 1 KiB) does not copy the rest each time.
    sent: usize,
    /// Ids of the messages in order, and the unsent bytes of each.
    messages: Vec<(ReqId, usize)>,
}

impl Outgoing {
    pub(crate) fn push(&mut self, id: ReqId, header: &[u8], payload: &[u8]) {
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(payload);
        self.messages.push((id, header.len() + payload.len()));
    }

    /// Everything that is unsent.
    pub(crate) fn all(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// The unsent part of the oldest message.
    pub(crate) fn first_message(&self) -> &[u8] {
        let length = self.messages.first().map_or(0, |(_, unsent)| *unsent);
        self.all().get(..length).unwrap_or_default()
    }

    pub(crate) fn sent(&mut self, count: usize) {
        let mut count = count.min(self.all().len());
        self.sent += count;
        let mut done = 0;
        for (_, unsent) in &mut self.messages {
            let part = count.min(*unsent);
            *unsent -= part;
            count -= part;
            if *unsent > 0 {
                break;
            }
            done += 1;
        }
        self.messages.drain(..done);
        if self.sent * 2 >= self.bytes.len() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Takes back what is unsent of a message.
    pub(crate) fn cancel(&mut self, id: ReqId) {
        let mut start = self.sent;
        for (index, (owner, unsent)) in self.messages.iter().enumerate() {
            let end = start + unsent;
            if *owner == id {
                self.bytes.drain(start..end);
                self.messages.remove(index);
                return;
            }
            start = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Outgoing {
        let mut outgoing = Outgoing::default();
        outgoing.push(ReqId(1), b"fi", b"rst");
        outgoing.push(ReqId(2), b"sec", b"ond");
        outgoing.push(ReqId(3), b"third", b"");
        outgoing
    }

    #[test]
    fn sending_in_any_pieces_sends_everything_once() {
        for piece in 1..=17 {
            let (mut outgoing, mut seen) = (three(), Vec::new());
            while !outgoing.all().is_empty() {
                assert!(outgoing.all().starts_with(outgoing.first_message()));
                assert!(!outgoing.first_message().is_empty());
                let part = outgoing.all().iter().copied().take(piece).collect::<Vec<_>>();
                outgoing.sent(part.len());
                seen.extend(part);
            }
            assert_eq!(seen, b"firstsecondthird");
            assert_eq!(outgoing.first_message(), b"");
        }
    }

    #[test]
    fn claiming_more_than_there_is_sends_what_there_is() {
        let mut outgoing = three();
        outgoing.sent(usize::MAX);
        assert_eq!(outgoing.all(), b"");
        outgoing.push(ReqId(4), b"", b"next");
        assert_eq!(outgoing.first_message(), b"next");
    }

    #[test]
    fn cancelling_takes_the_rest_of_that_message_only() {
        let mut outgoing = three();
        outgoing.sent(2);
        outgoing.cancel(ReqId(2));
        assert_eq!(outgoing.all(), b"rstthird");
        outgoing.cancel(ReqId(1));
        assert_eq!(outgoing.first_message(), b"third");
        outgoing.cancel(ReqId(7));
        assert_eq!(outgoing.all(), b"third");
    }
}
