//! The stages of taking over what a life before a restart in place has left (`docs/restart.md`).

/// The stages, one after the other. A first life has nothing to take over: it begins with the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adoption {
    /// The frontends are being listed.
    Listing,
    /// Each takes over what it had, those first that wait for an answer. Of the pool only their devices are looked at.
    Frontends,
    /// The rest of the pool is looked at; so often it was, and something of it could not be read.
    Pool { looks: u8 },
    /// All have, and what was left is given up.
    Done,
}

impl Adoption {
    /// Whether devices and frontends are still to be taken as the life before had them.
    pub(crate) const fn is_under_way(self) -> bool {
        !matches!(self, Self::Done)
    }

    /// Whether a frontend that is found now may have something to take over.
    pub(crate) const fn is_before_pool(self) -> bool {
        matches!(self, Self::Listing | Self::Frontends)
    }
}

/// Whether a frontend may take over what it had. Few do so at a time: what xenstored is asked for one, another waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It waits for its turn.
    Waits,
    /// It is at it.
    Has,
    /// It could not: it tries again by itself, and nobody waits for it.
    Failed,
}
