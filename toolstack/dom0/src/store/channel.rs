//! Transport to xenstored: its socket, or the kernel's device where there is none (xenstored in a domain of its own).
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
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use xenstore::Transport;

use crate::{Error, Seconds};

use super::connection::Timed;

/// Where xenstored listens (`xs_daemon_socket`, `tools/libs/store`; `XEN_RUN_STORED` of every distribution's build).
const SOCKET: &str = "/run/xenstored/socket";
/// Where Linux offers the device, and its older name under xenfs.
const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

/// Time-out of xenstored. It does so in microseconds, and in seconds where hundreds of guests ask at once.
const PATIENCE: Duration = Duration::from_mins(1);

/// An open connection.
pub struct StoreChannel {
    file: File,
    is_socket: bool,
    /// Why it is not the socket; `None` where nobody has tried that.
    no_socket: Option<io::Error>,
    place: PathBuf,
    patience: Duration,
    /// It did not answer in time. What it answers later belongs to nothing any more.
    is_silent: bool,
}

impl StoreChannel {
    /// Opens the first that is there.
    ///
    /// # Errors
    /// That of the last try: not dom0, not root, or the module is not loaded.
    pub fn open() -> io::Result<Self> {
        Self::open_first(Path::new(SOCKET), &DEVICES.map(Path::new))
    }

    /// As [`StoreChannel::open`], with an error for people.
    ///
    /// # Errors
    /// [`Error::NoHost`].
    pub fn open_or_say() -> Result<Self, Error> {
        Self::open().map_err(|error| Error::NoHost(format!("no way to xenstore: {error}")))
    }

    fn open_first(socket: &Path, devices: &[&Path]) -> io::Result<Self> {
        let no_socket = match UnixStream::connect(socket) {
            Ok(stream) => return Ok(Self { place: socket.to_owned(), ..Self::over(stream, PATIENCE)? }),
            Err(error) => error,
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for path in devices {
            match Self::open_at(path) {
                Ok(channel) => return Ok(Self { no_socket: Some(no_socket), ..channel }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Which way it is, for people: one that is slow says why it was taken.
    #[must_use]
    pub fn way(&self) -> String {
        let place = self.place.display();
        match &self.no_socket {
            None => format!("socket {place}"),
            Some(why) => format!("device {place}, which is slow (socket {SOCKET}: {why})"),
        }
    }

    /// Something to poll while the channel itself belongs to a connection: readable when the channel is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn readable_end(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    fn open_at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let place = path.to_owned();
        Ok(Self { file, is_socket: false, no_socket: None, place, patience: PATIENCE, is_silent: false })
    }

    fn over(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        // The kernel looks at the time: a request costs no system call more.
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let (file, place) = (OwnedFd::from(stream).into(), PathBuf::new());
        Ok(Self { file, is_socket: true, no_socket: None, place, patience, is_silent: false })
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

/// Asks until the answer is yes, or it is late. A no before that is a signal's, which does not make xenstored silent: what was asked for is answered,
/// and whoever undoes something needs that.
fn until(
    deadline_ns: u64,
    now_ns: impl Fn() -> u64,
    mut is_readable: impl FnMut() -> io::Result<bool>,
) -> io::Result<bool> {
    loop {
        if is_readable()? {
            return Ok(true);
        }
        if now_ns() >= deadline_ns {
            return Ok(false);
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
            let deadline_ns = self.now_ns().saturating_add(patience_ns);
            if !until(deadline_ns, || self.now_ns(), || self.readable(Some(deadline_ns)))? {
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
        let tree = fakes::TempTree::new();
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
        let tree = fakes::TempTree::new();
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
    fn a_signal_while_an_answer_is_read_for_does_not_make_xenstored_silent() {
        let asked = std::cell::Cell::new(0);
        let third = || {
            asked.set(asked.get() + 1);
            Ok(asked.get() == 3)
        };
        assert!(until(10, || asked.get(), third).unwrap());
        assert!(!until(10, || 10, || Ok(false)).unwrap());
    }

    #[test]
    fn a_xenstored_that_takes_nothing_is_not_waited_for_without_end() {
        let (ours, _its) = UnixStream::pair().unwrap();
        let mut channel = StoreChannel::over(ours, Duration::from_millis(50)).unwrap();
        let error = (0..1000).find_map(|_| channel.send(&[0; 65536]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn the_socket_is_taken_where_it_can_be_and_the_device_says_why_it_was() {
        let tree = fakes::TempTree::new();
        tree.write("xenbus", "");
        let (socket, device) = (tree.path().join("socket"), tree.path().join("xenbus"));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let channel = StoreChannel::open_first(&socket, &[&device]).unwrap();
        assert_eq!(channel.way(), format!("socket {}", socket.display()));
        assert!(channel.takes_several());
        drop(listener);
        let channel = StoreChannel::open_first(&socket, &[&tree.path().join("none"), &device]).unwrap();
        let why = "which is slow (socket /run/xenstored/socket: Connection refused (os error 111))";
        assert_eq!(channel.way(), format!("device {}, {why}", device.display()));
        assert!(!channel.takes_several());
        assert!(StoreChannel::open_first(&socket, &[]).is_err());
    }
}
