//! The stub: a PCI backend as a Xen PV domain of its own. This file joins the platform (`kernel`) and the backend (`drivers/pciback`).
#![no_std]
#![no_main]

extern crate alloc;

#[cfg(feature = "counting")]
mod counting;
mod options;
mod platform;

use kernel::control::{ShutdownReason, shutdown};
use kernel::poll_list::PollList;
use kernel::survivor::Restart;
use kernel::xenstore_ring::XenstoreRing;
use kernel::{BootInfo, clock, console, culprit, events, heap, survivor, trace};
use pciback::{AdaptivePolling, Backend, Served, Shutdown};
use pcidom_abi::image;
use platform::Xen;
use xen_types::{Errno, Port};

kernel::image!(main);
kernel::replaceable!(image::LAYOUT, pcidom_abi::VERSION);

const _: () = assert!(survivor::OFFSETS[0] == image::SUM && survivor::OFFSETS[1] == image::MAY_RESTART);
const _: () = assert!(survivor::OFFSETS[2] == image::RESTARTS && survivor::OFFSETS[3] == image::CRASHED_NS);
const _: () = assert!(survivor::OFFSETS[4] == image::WORDS_LEN && survivor::OFFSETS[5] == image::WORDS.start);
const _: () = assert!(survivor::OFFSETS[6] == image::FACTS_END && Restart::Never as u64 == image::NEVER);
const _: () = assert!(Restart::Trial as u64 == image::TRIAL && Restart::Failed as u64 == image::FAILED);

fn main(info: &'static BootInfo) -> ! {
    let options = options::parse(info.command_line(), |word| {
        plain_log::error!("command line: \"{word}\" is not understood (see pcidom.cfg(5))");
    });
    log::set_max_level(options.log);
    let (major, minor) = kernel::xen_version();
    plain_log::info!(
        "pcidom {} on Xen {}.{}: {} KiB of memory, heap {} KiB, export={}, config={}",
        env!("CARGO_PKG_VERSION"),
        u32::from(major),
        u32::from(minor),
        info.nr_pages * kernel::layout::PAGE_SIZE / 1024,
        heap::usage().total / 1024,
        options.export,
        if options.is_direct { "direct" } else { "broker" },
    );
    let ring = match XenstoreRing::take() {
        Ok(ring) => ring,
        Err(error) => {
            plain_log::error!("no xenstore ({error}): this image runs as a guest that xl created");
            shutdown(ShutdownReason::Poweroff)
        }
    };
    Stub::new(ring, &options).run()
}

/// Time slice of the control plane, after which requests are served.
const CONTROL_NS: u64 = 5_000_000;

/// State of the main loop.
struct Stub {
    ring: XenstoreRing,
    backend: Backend<Xen>,
    poll_list: PollList,
    /// There were more requests than one turn serves.
    has_unfinished: bool,
    /// Xenstored's port had an event.
    has_bytes: bool,
    /// When the control plane has something to do by itself, if `is_settled`.
    due_ns: Option<u64>,
    /// Nothing but reads has happened since `due_ns` and `poll_list` were brought up to date.
    is_settled: bool,
    /// What a crash leads to as soon as it is ready. Until then it is what it was in the life before, and the end in the first one.
    restart: Restart,
    was_ready: bool,
    /// The last entry of the trace about this, which a burst of the same has once.
    last_served: Option<(Port, Served)>,
    polling: AdaptivePolling,
}

impl Stub {
    fn new(ring: XenstoreRing, options: &options::Options) -> Self {
        let &options::Options { export, is_direct, restart, .. } = options;
        let backend = Backend::new(Xen, pciback::Options { export, is_direct, ..pciback::Options::default() });
        Self {
            poll_list: PollList::new(ring.port()),
            has_unfinished: false,
            ring,
            backend,
            has_bytes: true,
            due_ns: None,
            is_settled: false,
            restart,
            was_ready: false,
            last_served: None,
            polling: AdaptivePolling::default(),
        }
    }

    /// Serves for ever.
    fn run(mut self) -> ! {
        #[cfg(feature = "counting")]
        let mut report = counting::Report::new();
        loop {
            #[cfg(feature = "counting")]
            report.turn(|| self.backend.counters());
            let has_served = self.take_events();
            // Reads are what there is most of, and they leave nothing to do here.
            if !self.is_settled || self.due_ns.is_some_and(|due_ns| due_ns <= clock::now_ns()) {
                self.settle();
            }
            if !self.has_unfinished {
                self.rest(has_served);
            }
        }
    }

