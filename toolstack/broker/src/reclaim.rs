//! Starts `pcidom reclaim` in a process of its own, because it waits for stubs and for resets, while the stubs may wait
//! for the broker.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dom0::xen::unblocked;
use rustix::fs::inotify;

use super::manager::VARIABLES;

/// Somebody who puts right what dead guests left.
pub trait Reclaimer {
    /// Begins, and does not wait for the end. When it ends, the broker looks again.
    ///
    /// # Errors
    /// The kernel's.
    fn start(&self) -> io::Result<()>;

    /// Whether it is at work.
    fn is_busy(&self) -> bool;
}

/// Runs `pcidom reclaim`: it takes the commands' lock, waits for it if need be, and does what every command does first.
#[derive(Default)]
pub(crate) struct OwnCommand(RefCell<Option<Child>>);

impl Reclaimer for OwnCommand {
    fn start(&self) -> io::Result<()> {
        // The running program, also where its file was replaced.
        let mut command = Command::new("/proc/self/exe");
        VARIABLES.iter().fold(&mut command, |command, name| command.env_remove(name));
        let child = unblocked(command.arg("reclaim").stdin(Stdio::null())).spawn()?;
        *self.0.borrow_mut() = Some(child);
        Ok(())
    }

    fn is_busy(&self) -> bool {
        let mut child = self.0.borrow_mut();
        let busy = child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !busy {
            *child = None;
        }
        busy
    }
}

/// Has somebody else run `pcidom reclaim`, who may do more than the broker (`dist/pcidom-reclaim.path`): there is work as long as a file
/// exists, which goes away when it is done.
pub(crate) struct RequestFile {
    path: PathBuf,
    changes: OwnedFd,
    asked: Cell<Option<Instant>>,
}

impl RequestFile {
    /// Time-out of `pcidom reclaim`.
    const PATIENCE: Duration = Duration::from_secs(15 * 60);

    /// Asks by this file, whose folder is made where it is missing.
    pub(crate) fn new(path: PathBuf) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder)?;
        let changes = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&changes, folder, inotify::WatchFlags::DELETE)?;
        // What a broker before us asked for is under way, or waits for somebody as it would if we asked.
        let asked = Cell::new(path.exists().then(Instant::now));
        Ok(Self { path, changes, asked })
    }

    /// Whether the work may be done, or nobody does it: that is to be looked at.
    pub(crate) fn take_news(&self) -> bool {
        let mut is_news = false;
        let mut buffer = [0; 1024];
        while rustix::io::read(&self.changes, &mut buffer).is_ok_and(|count| count > 0) {
            is_news = true;
        }
        is_news || self.due_in() == Some(Duration::ZERO)
    }

    /// Time until the time-out.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.asked.get().map(|asked| Self::PATIENCE.saturating_sub(asked.elapsed()))
    }
}

impl AsFd for RequestFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

impl Reclaimer for RequestFile {
    fn start(&self) -> io::Result<()> {
        let is_left = self.path.exists();
        fs::write(&self.path, "")?;
        self.asked.set(Some(Instant::now()));
        if is_left {
            let text = format!("{} is still there: is pcidom-reclaim.path active?", self.path.display());
            return Err(io::Error::other(text));
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        let busy = self.path.exists() && self.due_in() != Some(Duration::ZERO);
        if !busy {
            self.asked.set(None);
        }
        busy
    }
}

/// When to try again: soon at first, then less and less often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retry {
    at: Duration,
    wait: Duration,
}

impl Retry {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(64);

    pub(crate) fn is_due(&self, now: Duration) -> bool {
        now >= self.at
    }

    pub(crate) fn tried(&mut self, now: Duration) {
        self.wait = (self.wait * 2).clamp(Self::FIRST, Self::LONGEST);
        self.at = now + self.wait;
    }

    pub(crate) fn at(&self) -> Duration {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fakes::TempTree;

    #[test]
    fn a_request_is_a_file_and_its_end_an_event() {
        let tree = TempTree::new();
        let path = tree.path().join("pcidom/reclaim");
        let request = RequestFile::new(path.clone()).unwrap();
        assert!(!request.is_busy() && !request.take_news());
        assert_eq!(request.due_in(), None);
        request.start().unwrap();
        assert!(path.exists() && request.is_busy());
        assert!(!request.take_news(), "our own file is no news");
        assert!(request.due_in().unwrap() > Duration::from_secs(60));
        fs::remove_file(&path).unwrap();
        assert!(request.take_news() && !request.take_news());
        assert!(!request.is_busy());
        assert_eq!(request.due_in(), None);
        request.start().unwrap();
    }

    #[test]
    fn a_request_that_nobody_takes_is_told_of_and_asked_again() {
        let tree = TempTree::new();
        let path = tree.path().join("pcidom/reclaim");
        let request = RequestFile::new(path.clone()).unwrap();
        request.start().unwrap();
        request.asked.set(Instant::now().checked_sub(RequestFile::PATIENCE));
        assert!(request.take_news(), "it takes too long");
        assert!(!request.is_busy());
        let error = request.start().unwrap_err().to_string();
        assert!(error.ends_with("pcidom/reclaim is still there: is pcidom-reclaim.path active?"), "{error}");
        assert!(request.is_busy() && !request.take_news(), "it is asked anew");
        // The next broker waits for the same.
        assert!(RequestFile::new(path).unwrap().is_busy());
    }
}
