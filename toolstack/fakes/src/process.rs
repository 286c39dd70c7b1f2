//! Processes as a test wants them.

use std::cell::RefCell;
use std::rc::Rc;

use dom0::process::{ProcessId, Processes};

use super::World;

/// Those of a world.
pub struct FakeProcesses(pub Rc<RefCell<World>>);

impl Processes for FakeProcesses {
    fn runs(&self, owner: ProcessId) -> bool {
        let world = self.0.borrow();
        (owner.pid, owner.started) == (world.process, 1) || world.living.contains(&owner.pid)
    }
}
