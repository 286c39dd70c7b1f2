//! The stages of taking over what a life before a restart in place has left (`docs/restart.md`).

/// The stages, one after the other. A first life has nothing to take over: it begins with the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// The pool is looked at; so often it was, and something of it could not be read. No frontend is looked at yet.
    Pool { looks: u8 },
    /// The frontends are being listed.
    Listing,
    /// Each takes over what it had.
    Frontends,
    /// All have, and what was left is given up.
    Done,
}

impl Adoption {
    /// Whether devices and frontends are still to be taken as the life before had them.
    pub(crate) const fn is_under_way(self) -> bool {
        !matches!(self, Self::Done)
    }
}
