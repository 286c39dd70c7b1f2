//! What a frontend may have us do: each look at its nodes that it causes, and each device that moves for it, is paid for.

use xenstore::XenbusState::{Connected, Reconfigured, Reconfiguring};

use crate::handshake::{Nodes, Peer};
use crate::rate::TokenBucket;

/// Looks at its nodes that a frontend may cause at once, and how often after that. Reading them takes about a millisecond, and
/// a handshake needs a dozen.
const LOOKS: TokenBucket = TokenBucket::new(128, 100_000_000);
/// Largest debt, so that the toolstack waits for this frontend's changes for a few seconds at most.
const MAX_DEBT: u32 = 64;

/// Looks that may come to nothing one after the other, because others changed the nodes meanwhile, before the next one waits: 1 ms, and each time twice
/// as long.
const RACES: u32 = 8;
/// The longest of these waits is 2 to the power of this, milliseconds.
const LONGEST_RACE: u32 = 9;

/// Accounts the work done for one frontend: who caused it, and the frontend's debt.
pub(crate) struct Pacing {
    /// The frontend has touched its `state` since the last look.
    pub(crate) is_touched: bool,
    /// The current work on its nodes was caused by the frontend itself: it was not asked for its state.
    is_at_work: bool,
    /// Looks that it has caused and not paid for.
    debt: u32,
    looks: TokenBucket,
    /// Looks, one after the other, that came to nothing.
    races: u32,
    /// Its side when it was last looked at.
    last_peer: Option<Peer>,
}

impl Pacing {
    /// Nothing was done yet.
    pub(crate) const NEW: Self =
        Self { is_touched: false, is_at_work: false, debt: 0, looks: LOOKS, races: 0, last_peer: None };

    /// Pays what it owes, or says when it can.
    pub(crate) fn may_look(&mut self, now_ns: u64) -> Result<(), u64> {
        while let Some(left) = self.debt.checked_sub(1) {
            self.looks.take(now_ns)?;
            self.debt = left;
        }
        Ok(())
    }

    /// A look came to nothing, because the nodes changed meanwhile: how long to wait before the next one, nanoseconds. Whoever changes them, he has
    /// neither us nor xenstored do nothing else.
    pub(crate) fn raced(&mut self) -> u64 {
        self.races += 1;
        self.races.checked_sub(RACES).map_or(0, |more| 1_000_000 << more.min(LONGEST_RACE))
    }

    /// A look came to something.
    pub(crate) const fn kept_pace(&mut self) {
        self.races = 0;
    }

    /// It owes nothing.
    pub(crate) const fn forgive(&mut self) {
        self.debt = 0;
    }

    /// A piece of work, which the frontend pays for if it has caused it.
    pub(crate) fn charge(&mut self) {
        self.debt = (self.debt + u32::from(self.is_at_work)).min(MAX_DEBT);
    }

    /// All is as it should be: what comes next has a cause of its own.
    pub(crate) const fn settled(&mut self) {
        self.is_at_work = false;
    }

    /// A look at the nodes, which it pays for if it has caused it. True where its side has changed since the last one.
    pub(crate) fn observe(&mut self, nodes: &Nodes) -> bool {
        let is_news = self.last_peer.replace(nodes.peer) != Some(nodes.peer);
        if core::mem::take(&mut self.is_touched) || is_news {
            // What we had asked for is the toolstack's doing.
            let is_answer = matches!(
                (nodes.own, nodes.peer.state),
                (Some(Reconfiguring), Some(Reconfiguring)) | (Some(Reconfigured), Some(Connected))
            );
            self.is_at_work = !(is_news && is_answer);
        }
        self.charge();
        is_news
    }
}
