//! A process of dom0: real code in a thread of its own. It runs while everybody else waits for it, from one rest to the next, so a schedule
//! depends on nothing but the order in which the test lets its processes go on; and it can be stopped or killed in the middle.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a killed process unwinds with. What it has open is closed on the way, as a kernel does it.
struct Killed;

/// A signal that cannot be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGSTOP`.
    Stop,
    /// `SIGKILL`.
    Kill,
}

/// When a signal comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the call with this number, from 1, that the process makes since it went on.
    Call(u32),
    /// Before its look at the clock with this number.
    Clock(u32),
}

/// What a process does outside of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// It looks at the clock.
    Clock,
    /// Anything else: hypercalls, requests to xenstored, files.
    Other,
}

/// How a process came to rest.
#[derive(Debug)]
pub(crate) enum Rest {
    /// It waits for something to happen, or for so long.
    Waiting(Option<Duration>),
    /// It was stopped.
    Stopped,
    /// It is not there any more: its last words, if it went by itself.
    Ended(Option<String>),
}

enum Report {
    Rest(Rest),
    /// A check of the simulation failed in it.
    Panicked(Box<dyn Any + Send>),
}

/// A process as a test holds it.
#[derive(Debug)]
pub(crate) struct Process {
    orders: Option<SyncSender<Option<(Signal, Moment)>>>,
    reports: Receiver<Report>,
    thread: Option<JoinHandle<()>>,
}

impl Process {
    /// A process that begins with the first [`Process::go_on`].
    pub(crate) fn start(main: impl FnOnce(&Rc<Syscalls>) -> Result<(), String> + Send + 'static) -> Self {
        let (orders, from_test) = sync_channel(1);
        let (to_test, reports) = sync_channel(1);
        let run = move || {
            let syscalls = Rc::new(Syscalls {
                orders: from_test,
                reports: to_test.clone(),
                signal: Cell::new(None),
                calls: Cell::new(0),
                looks: Cell::new(0),
            });
            let ended = catch_unwind(AssertUnwindSafe(|| {
                syscalls.wait();
                main(&syscalls)
            }));
            let report = match ended {
                Ok(ended) => Report::Rest(Rest::Ended(ended.err())),
                Err(payload) if payload.is::<Killed>() => Report::Rest(Rest::Ended(None)),
                Err(payload) => Report::Panicked(payload),
            };
            let _ = to_test.send(report); // nobody listens to a process whose test is over
        };
        let thread = thread::Builder::new().name("dom0".to_owned()).spawn(run).expect("a thread");
        Self { orders: Some(orders), reports, thread: Some(thread) }
    }

    /// Lets it go on to its next rest, with a signal on the way.
    ///
    /// # Panics
    /// With it.
    pub(crate) fn go_on(&mut self, signal: Option<(Signal, Moment)>) -> Rest {
        if let Some(orders) = &self.orders {
            let _ = orders.send(signal); // the report tells of one that has ended
        }
        self.await_rest()
    }

    /// Kills it where it is.
    ///
    /// # Panics
    /// When its end fails a check.
    pub(crate) fn kill(mut self) {
        self.orders = None;
        self.await_rest();
    }

    fn await_rest(&mut self) -> Rest {
        match self.reports.recv() {
            Ok(Report::Rest(rest)) => rest,
            Ok(Report::Panicked(payload)) => resume_unwind(payload),
            Err(_) => Rest::Ended(None),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was told by its report, or the test is over
        }
    }
}

/// What a process has below it: here it can be interrupted.
pub(crate) struct Syscalls {
    orders: Receiver<Option<(Signal, Moment)>>,
    reports: SyncSender<Report>,
    signal: Cell<Option<(Signal, Moment)>>,
    calls: Cell<u32>,
    looks: Cell<u32>,
}

impl Syscalls {
    /// The process does something outside of itself.
    pub(crate) fn enter(&self, call: Call) {
        self.calls.set(self.calls.get() + 1);
        if call == Call::Clock {
            self.looks.set(self.looks.get() + 1);
        }
        let Some((signal, moment)) = self.signal.get() else { return };
        let is_due = match moment {
            Moment::Call(number) => self.calls.get() == number,
            Moment::Clock(number) => call == Call::Clock && self.looks.get() == number,
        };
        if !is_due || thread::panicking() {
            return;
        }
        match signal {
            Signal::Stop => self.rest(Rest::Stopped),
            Signal::Kill => resume_unwind(Box::new(Killed)),
        }
    }

