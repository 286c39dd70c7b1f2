//! Taking over what a life before a restart in place has left (`docs/restart.md`): what leads from one stage to the next.

use alloc::rc::Rc;

use super::Core;
use super::adoption_stage::Adoption;
use crate::platform::Platform;

/// Looks at a pool of which something cannot be read, before it is taken as it is.
const POOL_LOOKS: u8 = 3;

impl<P: Platform> Core<P> {
    /// True once in a life that is not the first: xenstored is to forget the watches and transactions of the life before.
    pub(crate) fn take_reset(&mut self) -> bool {
        let is_first = self.adoption == Adoption::Watched;
        if is_first {
            self.adoption = Adoption::Pool { looks: 0 };
        }
        is_first
    }

    /// Whether frontends wait for the pool.
    pub(crate) const fn is_pool_first(&self) -> bool {
        matches!(self.adoption, Adoption::Watched | Adoption::Pool { .. })
    }

    /// The pool was looked at: it is the frontends' turn, if nothing of it is missing, or is missing for good.
    pub(crate) fn has_looked_at_pool(&mut self, is_whole: bool) {
        let Adoption::Pool { looks } = self.adoption else { return };
        if is_whole || looks == POOL_LOOKS {
            self.adoption = Adoption::Listing;
            self.list_backends.raise();
        } else {
            self.adoption = Adoption::Pool { looks: looks + 1 };
            self.pool.look_at_all_later();
            let signal = Rc::clone(&self.pool.signal);
            self.raise_later(&signal);
        }
    }

    /// All frontends are known.
    pub(crate) fn has_listed(&mut self) {
        if self.adoption == Adoption::Listing {
            self.adoption = Adoption::Frontends;
        }
        self.end_adoption();
    }

    /// Ends it when all frontends have taken over what they had.
    pub(crate) fn end_adoption(&mut self) {
        if self.adoption == Adoption::Frontends && self.frontends.iter().all(|frontend| !frontend.state.is_adopting) {
            self.adoption = Adoption::Done;
            self.pool.end_adoption(&mut self.broker);
            self.platform.forget_unclaimed();
        }
    }
}
