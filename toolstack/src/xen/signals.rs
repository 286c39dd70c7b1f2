//! Signals that a command notes and heeds when it can, so that none interrupts it in the middle of a change.

use core::ffi::c_int;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, Ordering};

use ::dom0::xen::SignalSet;
use ::dom0::xen::number::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// `struct sigaction` of glibc and musl on x86-64.
#[repr(C)]
struct Action {
    /// [`DEFAULT`], [`IGNORE`] or a function.
    handler: usize,
    mask: SignalSet,
    flags: c_int,
    restorer: usize,
}

/// `SIG_DFL`, `SIG_IGN`, `SA_RESTART` (Linux, x86-64).
const DEFAULT: usize = 0;
const IGNORE: usize = 1;
const RESTART: c_int = 0x1000_0000;

unsafe extern "C" {
    fn sigfillset(set: *mut SignalSet) -> c_int;
    fn sigdelset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn sigaction(signal: c_int, action: *const Action, old: *mut Action) -> c_int;
    fn raise(signal: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
}

/// `SIG_BLOCK`, `SIG_SETMASK` (Linux, x86-64).
const BLOCK: c_int = 0;
const SET_MASK: c_int = 2;

/// A signal that asks a command to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopSignal {
    /// The terminal, or the connection to it, is gone.
    Hangup = SIGHUP as isize,
    /// Ctrl-C.
    Interrupt = SIGINT as isize,
    /// Ctrl-\.
    Quit = SIGQUIT as isize,
    /// systemd, or `kill`.
    Terminate = SIGTERM as isize,
}

impl StopSignal {
    pub(crate) const ALL: [Self; 4] = [Self::Hangup, Self::Interrupt, Self::Quit, Self::Terminate];

    /// Ends this process by the signal, as if nobody had listened: who started it sees why.
    pub(crate) fn end_process(self) {
        let action = Action { handler: DEFAULT, mask: SignalSet([0; 16]), flags: 0, restorer: 0 };
        // SAFETY: `action` is a valid structure, only read; nobody wants the old one.
        unsafe { sigaction(self as c_int, &raw const action, null_mut()) };
        // SAFETY: the number is a signal's.
        unsafe { raise(self as c_int) };
    }
}

impl std::fmt::Display for StopSignal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// The first signal that came.
static NOTED: AtomicI32 = AtomicI32::new(0);

/// The first signal is noted; a second one does what it does to any process. A second SIGHUP means nothing: a shell whose terminal goes passes
/// on what the kernel has sent already.
extern "C" fn note(signal: c_int) {
    let is_first = NOTED.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    if is_first || signal == c_int::from(SIGHUP) {
        return;
    }
    let action = Action { handler: DEFAULT, mask: SignalSet([0; 16]), flags: 0, restorer: 0 };
    // SAFETY: both calls may be made in a handler (signal-safety(7)); `action` is valid and only read. The signal is blocked until the handler returns.
    unsafe { sigaction(signal, &raw const action, null_mut()) };
    // SAFETY: the number is that of the signal that was just handled.
    unsafe { raise(signal) };
}

/// From now on the signals that ask a process to stop are noted. What is ignored (`nohup`) stays so.
pub(crate) fn listen() {
    let action = Action { handler: note as *const () as usize, mask: SignalSet([0; 16]), flags: RESTART, restorer: 0 };
    for signal in StopSignal::ALL {
        let mut old = Action { handler: DEFAULT, mask: SignalSet([0; 16]), flags: 0, restorer: 0 };
        // SAFETY: nothing is changed; `old` has the size that the C library gives the type.
        let known = unsafe { sigaction(signal as c_int, null(), &raw mut old) } == 0;
        if known && old.handler != IGNORE {
            // SAFETY: `action` is valid and only read; its handler touches an atomic and calls what handlers may call.
            unsafe { sigaction(signal as c_int, &raw const action, null_mut()) };
        }
    }
}

/// The first signal that came after [`listen`].
pub(crate) fn noted_signal() -> Option<StopSignal> {
    let noted = NOTED.load(Ordering::SeqCst);
    StopSignal::ALL.into_iter().find(|signal| *signal as c_int == noted)
}

