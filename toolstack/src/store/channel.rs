//! The way to xenstored: its socket, or the kernel's device where there is none (xenstored in a domain of its own).
//!
//! By the socket a request costs a switch to xenstored and one back; by the device also an event channel and a thread of the kernel each way.
//!
//! The device takes one request at a time, which is to be taken literally: Linux queues a request's body as a pointer into the buffer that the
//! next write overwrites (`xenbus_dev_request_and_reply`, `drivers/xen/xenbus`). Of two requests under way the first reaches xenstored with
//! parts of the second, and xenstored 4.17 ends on a path without its NUL (`consider_message`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use xenstore::Transport;

use crate::patience::Seconds;

use super::connection::Timed;

/// Where xenstored listens (`xs_daemon_socket`, `tools/libs/store`; `XEN_RUN_STORED` of every distribution's build).
const SOCKET: &str = "/run/xenstored/socket";
/// Where Linux offers the device, and its older name under xenfs.
const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

/// How long xenstored may take to answer. It does so in microseconds, and in seconds where hundreds of guests ask at once.
const PATIENCE: Duration = Duration::from_mins(1);

/// An open connection.
pub(crate) struct StoreChannel {
    file: File,
    is_socket: bool,
    patience: Duration,
    /// It did not answer in time. What it answers later belongs to nothing any more.
    is_silent: bool,
}

impl StoreChannel {
    /// Opens the first that is there.
    ///
    /// # Errors
    /// That of the last try: not dom0, not root, or the module is not loaded.
    pub(crate) fn open() -> io::Result<Self> {
        if let Ok(stream) = UnixStream::connect(SOCKET) {
            return Self::over(stream, PATIENCE);
        }
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for path in DEVICES {
            match Self::open_at(Path::new(path)) {
                Ok(channel) => return Ok(channel),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Something to poll while the channel itself belongs to a connection: readable when the channel is.
    pub(crate) fn readable_end(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    fn open_at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, is_socket: false, patience: PATIENCE, is_silent: false })
    }

    fn over(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        // The kernel looks at the time: a request costs no system call more.
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { file: OwnedFd::from(stream).into(), is_socket: true, patience, is_silent: false })
    }

    /// Notes that it did not answer in time.
    fn silent(&mut self) -> io::Error {
        self.is_silent = true;
        let why = format!("xenstored did not answer within {}", Seconds(self.patience));
        io::Error::new(io::ErrorKind::TimedOut, why)
    }

    /// Waits until there is something to read; false when the deadline has passed, or a signal came.
    fn readable(&self, deadline_ns: Option<u64>) -> io::Result<bool> {
        let left = deadline_ns.map(|deadline| timespec(deadline.saturating_sub(self.now_ns())));
        let mut fds = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false), // who waits looks whether it is to stop
            Err(error) => Err(error.into()),
        }
    }
}

fn timespec(ns: u64) -> Timespec {
    const NS_PER_S: u64 = 1_000_000_000;
    let part = |value| i64::try_from(value).unwrap_or(i64::MAX);
    Timespec { tv_sec: part(ns / NS_PER_S), tv_nsec: part(ns % NS_PER_S) }
}

impl Timed for StoreChannel {
    fn now_ns(&self) -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        let part = |value: i64| u64::try_from(value).unwrap_or(0); // the monotonic clock starts at 0
        part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
    }
}

impl Transport for StoreChannel {
    type Error = io::Error;

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_silent {
            return Err(self.silent()); // once is enough: whoever undoes something has much to ask
        }
        match self.file.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(self.silent()),
            outcome => outcome,
        }
    }

    fn takes_several(&self) -> bool {
        self.is_socket
    }

    fn receive(&mut self, buffer: &mut [u8], deadline_ns: Option<u64>) -> io::Result<usize> {
        if deadline_ns.is_some() && !self.readable(deadline_ns)? {
            return Ok(0);
        }
        // Without a deadline it is an answer that is read for. From the socket the read itself waits, as long as it may.
        if deadline_ns.is_none() && !self.is_socket {
            let patience_ns = u64::try_from(self.patience.as_nanos()).unwrap_or(u64::MAX);
            if !self.readable(Some(self.now_ns().saturating_add(patience_ns)))? {
                return Err(self.silent());
            }
        }
        loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(self.silent()),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_whole_seconds_and_the_rest() {
        let time = timespec(3_000_000_007);
        assert_eq!((time.tv_sec, time.tv_nsec), (3, 7));
    }

    #[test]
    fn nothing_to_read_until_the_deadline_is_no_error() {
        // A FIFO that we hold open ourselves behaves like a xenbus without news.
        let tree = crate::fake::TempTree::new();
        let path = tree.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut channel = StoreChannel::open_at(&path).unwrap();
        let deadline = channel.now_ns() + 1_000_000;
        assert_eq!(channel.receive(&mut [0; 16], Some(deadline)).unwrap(), 0);
        assert_eq!(channel.send(b"abc").unwrap(), 3);
        assert_eq!(channel.receive(&mut [0; 16], None).unwrap(), 3);
    }

    #[test]
    fn a_xenstored_that_does_not_answer_is_not_waited_for_without_end() {
        let patience = Duration::from_millis(50);
        let (ours, mut its) = UnixStream::pair().unwrap();
        let mut by_socket = StoreChannel::over(ours, patience).unwrap();
        its.write_all(b"abc").unwrap();
        assert_eq!(by_socket.receive(&mut [0; 16], None).unwrap(), 3);
        let tree = crate::fake::TempTree::new();
        let path = tree.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let mut by_device = StoreChannel::open_at(&path).unwrap();
        by_device.patience = patience;
        for channel in [&mut by_socket, &mut by_device] {
            let error = channel.receive(&mut [0; 16], None).unwrap_err();
            assert_eq!(error.to_string(), "xenstored did not answer within 0.1 s");
            // What comes next is not waited for again.
            assert_eq!(channel.send(b"abc").unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
    }

    #[test]
    fn a_xenstored_that_takes_nothing_is_not_waited_for_without_end() {
        let (ours, _its) = UnixStream::pair().unwrap();
        let mut channel = StoreChannel::over(ours, Duration::from_millis(50)).unwrap();
        let error = (0..1000).find_map(|_| channel.send(&[0; 65536]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
