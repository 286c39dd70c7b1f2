//! Waiting at the fake xenstore lets the others act; when nobody has anything to do, the time passes at once.

use std::time::Duration;

use fakes::{FakeStore, peers};

use crate::store::{StoreFailure, Waits};

impl Waits for FakeStore {
    fn watch(&self, paths: &[String]) -> Result<(), StoreFailure> {
        self.world.borrow_mut().watches.extend_from_slice(paths);
        Ok(())
    }

    fn unwatch(&self, paths: &[String]) -> Result<(), StoreFailure> {
        self.world.borrow_mut().watches.retain(|path| !paths.contains(path));
        Ok(())
    }

    fn wait(&self, timeout: Duration) -> Result<bool, StoreFailure> {
        let mut world = self.world.borrow_mut();
        let acted = peers::act(&mut world, &self.tree);
        world.clock += if acted { Duration::from_millis(1) } else { timeout };
        Ok(acted)
    }
}
