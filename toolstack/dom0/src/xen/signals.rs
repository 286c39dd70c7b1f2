//! Signals that a loop reads like any other event (`signalfd(2)`), so that none interrupts it in the middle of a change.

use core::ffi::c_int;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr::null_mut;

/// `sigset_t` of glibc and musl on x86-64: 1,024 bits.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SignalSet(pub [u64; 16]);

unsafe extern "C" {
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigaddset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn signalfd(fd: c_int, set: *const SignalSet, flags: c_int) -> c_int;
}

/// `SIG_BLOCK`, `SIG_UNBLOCK`, `SFD_NONBLOCK | SFD_CLOEXEC` (Linux, x86-64).
const BLOCK: c_int = 0;
const UNBLOCK: c_int = 1;
const NONBLOCK_CLOEXEC: c_int = 0o4000 | 0o2_000_000;

/// A signal that we wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGINT`, `SIGTERM`, `SIGHUP` or `SIGQUIT`.
    Stop,
    /// `SIGCHLD`.
    ChildEnded,
}

/// Numbers of signals (Linux, x86-64).
pub mod number {
    /// The terminal, or the connection to it, is gone.
    pub const SIGHUP: u8 = 1;
    /// Ctrl-C.
    pub const SIGINT: u8 = 2;
    /// Ctrl-\.
    pub const SIGQUIT: u8 = 3;
    /// systemd, or `kill`.
    pub const SIGTERM: u8 = 15;
    /// A child has ended.
    pub const SIGCHLD: u8 = 17;
}
use number::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// These signals from now on are read here and do nothing else. Programs are started with [`unblocked`].
pub struct Signals(File);

/// Blocks or unblocks all that we read. Nothing here allocates or takes a lock.
fn change_mask(how: c_int) -> io::Result<SignalSet> {
    let mut set = SignalSet([0; 16]);
    // SAFETY: `set` has the size that the C library gives the type.
    unsafe { sigemptyset(&raw mut set) };
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGCHLD] {
        // SAFETY: `set` was initialised above; the numbers are signals.
        unsafe { sigaddset(&raw mut set, signal.into()) };
    }
    // SAFETY: `set` is only read; nobody wants the old mask.
    match unsafe { pthread_sigmask(how, &raw const set, null_mut()) } {
        0 => Ok(set),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Has a program begin with these signals unblocked. What is blocked stays so in a child and over `exec` (`Command` does not change it): the program could not be ended by
/// `SIGTERM`, and `xl`, which learns from `SIGCHLD` that its own child has ended, would wait for ever.
pub fn unblocked(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec it calls functions that are async-signal-safe (signal-safety(7)), and nothing else.
    unsafe { command.pre_exec(|| change_mask(UNBLOCK).map(drop)) }
}

impl Signals {
    /// Blocks them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn block() -> io::Result<Self> {
        let set = change_mask(BLOCK)?;
        // SAFETY: a new descriptor for a set that is only read.
        let fd = unsafe { signalfd(-1, &raw const set, NONBLOCK_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and nobody else knows it.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Takes the next signal that has come; `None` when none has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        /// `struct signalfd_siginfo`: 128 bytes, the first four of them the signal's number.
        const INFO_BYTES: usize = 128;
        let mut info = [0; INFO_BYTES];
        match (&self.0).read(&mut info) {
            Ok(_) if info[0] == SIGCHLD => Ok(Some(Signal::ChildEnded)),
            Ok(_) => Ok(Some(Signal::Stop)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn raise(signal: c_int) -> c_int;
    }

    #[test]
    fn a_signal_is_read_like_any_event_and_does_nothing_else() {
        let signals = Signals::block().unwrap(); // in this test's own thread
        assert_eq!(signals.next().unwrap(), None);
        // SAFETY: the signal goes to this thread, which has it blocked.
        assert_eq!(unsafe { raise(SIGTERM.into()) }, 0);
        assert_eq!(signals.next().unwrap(), Some(Signal::Stop));
        assert_eq!(signals.next().unwrap(), None);
    }

    #[test]
    fn what_is_started_has_none_of_them_blocked() {
        let blocked = |command: &mut Command| {
            let output = command.args(["SigBlk", "/proc/self/status"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim_start_matches("SigBlk:").trim().to_owned()
        };
        let before = blocked(&mut Command::new("grep"));
        let _signals = Signals::block().unwrap(); // in this test's own thread
        assert_eq!(blocked(unblocked(&mut Command::new("grep"))), before);
    }
}
