//! xenstore in memory.

use std::cell::RefCell;
use std::rc::Rc;

use xenstore::XenbusState;

use super::World;
use crate::TempTree;
use dom0::store::{Change, Store, StoreFailure};

pub struct FakeStore {
    pub world: Rc<RefCell<World>>,
    pub tree: Rc<TempTree>,
}

impl Store for FakeStore {
    fn read(&self, path: &str) -> Result<Option<String>, StoreFailure> {
        let mut world = self.world.borrow_mut();
        let value = world.value(path).map(str::to_owned);
        if let Some((_, act)) = world.after_read.take_if(|(place, _)| place == path) {
            act(&mut world);
        }
        Ok(value)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreFailure> {
        Ok(self.world.borrow().children(path))
    }

    fn commit(&self, changes: &[Change]) -> Result<bool, StoreFailure> {
        let mut world = self.world.borrow_mut();
        if world.change_fails() {
            return Err(StoreFailure { what: "transaction".to_owned(), why: "EIO (injected)".to_owned() });
        }
        let as_expected = |change: &Change| match change {
            Change::Expect { path, value } => world.value(path) == Some(value),
            Change::ExpectState { path, state } => {
                world.value(path).is_some_and(|found| XenbusState::parse(found) == *state)
            }
            Change::ExpectNoOther { path, value } => {
                world.value(path).is_none_or(|found| Some(found) == value.as_deref())
            }
            _ => true,
        };
        if !changes.iter().all(as_expected) {
            return Ok(false);
        }
        changes.iter().try_for_each(|change| world.apply(change))?;
        Ok(true)
    }
}
