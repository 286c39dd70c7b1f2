//! The backend as a whole; the image around it moves bytes and events.

use alloc::boxed::Box;
use alloc::vec::Vec;

use xen_types::{DomId, Port};
use xenstore::Client;

use crate::frontend::{Frontend, Served};
use crate::options::Options;
use crate::platform::Platform;
use crate::requests::Counters;
use crate::shared::{Core, Handle, Shutdown};
use crate::tasks::executor::Executor;
use crate::tasks::{directory, frontend, pool_watcher, shutdown, startup};

/// The backend. Its owner
/// 1. moves bytes between [`Backend::with_store`] and xenstored,
/// 2. calls [`Backend::run`] after bytes came in and when [`Backend::next_deadline_ns`] has passed,
/// 3. calls [`Backend::serve`] for each pending port among [`Backend::ports`].
///
/// None of them waits for anything.
pub struct Backend<P: Platform> {
    executor: Executor,
    core: Handle<P>,
}

impl<P: Platform> Backend<P> {
    /// A backend that has not said anything yet: the first [`Backend::run`] does.
    #[must_use]
    pub fn new(platform: P, options: Options) -> Self {
        let core = Handle::new(Core::new(platform, options));
        let mut executor = Executor::default();
        executor.spawn(Box::pin(startup::run(core.clone())));
        executor.spawn(Box::pin(shutdown::run(core.clone())));
        executor.spawn(Box::pin(directory::run(core.clone())));
        executor.spawn(Box::pin(pool_watcher::run(core.clone())));
        Self { executor, core }
    }

    /// Gives access to the client of xenstored: take bytes from it and feed it with what arrives.
    pub fn with_store<R>(&mut self, work: impl FnOnce(&mut Client) -> R) -> R {
        self.core.with(|core| work(&mut core.client))
    }

    /// Everything of the control plane that can go on now: answers and watch events that were fed, deadlines that are over, what
    /// waits for the broker.
    /// Afterwards there may be bytes to send.
    pub fn run(&mut self) {
        loop {
            let arrived = self.core.with(|core| {
                core.ring_alarms();
                core.dispatch();
                core.broker_turn();
                core.take_arrived()
            });
            for domid in arrived {
                self.executor.spawn(Box::pin(frontend::run(self.core.clone(), domid)));
            }
            // A task goes on by answers alone, and those are fed outside of here: this ends.
            if !self.executor.pass() {
                return;
            }
        }
    }

    /// One event channel's event: answers what is in the page. Never allocates, and never waits for xenstored: it works while
    /// any of its frontend's other business is under way.
    #[inline(always)] // in the one function that serves an event
    pub fn serve(&mut self, port: Port) -> Served {
        self.core.with(|core| {
            let Core { ports, frontends, platform, counters, broker, .. } = core;
            let Some(owner) = ports.owner(port) else { return Served::UnknownPort };
            let Some(frontend) = frontends.at(owner.place.into(), owner.domid) else {
                return core.on_other_port(port);
            };
            counters.events.bump();
            frontend.answer_requests(platform, counters, broker)
        })
    }

    /// A port was served slowly: it waits for as long as it has kept the others waiting, and comes with [`Backend::take_due`] then.
    pub fn set_aside(&mut self, port: Port) {
        self.core.with(|core| core.set_aside(port));
    }

    /// Ports to serve again that were set aside, once their time has come ([`Backend::next_deadline_ns`] tells of it).
    pub fn take_due(&mut self) -> impl Iterator<Item = Port> + use<P> {
        self.core.with(Core::take_due).into_iter()
    }

    /// The connection to xenstored is a new one, or as good as that: what was asked is not answered any more, and the watches may be gone.
    pub fn reset_store(&mut self) {
        self.core.with(Core::reset_store);
    }

    /// A number that changes whenever [`Backend::ports`] does.
    #[must_use]
    pub fn ports_version(&self) -> u64 {
        self.core.with(|core| core.ports.version())
    }

    /// The bound ports.
    pub fn ports(&self) -> impl Iterator<Item = Port> + use<P> {
        self.core.with(|core| core.ports.iter().collect::<Vec<_>>()).into_iter()
    }

    /// When [`Backend::run`] has something to do beside what xenstored says, by the platform's clock; 0 for at once. Most requests leave
    /// nothing, and asking costs a fraction of running.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        if self.executor.is_woken() { Some(0) } else { self.core.with(|core| core.next_alarm_ns()) }
    }

    /// True when the stub has announced itself in xenstore and, after a restart in place, taken over what the life before has left.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.core.with(|core| core.is_ready && !core.adoption.is_under_way())
    }

    /// What the toolstack has asked the domain to do, once it is acknowledged and the frontends are closed.
    #[must_use]
    pub fn shutdown_request(&self) -> Option<Shutdown> {
        self.core.with(|core| core.shutdown)
    }

    /// Request counters of all frontends, including those that are gone.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.core.with(|core| core.counters)
    }

    /// How many frontends and devices were visited one after the other so far, for tests: it does not grow with a request. Counted where
    /// assertions are on.
    #[must_use]
    pub fn visited(&self) -> u64 {
        self.core.with(|core| core.frontends.visited() + core.pool.visited())
    }

    /// The frontends that there is a BE dir for.
    pub fn frontends(&self) -> impl Iterator<Item = DomId> + use<P> {
        self.core.with(|core| core.frontends.iter().map(Frontend::domid).collect::<Vec<_>>()).into_iter()
    }
}