/// Which signals were blocked.
#[derive(Clone, Copy)]
pub(crate) struct Mask(SignalSet);

impl Mask {
    /// Blocks those again, and no others.
    pub(crate) fn restore(self) {
        // SAFETY: the set was filled by the call in `block_all`, and is only read.
        unsafe { pthread_sigmask(SET_MASK, &raw const self.0, null_mut()) };
    }
}

/// Blocks every signal but those by which the kernel says that this very instruction went wrong; which were blocked before.
pub(crate) fn block_all() -> Mask {
    /// `SIGILL`, `SIGTRAP`, `SIGABRT`, `SIGBUS`, `SIGFPE`, `SIGSEGV`.
    const FAULTS: [c_int; 6] = [4, 5, 6, 7, 8, 11];
    let (mut all, mut before) = (SignalSet([0; 16]), SignalSet([0; 16]));
    // SAFETY: `all` has the size that the C library gives the type.
    unsafe { sigfillset(&raw mut all) };
    for signal in FAULTS {
        // SAFETY: `all` was initialised above; the numbers are signals.
        unsafe { sigdelset(&raw mut all, signal) };
    }
    // SAFETY: `all` is only read; `before` is written during the call only. Sets as this one cannot be refused.
    unsafe { pthread_sigmask(BLOCK, &raw const all, &raw mut before) };
    Mask(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own: what it notes would be noted for all tests, and it ends by a signal.
    #[test]
    fn a_second_signal_ends_what_the_first_did_not() {
        const ME: &str = "xen::signals::tests::a_second_signal_ends_what_the_first_did_not";
        const VARIABLE: &str = "PCIDOM_TEST_SIGNALS";
        use std::os::unix::process::ExitStatusExt as _;
        if std::env::var_os(VARIABLE).is_some() {
            // A shell has its background jobs ignore some.
            for signal in StopSignal::ALL {
                let action = Action { handler: DEFAULT, mask: SignalSet([0; 16]), flags: 0, restorer: 0 };
                // SAFETY: a valid structure, only read.
                unsafe { sigaction(signal as c_int, &raw const action, null_mut()) };
            }
            listen();
            assert_eq!(noted_signal(), None);
            let mask = block_all();
            // SAFETY: a signal that is blocked, and noted later.
            unsafe { raise(SIGINT.into()) };
            assert_eq!(noted_signal(), None, "it was to be put off");
            mask.restore();
            assert_eq!(noted_signal(), Some(StopSignal::Interrupt));
            // SAFETY: a signal that means nothing any more.
            unsafe { raise(SIGHUP.into()) };
            // SAFETY: the one that ends this process.
            unsafe { raise(SIGTERM.into()) };
            std::process::exit(0);
        }
        let program = std::env::current_exe().unwrap();
        let output = std::process::Command::new(program).args(["--exact", ME]).env(VARIABLE, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(SIGTERM.into()), "{output:?}");
    }

    #[test]
    fn what_was_ignored_stays_so_and_a_command_can_end_by_its_signal() {
        const ME: &str = "xen::signals::tests::what_was_ignored_stays_so_and_a_command_can_end_by_its_signal";
        const VARIABLE: &str = "PCIDOM_TEST_IGNORED";
        use std::os::unix::process::ExitStatusExt as _;
        if std::env::var_os(VARIABLE).is_some() {
            let ignored = Action { handler: IGNORE, mask: SignalSet([0; 16]), flags: 0, restorer: 0 };
            // SAFETY: a valid structure, only read.
            unsafe { sigaction(SIGHUP.into(), &raw const ignored, null_mut()) };
            listen();
            // SAFETY: a signal that is ignored, as below `nohup`.
            unsafe { raise(SIGHUP.into()) };
            assert_eq!(noted_signal(), None);
            StopSignal::Interrupt.end_process();
            std::process::exit(0);
        }
        let program = std::env::current_exe().unwrap();
        let output = std::process::Command::new(program).args(["--exact", ME]).env(VARIABLE, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(SIGINT.into()), "{output:?}");
    }
}
