//! Processes and signals as a test wants them.

use std::cell::RefCell;
use std::rc::Rc;

use super::World;
use crate::host::process::{Owner, Process};
use crate::xen::StopSignal;

pub(crate) struct FakeProcess(pub(crate) Rc<RefCell<World>>);

impl Process for FakeProcess {
    fn own(&self) -> Owner {
        Owner { pid: self.0.borrow().process, started: 1 }
    }

    fn runs(&self, owner: Owner) -> bool {
        owner == self.own() || self.0.borrow().living.contains(&owner.pid)
    }

    fn listen(&self) {}

    fn signal(&self) -> Option<StopSignal> {
        self.0.borrow().signal
    }

    fn put_signals_off(&self) {
        let world = &mut *self.0.borrow_mut();
        if std::mem::replace(&mut world.undisturbed, true) {
            world.violations.push("signals are put off twice".to_owned());
        }
    }

    fn let_signals_come(&self) {
        self.0.borrow_mut().undisturbed = false;
    }
}