    /// The process waits for something to happen, for so long if nothing does.
    pub(crate) fn poll(&self, timeout: Option<Duration>) {
        self.rest(Rest::Waiting(timeout));
    }

    fn rest(&self, rest: Rest) {
        let _ = self.reports.send(Report::Rest(rest)); // a test that is over kills
        self.wait();
    }

    /// Waits until the test lets the process go on; a test that does not kills it.
    fn wait(&self) {
        let Ok(signal) = self.orders.recv() else { resume_unwind(Box::new(Killed)) };
        self.signal.set(signal);
        self.calls.set(0);
        self.looks.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Counts its steps, three calls each, and says so when it ends.
    fn counter() -> (Process, Arc<Mutex<Vec<&'static str>>>) {
        struct Open(Arc<Mutex<Vec<&'static str>>>);
        impl Drop for Open {
            fn drop(&mut self) {
                self.0.lock().expect("alone").push("closed");
            }
        }
        let steps = Arc::new(Mutex::new(Vec::new()));
        let open = Open(Arc::clone(&steps));
        let process = Process::start(move |syscalls| {
            for _ in 0..2 {
                for (call, name) in [(Call::Other, "asked"), (Call::Clock, "looked"), (Call::Other, "told")] {
                    syscalls.enter(call);
                    open.0.lock().expect("alone").push(name);
                }
                syscalls.poll(None);
            }
            Err("had enough".to_owned())
        });
        (process, steps)
    }

    fn taken(steps: &Arc<Mutex<Vec<&'static str>>>) -> Vec<&'static str> {
        std::mem::take(&mut steps.lock().expect("alone"))
    }

    #[test]
    fn it_runs_from_rest_to_rest_and_ends() {
        let (mut process, steps) = counter();
        assert_eq!(taken(&steps), [""; 0]);
        assert!(matches!(process.go_on(None), Rest::Waiting(_)));
        assert_eq!(taken(&steps), ["asked", "looked", "told"]);
        assert!(matches!(process.go_on(None), Rest::Waiting(_)));
        assert!(matches!(process.go_on(None), Rest::Ended(Some(why)) if why == "had enough"));
        assert_eq!(taken(&steps), ["asked", "looked", "told", "closed"]);
        assert!(matches!(process.go_on(None), Rest::Ended(None)), "and stays so");
    }

    #[test]
    fn it_is_stopped_where_the_test_says() {
        for (moment, before) in [(Moment::Call(1), 0), (Moment::Call(3), 2), (Moment::Clock(1), 1)] {
            let (mut process, steps) = counter();
            assert!(matches!(process.go_on(Some((Signal::Stop, moment))), Rest::Stopped));
            assert_eq!(taken(&steps).len(), before, "{moment:?}");
            assert!(matches!(process.go_on(None), Rest::Waiting(_)));
            assert_eq!(taken(&steps).len(), 3 - before);
        }
    }

    #[test]
    fn what_it_has_open_is_closed_when_it_is_killed_wherever_it_is() {
        let (mut process, steps) = counter();
        let killed = process.go_on(Some((Signal::Kill, Moment::Call(2))));
        assert!(matches!(killed, Rest::Ended(None)), "{killed:?}");
        assert_eq!(taken(&steps), ["asked", "closed"]);
        let (mut process, steps) = counter();
        process.go_on(Some((Signal::Stop, Moment::Call(2))));
        process.kill();
        assert_eq!(taken(&steps), ["asked", "closed"]);
        let (process, steps) = counter();
        process.kill();
        assert_eq!(taken(&steps), ["closed"], "it has not begun");
        drop(counter());
    }

    #[test]
    #[should_panic(expected = "a check that fails")]
    fn its_panic_is_the_tests() {
        let mut process = Process::start(|_| panic!("a check that fails"));
        process.go_on(None);
    }
}
