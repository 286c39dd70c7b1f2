//! Finds the messages in a stream of bytes that arrives in pieces of any size.

use alloc::vec::Vec;
use core::mem;

use crate::error::ProtocolError;
use crate::wire::{HEADER_SIZE, Header, MAX_PAYLOAD, Message};

/// An incremental parser: a value that remembers how far into a message the stream is.
///
/// It holds at most one message, so a payload of at most `LONGEST` bytes, whatever is fed.
#[derive(Debug, Default)]
pub struct Parser<const LONGEST: usize = MAX_PAYLOAD> {
    state: State,
}

#[derive(Debug)]
enum State {
    Header { bytes: [u8; HEADER_SIZE], filled: usize },
    Payload { header: Header, missing: usize, payload: Vec<u8> },
    Poisoned(ProtocolError),
}

impl Default for State {
    fn default() -> Self {
        Self::Header { bytes: [0; HEADER_SIZE], filled: 0 }
    }
}

impl Parser {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<const LONGEST: usize> Parser<LONGEST> {
    /// Takes bytes off the front of `input` until a message is complete, and gives it. `None`: the input is used up and
    /// more is needed.
    ///
    /// # Errors
    /// The stream has lost its framing. Every later call says the same; a new connection needs a new parser.
    pub fn next_message(&mut self, input: &mut &[u8]) -> Result<Option<Message>, ProtocolError> {
        loop {
            match &mut self.state {
                State::Header { bytes, filled } => {
                    let place = bytes.get_mut(*filled..).unwrap_or_default();
                    let taken = take(input, place.len());
                    if let Some(place) = place.get_mut(..taken.len()) {
                        place.copy_from_slice(taken);
                    }
                    *filled += taken.len();
                    if *filled < HEADER_SIZE {
                        return Ok(None);
                    }
                    self.state = State::after_header(Header::decode(*bytes), LONGEST);
                }
                State::Payload { header, missing, payload } => {
                    let taken = take(input, *missing);
                    payload.extend_from_slice(taken);
                    *missing -= taken.len();
                    if *missing > 0 {
                        return Ok(None);
                    }
                    let message = Message {
                        kind: header.kind,
                        req_id: header.req_id,
                        tx_id: header.tx_id,
                        payload: mem::take(payload),
                    };
                    self.state = State::default();
                    return Ok(Some(message));
                }
                State::Poisoned(error) => return Err(*error),
            }
        }
    }
}

impl State {
    fn after_header(header: Header, longest: usize) -> Self {
        match usize::try_from(header.length) {
            Ok(missing) if missing <= longest => {
                Self::Payload { header, missing, payload: Vec::with_capacity(missing) }
            }
            _ => Self::Poisoned(ProtocolError::Oversize(header.length)),
        }
    }
}

/// Takes up to `count` bytes off the front.
fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    taken
}
