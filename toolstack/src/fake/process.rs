//! Fake processes and signals.

use fakes::FakeProcesses;

use crate::host::process::{Process, ProcessId, Processes};
use crate::xen::StopSignal;

pub(crate) struct FakeProcess(pub(crate) FakeProcesses);

impl Processes for FakeProcess {
    fn runs(&self, owner: ProcessId) -> bool {
        self.0.runs(owner)
    }
}

impl Process for FakeProcess {
    fn own(&self) -> ProcessId {
        ProcessId { pid: self.0.0.borrow().process, started: 1 }
    }

    fn listen(&self) {}

    fn signal(&self) -> Option<StopSignal> {
        let number = self.0.0.borrow().signal?;
        StopSignal::ALL.into_iter().find(|signal| *signal as u8 == number)
    }

    fn put_signals_off(&self) {
        let world = &mut *self.0.0.borrow_mut();
        if std::mem::replace(&mut world.undisturbed, true) {
            world.violations.push("signals are put off twice".to_owned());
        }
    }

    fn let_signals_come(&self) {
        self.0.0.borrow_mut().undisturbed = false;
    }
}
