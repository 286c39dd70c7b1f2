//! Panic handler of a guest.

/// What the guest's kernel cannot go on from: it panics, or waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panic(pub &'static str);
