//! A machine with a command's own view of it.

use std::ops::Deref;
use std::rc::Rc;

use fakes::{FakeChanges, FakeClock, FakeConsole, FakeHypervisor, FakeKernel, FakeProcesses, FakeStore};

use super::process::FakeProcess;
use super::xl::FakeXl;
use crate::host::Host;
use crate::store::Waits;
use crate::sysfs::Sysfs;

pub(crate) struct Machine {
    base: fakes::Machine,
    pub(crate) host: Host,
    _locks: fakes::TempTree,
}

impl Deref for Machine {
    type Target = fakes::Machine;

    fn deref(&self) -> &fakes::Machine {
        &self.base
    }
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with_store(|store| store)
    }

    /// A machine whose command sees xenstore through what `through` makes of it.
    pub(crate) fn with_store<S: Waits + 'static>(through: impl FnOnce(FakeStore) -> S) -> Self {
        let base = fakes::Machine::new();
        let store = through(FakeStore::new(base.world.clone(), base.tree.clone()));
        let (mut host, locks) = (Self::host_with(&base, Rc::new(store)), fakes::TempTree::new());
        host.lock_folder = locks.path().to_owned();
        Self { base, host, _locks: locks }
    }

    /// What a command has of a machine.
    pub(crate) fn host_of(base: &fakes::Machine) -> Host {
        Self::host_with(base, Rc::new(FakeStore::new(base.world.clone(), base.tree.clone())))
    }

    fn host_with(base: &fakes::Machine, store: Rc<dyn Waits>) -> Host {
        let (world, tree) = (base.world.clone(), base.tree.clone());
        let mut host = Host::new(
            Rc::new(FakeHypervisor(world.clone())),
            Sysfs::new(tree.path(), Rc::new(FakeKernel { world: world.clone(), tree: tree.clone() })),
            store,
            Box::new(FakeClock(world.clone())),
            Box::new(FakeConsole(world.clone())),
        );
        host.count_changes(Rc::new(FakeChanges(world.clone())));
        host.xl = Box::new(FakeXl(world.clone()));
        host.process = Box::new(FakeProcess(FakeProcesses(world)));
        host.root = tree.path().join("root");
        host.settings_file = tree.path().join("pcidom.conf");
        host
    }
}
