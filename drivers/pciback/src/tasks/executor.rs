//! Runs the control plane's tasks: futures on one thread, polled only when something woke them.
//!
//! Small on purpose. A task is woken by setting its flag, from anywhere and any number of times; one pass over the flags polls
//! what is set, each task once, so that none of them delays another for longer than its own next wait.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Waker};

/// A task as it is handed to [`Executor::spawn`].
pub(crate) type BoxedTask = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks that are not finished.
#[derive(Default)]
pub(crate) struct Executor {
    tasks: Vec<Task>,
    /// Set with any task's flag, so that an idle executor costs one load.
    any_woken: Arc<AtomicBool>,
}

struct Task {
    future: BoxedTask,
    flag: Arc<Flag>,
    waker: Waker,
}

/// What a waker of one task sets. `Wake` wants it to be shareable between threads, hence atomics; there is only one thread.
struct Flag {
    woken: AtomicBool,
    any_woken: Arc<AtomicBool>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
        self.any_woken.store(true, Ordering::Relaxed);
    }
}

impl Executor {
    /// Takes a task over; its first poll is in the next pass.
    pub(crate) fn spawn(&mut self, future: BoxedTask) {
        let flag = Arc::new(Flag { woken: AtomicBool::new(true), any_woken: Arc::clone(&self.any_woken) });
        self.any_woken.store(true, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&flag));
        self.tasks.push(Task { future, flag, waker });
    }

    /// True when a pass has something to poll.
    pub(crate) fn is_woken(&self) -> bool {
        self.any_woken.load(Ordering::Relaxed)
    }

    /// Polls each woken task once and drops the finished ones. True when there was anything to poll.
    pub(crate) fn pass(&mut self) -> bool {
        if !self.any_woken.swap(false, Ordering::Relaxed) {
            return false;
        }
        let mut place = 0;
        while let Some(task) = self.tasks.get_mut(place) {
            let is_woken = task.flag.woken.swap(false, Ordering::Relaxed);
            if is_woken && task.future.as_mut().poll(&mut Context::from_waker(&task.waker)).is_ready() {
                drop(self.tasks.remove(place));
            } else {
                place += 1;
            }
        }
        true
    }

    /// Tasks that are not finished.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use core::cell::Cell;
    use core::future::poll_fn;
    use core::task::Poll;

    #[test]
    fn a_task_is_polled_once_for_any_number_of_wakes_and_dropped_when_done() {
        let mut executor = Executor::default();
        let polls = Rc::new(Cell::new(0));
        let waker = Rc::new(Cell::new(None));
        executor.spawn(Box::pin({
            let (polls, waker) = (Rc::clone(&polls), Rc::clone(&waker));
            poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                waker.set(Some(cx.waker().clone()));
                if polls.get() == 2 { Poll::Ready(()) } else { Poll::Pending }
            })
        }));
        assert!(executor.pass());
        assert!(!executor.pass(), "it was not woken");
        assert_eq!(polls.get(), 1);

        let handle = waker.take().unwrap();
        handle.wake_by_ref();
        handle.wake_by_ref();
        assert!(executor.pass());
        assert_eq!((polls.get(), executor.len()), (2, 0));
        handle.wake();
        executor.pass();
        assert_eq!(polls.get(), 2, "a wake after the end does nothing");
    }
}
