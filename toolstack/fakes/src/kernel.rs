//! Fake kernel: Linux's reactions to writes to sysfs.

use std::any::Any;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{TempTree, World};
use dom0::Error;
use dom0::changes::TableChanges;
use dom0::sysfs::Kernel;

pub struct FakeKernel {
    pub world: Rc<RefCell<World>>,
    pub tree: Rc<TempTree>,
}

/// The count of changes of the device database.
pub struct FakeChanges(pub Rc<RefCell<World>>);

impl TableChanges for FakeChanges {
    fn begin(&self) -> Result<Box<dyn Any>, Error> {
        self.0.borrow_mut().table_changes += 1;
        Ok(Box::new(()))
    }

    fn begun(&self) -> Option<u64> {
        Some(self.0.borrow().table_changes)
    }

    fn settled(&self) -> Option<u64> {
        self.begun()
    }
}

impl Kernel for FakeKernel {
    fn pristine_folder(&self) -> PathBuf {
        self.tree.path().join("pristine")
    }

    fn is_writing(&self, path: &Path) -> bool {
        let device = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        self.world.borrow().resetting.contains(device)
    }
}
