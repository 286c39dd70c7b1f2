//! Taking over what a life before a restart in place has left (`docs/restart.md`): what leads from one stage to the next.

use alloc::rc::Rc;

use xenstore::{Request, TxId};

use super::Core;
use super::adoption_stage::Adoption;
use super::watches::QUERY_WATCH;
use crate::platform::Platform;

/// Looks at a pool of which something cannot be read, before it is taken as it is.
const POOL_LOOKS: u8 = 3;

impl<P: Platform> Core<P> {
    /// In a life that is not the first: has xenstored forget the watches and transactions of the life before, and looks at the pool. False in the first.
    pub(crate) fn begin_adoption(&mut self) -> bool {
        let is_under_way = self.adoption.is_under_way();
        if is_under_way {
            self.tell(TxId::NONE, &Request::ResetWatches);
            // The broker may ask meanwhile whether the image hangs.
            let (path, token) = QUERY_WATCH;
            self.tell(TxId::NONE, &Request::Watch { path, token });
            self.pool.look_at_all();
        }
        is_under_way
    }

    /// Whether frontends wait for the pool.
    pub(crate) const fn is_pool_first(&self) -> bool {
        matches!(self.adoption, Adoption::Pool { .. })
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
            self.adopted.raise();
        }
    }
}
