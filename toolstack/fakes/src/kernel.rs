//! Fake kernel: Linux's reactions to writes to sysfs.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{TempTree, World};
use dom0::sysfs::Kernel;

pub struct FakeKernel {
    pub world: Rc<RefCell<World>>,
    pub tree: Rc<TempTree>,
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
