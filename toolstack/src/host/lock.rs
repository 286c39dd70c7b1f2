//! One command at a time, and one for each guest.
//!
//! A command about a guest takes the guest's lock first and the common one then, and gives the common one away while it waits for the guest
//! ([`crate::host::command_lock`]). Nobody who has the common lock waits for a guest's, so they cannot wait for each other. A guest that is being made has
//! no number yet: its lock goes by its UUID, and says to others that the command which makes it lives.

pub(crate) use ::dom0::lock::{Lock, folder};

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ::dom0::lock::{BROKER, is_at, open};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use xen_types::DomId;

use crate::error::{Error, HostError};

const NAME: &str = "pcidom.lock";
/// By which the broker has somebody take devices back, in the same folder (`dist/pcidom-reclaim.path`).
const RECLAIM_REQUEST: &str = "pcidom/reclaim";

/// Takes a guest's lock; `None` when another command has it.
pub(crate) fn try_take_guest(folder: &Path, guest: DomId) -> Result<Option<Lock>, Error> {
    Ok(Lock::try_take_in(folder, &guest_name(guest))?)
}

/// Takes the lock of a guest that is being made, by the id that it has or will have; `None` when the command that makes it has it.
pub(crate) fn try_take_creation(folder: &Path, uuid: &str) -> Result<Option<Lock>, Error> {
    Ok(Lock::try_take_in(folder, &format!("pcidom-create-{uuid}.lock"))?)
}

/// Lets others have a lock while `work` is done.
pub(crate) fn without<R>(lock: &Lock, work: impl FnOnce() -> R) -> R {
    // What fails here leaves the lock as it is, and then others wait longer.
    let is_away = flock(lock.file(), FlockOperation::Unlock).is_ok();
    let result = work();
    while is_away && matches!(flock(lock.file(), FlockOperation::LockExclusive), Err(Errno::INTR)) {}
    result
}

/// Takes the common lock; calls `waiting` once if another command has it, then waits for that one to end or to wait itself.
pub(crate) fn take(folder: &Path, waiting: impl FnOnce()) -> Result<Lock, Error> {
    let (path, file) = open(folder, NAME)?;
    wait_for(&path, &file, waiting)?;
    Ok(Lock::of(file, None))
}

/// Takes a guest's lock in the same way.
pub(crate) fn take_guest(folder: &Path, guest: DomId, waiting: impl FnOnce()) -> Result<Lock, Error> {
    let mut waiting = Some(waiting);
    loop {
        let (path, file) = open(folder, &guest_name(guest))?;
        wait_for(&path, &file, || {
            if let Some(waiting) = waiting.take() {
                waiting();
            }
        })?;
        // Who had it may have taken the file away.
        if is_at(&file, &path) {
            return Ok(Lock::of(file, Some(path)));
        }
    }
}

/// Locks a file; calls `waiting` once if another has it.
fn wait_for(path: &Path, file: &File, waiting: impl FnOnce()) -> Result<(), Error> {
    let failed = |source| Error::from(HostError::File { path: path.to_owned(), source });
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(()),
        Err(Errno::WOULDBLOCK) => waiting(),
        Err(error) => return Err(failed(error.into())),
    }
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

fn guest_name(guest: DomId) -> String {
    format!("pcidom-guest-{guest}.lock")
}

/// The process that is the broker, as the kernel's own list of locks has it: asking for the lock would keep a broker from starting just
/// then.
pub(crate) fn broker_pid() -> Option<u32> {
    holder(&folder().join(BROKER), &std::fs::read_to_string("/proc/locks").ok()?)
}

/// Who holds a lock on the file (`proc_locks(5)`): `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END`, the device's numbers in
/// hexadecimal. A line of one who only waits has `->` behind its number.
fn holder(path: &Path, locks: &str) -> Option<u32> {
    let file = std::fs::metadata(path).ok()?;
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, at, ..] = words[..] else { return None };
        (at == place).then(|| pid.parse().ok())?
    })
}

/// The file by which the broker asks for `pcidom reclaim`.
pub(crate) fn reclaim_request() -> PathBuf {
    folder().join(RECLAIM_REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::TempTree;
    use std::cell::Cell;

    #[test]
    fn who_holds_a_lock_is_found_without_asking_for_it() {
        let tree = TempTree::new();
        let path = tree.path().join(NAME);
        let lock = take(tree.path(), || panic!("nobody has it")).unwrap();
        let file = std::fs::metadata(&path).unwrap();
        let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
        let place = format!("{major:02x}:{minor:02x}:{}", file.ino());
        let locks = format!(
            "1: POSIX  ADVISORY  WRITE 1 00:01:2 0 EOF\n2: FLOCK  ADVISORY  WRITE 77 {place} 0 EOF\n\
             2: -> FLOCK  ADVISORY  WRITE 78 {place} 0 EOF\n"
        );
        assert_eq!(holder(&path, &locks), Some(77));
        assert_eq!(holder(&path, "2: -> FLOCK  ADVISORY  WRITE 78 00:01:2 0 EOF\n"), None);
        assert_eq!(holder(&tree.path().join("none"), &locks), None);
        drop(lock);
    }

    #[test]
    fn a_second_command_waits_for_the_first() {
        let tree = TempTree::new();
        let first = take(tree.path(), || panic!("nobody has it")).unwrap();
        let first = Cell::new(Some(first));
        let waited = Cell::new(false);
        let _second = take(tree.path(), || {
            waited.set(true);
            drop(first.take()); // the first command ends
        })
        .unwrap();
        assert!(waited.get());
    }

    #[test]
    fn a_guest_s_lock_excludes_others_and_goes_with_its_holder() {
        let tree = TempTree::new();
        let name = guest_name(DomId(5));
        let lock = take_guest(tree.path(), DomId(5), || panic!("nobody has it")).unwrap();
        assert!(Lock::try_take_in(tree.path(), &name).unwrap().is_none());
        assert!(Lock::try_take_in(tree.path(), &guest_name(DomId(6))).unwrap().is_some());
        drop(lock);
        assert!(!tree.path().join(&name).exists());
        let first = Cell::new(Lock::try_take_in(tree.path(), &name).unwrap());
        // The file that the second waits for is not the one that it gets.
        let _second = take_guest(tree.path(), DomId(5), || drop(first.take())).unwrap();
        assert!(Lock::try_take_in(tree.path(), &name).unwrap().is_none());
    }

    #[test]
    fn others_have_their_turn_while_one_does_without_the_lock() {
        let tree = TempTree::new();
        let lock = take(tree.path(), || panic!("nobody has it")).unwrap();
        assert!(Lock::try_take_in(tree.path(), NAME).unwrap().is_none());
        without(&lock, || drop(take(tree.path(), || panic!("nobody has it")).unwrap()));
        assert!(Lock::try_take_in(tree.path(), NAME).unwrap().is_none());
    }
}
