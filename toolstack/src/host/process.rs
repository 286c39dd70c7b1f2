//! Processes: running commands, and signals that ask this one to stop.
//!
//! A signal that ends a process is only noted while a command changes something ([`Process::listen`]). The command stops at its next safe point
//! ([`crate::host::Host::safe_point`]), where what it has done can be undone, and ends by that signal afterwards. A second one ends it at once;
//! what it leaves then is put right as after any death (`running_commands.rs`).

pub(crate) use ::dom0::process::{ProcessId, Processes};

use ::dom0::process::{LinuxProcesses, started};

use crate::xen::{Mask, StopSignal, block_all, listen, noted_signal};

/// Questions about processes to the kernel.
pub(crate) trait Process: Processes {
    /// This process.
    fn own(&self) -> ProcessId;

    /// From now on the first signal that would end this process is noted.
    fn listen(&self);

    /// The signal that was noted.
    fn signal(&self) -> Option<StopSignal>;

    /// From now on no signal that can be put off does anything, not even stop the process for a while (Ctrl-Z).
    fn put_signals_off(&self);

    /// Undoes that. What came meanwhile comes now.
    fn let_signals_come(&self);
}

/// This process as Linux runs it.
#[derive(Default)]
pub(crate) struct LinuxProcess {
    before: std::cell::Cell<Option<Mask>>,
}

impl Processes for LinuxProcess {
    fn runs(&self, owner: ProcessId) -> bool {
        LinuxProcesses.runs(owner)
    }
}

impl Process for LinuxProcess {
    fn own(&self) -> ProcessId {
        let pid = std::process::id();
        ProcessId { pid, started: started(pid).unwrap_or(0) }
    }

    fn listen(&self) {
        listen();
    }

    fn signal(&self) -> Option<StopSignal> {
        noted_signal()
    }

    fn put_signals_off(&self) {
        self.before.set(Some(block_all()));
    }

    fn let_signals_come(&self) {
        if let Some(mask) = self.before.take() {
            mask.restore();
        }
    }
}
