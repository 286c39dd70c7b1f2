//! The command lock: commands change things one at a time, but none waits for a guest that another command waits for.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use xen_types::DomId;

use crate::error::Error;
use crate::host::lock::{self, Lock};

/// The turn of a command that changes something.
pub(crate) struct CommandLock {
    /// Where locks are.
    folder: PathBuf,
    common: Lock,
    /// The guest that it is about, which other commands leave alone meanwhile.
    guest: RefCell<Option<(DomId, Lock)>>,
}

impl CommandLock {
    /// Waits for it. `find` looks for the guest that the command is about; `waiting` is called when another command is at work.
    pub(crate) fn take_in(
        folder: &Path,
        find: impl Fn() -> Result<Option<DomId>, Error>,
        waiting: impl Fn(),
    ) -> Result<Self, Error> {
        loop {
            let has_waited = std::cell::Cell::new(false);
            let waiting = || {
                has_waited.set(true);
                waiting();
            };
            let id = find()?;
            let own = |id| Ok::<_, Error>((id, lock::take_guest(folder, id, waiting)?));
            let guest = id.map(own).transpose()?;
            let turn = Self { folder: folder.to_owned(), common: lock::take(folder, waiting)?, guest: guest.into() };
            // It may have rebooted meanwhile.
            if !has_waited.get() || find()? == id {
                return Ok(turn);
            }
        }
    }

    /// Waits for this guest, and lets other commands have their turn meanwhile if it is the one that this command is about.
    pub(crate) fn waiting_for<R>(&self, guest: DomId, wait: impl FnOnce() -> R) -> R {
        if self.is_about(guest) { lock::without(&self.common, wait) } else { wait() }
    }

    /// Makes this a command about a guest that it has just made. It stays none where it is about another, or somebody was quicker.
    pub(crate) fn adopt(&self, guest: DomId) -> Result<(), Error> {
        let mut ours = self.guest.borrow_mut();
        if ours.is_none() {
            *ours = lock::try_take_guest(&self.folder, guest)?.map(|lock| (guest, lock));
        }
        Ok(())
    }

    /// Lets other commands have their turn during `work`, which takes long. What was known of devices and guests may be different
    /// afterwards.
    pub(crate) fn aside<R>(&self, work: impl FnOnce() -> R) -> R {
        lock::without(&self.common, work)
    }

    /// Takes the lock of a guest that is to be made; `None` where another command is making it.
    pub(crate) fn take_creation(&self, uuid: &str) -> Result<Option<Lock>, Error> {
        lock::try_take_creation(&self.folder, uuid)
    }

    /// Whether another command is about this guest, and waits for it.
    pub(crate) fn is_others(&self, guest: DomId) -> Result<bool, Error> {
        Ok(!self.is_about(guest) && lock::try_take_guest(&self.folder, guest)?.is_none())
    }

    fn is_about(&self, guest: DomId) -> bool {
        self.guest.borrow().as_ref().is_some_and(|(ours, _)| *ours == guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::TempTree;
    use std::cell::Cell;

    const A: DomId = DomId(5);
    const B: DomId = DomId(6);

    fn turn(tree: &TempTree, guest: Option<DomId>) -> CommandLock {
        CommandLock::take_in(tree.path(), || Ok(guest), || panic!("it has to wait")).unwrap()
    }

    #[test]
    fn who_waits_for_a_guest_lets_others_have_their_turn_with_other_guests() {
        let tree = TempTree::new();
        let first = turn(&tree, Some(A));
        first.waiting_for(A, || {
            let second = turn(&tree, Some(B));
            assert!(second.is_others(A).unwrap());
            assert!(!second.is_others(B).unwrap());
            assert!(!second.is_others(DomId(7)).unwrap());
            second.waiting_for(B, || drop(turn(&tree, None)));
        });
        assert!(!first.is_others(B).unwrap());
    }

    #[test]
    fn nobody_has_a_turn_while_one_waits_for_a_guest_that_it_is_not_about() {
        let tree = TempTree::new();
        let first = Cell::new(Some(turn(&tree, Some(A))));
        let waited = Cell::new(false);
        let guard = first.take().unwrap();
        guard.waiting_for(B, || {
            assert!(lock::try_take_guest(tree.path(), A).unwrap().is_none());
        });
        first.set(Some(guard));
        let second = CommandLock::take_in(
            tree.path(),
            || Ok(None),
            || {
                waited.set(true);
                drop(first.take());
            },
        );
        assert!(second.is_ok() && waited.get());
    }

    #[test]
    fn a_guest_that_was_made_becomes_the_one_that_the_command_is_about() {
        let tree = TempTree::new();
        let first = turn(&tree, None);
        let creation = first.take_creation("01").unwrap().unwrap();
        first.aside(|| {
            let second = turn(&tree, None);
            assert!(second.take_creation("01").unwrap().is_none() && second.take_creation("02").unwrap().is_some());
        });
        first.adopt(A).unwrap();
        first.adopt(B).unwrap();
        drop(creation);
        first.waiting_for(A, || {
            let second = turn(&tree, None);
            assert!(second.is_others(A).unwrap() && !second.is_others(B).unwrap());
            assert!(second.take_creation("01").unwrap().is_some());
            // Another command has it: nothing happens.
            second.adopt(A).unwrap();
            assert!(second.is_others(A).unwrap());
        });
    }

    #[test]
    fn a_guest_that_reboots_while_its_turn_is_waited_for_is_looked_up_again() {
        let tree = TempTree::new();
        let first = Cell::new(Some(turn(&tree, Some(A))));
        let is_new = Cell::new(false);
        let find = || Ok(Some(if is_new.get() { B } else { A }));
        let waiting = || {
            is_new.set(true);
            drop(first.take());
        };
        let turn = CommandLock::take_in(tree.path(), find, waiting).unwrap();
        assert!(turn.is_about(B) && !turn.is_about(A));
        assert!(lock::try_take_guest(tree.path(), A).unwrap().is_some());
    }
}
