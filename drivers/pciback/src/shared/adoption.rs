//! Taking over what a life before a restart in place has left (`docs/restart.md`): what leads from one stage to the next.

use alloc::rc::Rc;

use xen_types::{DomId, Sbdf};
use xenstore::{Request, TxId};

use super::Core;
use super::adoption_stage::{Adoption, Turn};
use super::watches::QUERY_WATCH;
use crate::frontend::Frontend;
use crate::platform::Platform;
use crate::pool::LOOKS;

/// Frontends that take over at the same time. While one waits for xenstored the other's questions are under way.
const TURNS: usize = 2;

impl<P: Platform> Core<P> {
    /// In a life that is not the first: has xenstored forget the watches and transactions of the life before, and lists the frontends. False in the first.
    pub(crate) fn begin_adoption(&mut self) -> bool {
        let is_under_way = self.adoption.is_under_way();
        if is_under_way {
            self.tell(TxId::NONE, &Request::ResetWatches);
            // The broker may ask meanwhile whether the image hangs.
            let (path, token) = QUERY_WATCH;
            self.tell(TxId::NONE, &Request::Watch { path, token });
            self.list_backends.raise();
        }
        is_under_way
    }

    /// All frontends are known.
    pub(crate) fn has_listed(&mut self) {
        if self.adoption == Adoption::Listing {
            self.adoption = Adoption::Frontends;
        }
        self.has_adopted();
    }

    /// A frontend has taken over what it had, or is gone, or could not: it is another's turn. When all have, the rest of the pool is looked at.
    pub(crate) fn has_adopted(&mut self) {
        if self.adoption != Adoption::Frontends {
            return;
        }
        if self.frontends.iter().all(|frontend| !frontend.state.is_adopting) {
            self.adoption = Adoption::Pool { looks: 0 };
            self.pool.mark_rest();
            self.pool.signal.raise();
        }
        let Self { frontends, platform, .. } = self;
        let of = |turn| move |frontend: &&Frontend<P>| frontend.state.is_adopting && frontend.turn == turn;
        while frontends.iter().filter(of(Turn::Has)).count() < TURNS {
            let next =
                frontends.iter().filter(of(Turn::Waits)).max_by_key(|frontend| platform.is_asked(frontend.domid()));
            let Some(next) = next.map(|frontend| frontend.domid()).and_then(|domid| frontends.get_mut(domid)) else {
                break;
            };
            next.turn = Turn::Has;
            next.signal.raise();
        }
        if !self.is_taking_over() {
            self.frontends.iter().for_each(|frontend| frontend.signal.raise());
        }
    }

    /// Whether a frontend is to let others have xenstored for itself: it waits for its turn to take over what it had, or has done so.
    pub(crate) fn is_to_wait(&mut self, domid: DomId) -> bool {
        let has_turn = |frontend: &mut Frontend<P>| frontend.state.is_adopting && frontend.turn != Turn::Waits;
        self.is_taking_over() && !self.frontends.get_mut(domid).is_some_and(has_turn)
    }

    fn is_taking_over(&self) -> bool {
        let is_at_it = |frontend: &Frontend<P>| frontend.state.is_adopting && frontend.turn != Turn::Failed;
        self.adoption.is_before_pool() && self.frontends.iter().any(is_at_it)
    }

    /// A device was looked at, or could not be.
    #[inline(never)] // its caller is a task, in which everything costs more
    pub(crate) fn has_looked_at(&mut self, address: Sbdf, is_answered: bool) {
        if self.pool.has_looked_at(address, is_answered) {
            // Its frontend waits for that.
            self.frontends
                .iter()
                .filter(|frontend| frontend.state.is_adopting)
                .for_each(|frontend| frontend.signal.raise());
        }
    }

    /// All of the pool was looked at. It is the end, if nothing of it is missing, or is missing for good.
    pub(crate) fn has_looked_at_pool(&mut self, is_whole: bool) {
        let Adoption::Pool { looks } = self.adoption else { return };
        if is_whole || looks == LOOKS {
            self.adoption = Adoption::Done;
            self.pool.end_adoption(&mut self.broker);
            self.platform.forget_unclaimed();
            self.adopted.raise();
        } else {
            self.adoption = Adoption::Pool { looks: looks + 1 };
            self.pool.mark_rest();
            let signal = Rc::clone(&self.pool.signal);
            self.raise_later(&signal);
        }
    }
}