    /// Does whatever there is to do besides serving requests, and finds out what to sleep on.
    #[cold]
    #[inline(never)] // out of the way of requests
    fn settle(&mut self) {
        culprit::looking_at(None);
        let due_ns = self.backend.next_deadline_ns();
        if self.has_bytes || due_ns.is_some_and(|due_ns| due_ns <= clock::now_ns()) {
            self.has_bytes = !self.control();
            self.has_unfinished |= self.has_bytes;
            for port in self.backend.take_due() {
                events::raise(port);
                self.has_unfinished = true;
            }
            if !self.was_ready && self.backend.is_ready() {
                self.was_ready = true;
                survivor::allow_restart(self.restart);
                plain_log::info!(
                    "ready, {} us after the first instruction",
                    (clock::now_ns() - clock::start_ns()) / 1000
                );
                #[cfg(feature = "counting")]
                plain_log::info!("until then {} ticks asleep", kernel::counting::counted().asleep_ticks);
            }
            match self.backend.shutdown_request() {
                None => {}
                Some(Shutdown::Poweroff) => end(ShutdownReason::Poweroff),
                Some(Shutdown::Reboot) => end(ShutdownReason::Reboot),
            }
        }
        let Self { backend, poll_list, .. } = self;
        poll_list.update(backend.ports_version(), || backend.ports());
        self.due_ns = self.backend.next_deadline_ns();
        self.is_settled = !self.has_bytes;
    }

    /// Handles the events that are pending. True when there was something to serve.
    fn take_events(&mut self) -> bool {
        let mut has_served = false;
        self.has_unfinished = false;
        events::take_pending(|port| has_served |= self.on_event(port));
        has_served
    }

    /// Handles an event on one port: xenstored's, or one that the backend serves. True when there was something to serve.
    #[inline(never)] // what a loop around it would keep at hand costs more than the call
    fn on_event(&mut self, port: Port) -> bool {
        self.poll_list.active(port);
        if port == self.ring.port() {
            self.has_bytes = true;
            self.is_settled = false;
            return false;
        }
        culprit::serving(port);
        let served = self.backend.serve(port);
        self.is_settled &= served <= Served::Reads;
        if self.last_served != Some((port, served)) {
            self.last_served = Some((port, served));
            trace::record("served", [u64::from(port.0), served as u64]);
        }
        if served >= Served::More {
            self.put_off(port, served);
        }
        matches!(served, Served::Reads | Served::Done | Served::More | Served::Slow)
    }

    /// There is more to serve, but not now.
    #[cold]
    #[inline(never)]
    fn put_off(&mut self, port: Port, served: Served) {
        match served {
            // Its next turn comes when the others have had theirs.
            Served::More => {
                events::raise(port);
                self.has_unfinished = true;
            }
            Served::Slow => self.backend.set_aside(port),
            _ => {}
        }
    }

    /// Moves bytes between xenstored and the control plane and lets that act, until neither has anything to do, or others have waited long
    /// enough: false then.
    fn control(&mut self) -> bool {
        let Self { ring, backend, .. } = self;
        let mut buffer = [0; 1024];
        let start_ns = clock::now_ns();
        loop {
            let mut is_broken = false;
            backend.run();
            let moved = backend.with_store(|client| {
                let sent = ring.send(client.outgoing());
                client.sent(sent);
                let received = ring.receive(&mut buffer);
                if let Err(error) = client.feed(buffer.get(..received).unwrap_or_default()) {
                    plain_log::error!("xenstored breaks its protocol ({error}): every question under way is given up");
                    is_broken = true;
                }
                sent + received
            });
            if is_broken {
                backend.reset_store();
            }
            if moved == 0 {
                return true;
            }
            if clock::now_ns() - start_ns > CONTROL_NS {
                return false;
            }
        }
    }

    /// Waits for the next event, or for the next thing that is due. After requests were served the next one may be about to come.
    fn rest(&mut self, has_served: bool) {
        if !has_served {
            return self.sleep();
        }
        let spin_budget = self.polling.spin_budget();
        if spin_budget > 0 {
            let has_found = events::look_for(spin_budget);
            self.polling.looked(has_found);
            if has_found {
                return;
            }
        }
        if !self.polling.has_budget() {
            return self.sleep();
        }
        let before = clock::ticks();
        self.sleep();
        self.polling.slept(clock::ticks().wrapping_sub(before));
    }

    fn sleep(&mut self) {
        let (ports, deadline_ns) = self.poll_list.sleep(clock::now_ns, self.due_ns);
        if let Err(error) = events::wait(ports, deadline_ns) {
            cannot_sleep(error);
        }
    }
}

#[cold]
#[inline(never)]
fn cannot_sleep(error: Errno) -> ! {
    panic!("SCHEDOP_poll on our own ports: {error}");
}

/// Ends the domain as the toolstack asked.
fn end(reason: ShutdownReason) -> ! {
    const PATIENCE_NS: u64 = 100_000_000;
    plain_log::info!("ending as asked: {reason:?}");
    console::flush(PATIENCE_NS);
    shutdown(reason)
}
