//! Panic handler of a guest.

/// A panic or an endless wait of the guest's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panic(pub &'static str);
