//! The stub: a PCI backend as a Xen PV domain of its own. This file joins the platform (`kernel`) and the backend (`drivers/pciback`).
#![no_std]
#![no_main]

extern crate alloc;

#[cfg(feature = "counting")]
mod counting;
mod options;
mod platform;

use alloc::vec::Vec;
use kernel::control::{ShutdownReason, shutdown};
use kernel::poll_list::PollList;
use kernel::xenstore_ring::XenstoreRing;
use kernel::{BootInfo, clock, console, events, heap, trace};
use pciback::{Backend, Linger, Served, Shutdown};
use platform::Xen;
use xen_types::Port;

kernel::image!(main);

fn main(info: &'static BootInfo) -> ! {
    let options = options::parse(info.command_line(), |word| {
        log::error!(
            "command line: \"{word}\" is not understood (known: export=vpci|slot|passthrough, config=broker|direct, log=error|warn|info|debug|trace)"
        );
    });
    log::set_max_level(options.log);
    let (major, minor) = kernel::xen_version();
    log::info!(
        "pcidom {} on Xen {major}.{minor}: {} KiB of memory, heap {} KiB, export={}, config={}",
        env!("CARGO_PKG_VERSION"),
        info.nr_pages * kernel::layout::PAGE_SIZE / 1024,
        heap::usage().total / 1024,
        options.export,
        if options.is_direct { "direct" } else { "broker" },
    );
    let ring = match XenstoreRing::take() {
        Ok(ring) => ring,
        Err(error) => {
            log::error!("no xenstore ({error}): this image runs as a guest that xl created");
            shutdown(ShutdownReason::Poweroff)
        }
    };
    Stub::new(ring, &options).run()
}

/// What the main loop works on.
struct Stub {
    ring: XenstoreRing,
    backend: Backend<Xen>,
    poll_list: PollList,
    /// Ports with more requests than one turn serves.
    unfinished: Vec<Port>,
    /// Xenstored's port had an event.
    has_bytes: bool,
    /// The last entry of the trace about this, which a burst of the same has once.
    last_served: Option<(Port, Served)>,
    linger: Linger,
}

impl Stub {
    fn new(ring: XenstoreRing, options: &options::Options) -> Self {
        let &options::Options { export, is_direct, .. } = options;
        let backend = Backend::new(Xen, pciback::Options { export, is_direct, ..pciback::Options::default() });
        Self {
            poll_list: PollList::new(ring.port()),
            unfinished: Vec::new(),
            ring,
            backend,
            has_bytes: true,
            last_served: None,
            linger: Linger::default(),
        }
    }

    /// Serves for ever.
    fn run(mut self) -> ! {
        let mut was_ready = false;
        #[cfg(feature = "counting")]
        let mut report = counting::Report::new();
        loop {
            #[cfg(feature = "counting")]
            report.turn(|| self.backend.counters());
            let has_served = self.serve();
            // Requests are what there is most of, and they leave nothing to do here.
            if self.has_bytes || self.backend.has_work() {
                self.has_bytes = false;
                self.control();
                if !was_ready && self.backend.is_ready() {
                    was_ready = true;
                    log::info!(
                        "ready, {} us after the first instruction",
                        (clock::now_ns() - clock::start_ns()) / 1000
                    );
                }
                match self.backend.shutdown_request() {
                    None => {}
                    Some(Shutdown::Poweroff) => end(ShutdownReason::Poweroff),
                    Some(Shutdown::Reboot) => end(ShutdownReason::Reboot),
                }
            }
            if self.unfinished.is_empty() {
                self.rest(has_served);
            }
        }
    }

    /// Serves the ports that had an event, and those that the last turn left unfinished. True when there was something to serve.
    fn serve(&mut self) -> bool {
        let Self { ring, backend, poll_list, unfinished, has_bytes, last_served, .. } = self;
        let mut has_served = false;
        let left_over = unfinished.len();
        let mut serve = |port, unfinished: &mut Vec<Port>| {
            let served = backend.serve(port);
            if *last_served != Some((port, served)) {
                *last_served = Some((port, served));
                trace::record("served", [u64::from(port.0), served as u64]);
            }
            has_served |= matches!(served, Served::Reads | Served::Done | Served::More);
            if served == Served::More {
                unfinished.push(port);
            }
        };
        for index in 0..left_over {
            if let Some(&port) = unfinished.get(index) {
                serve(port, unfinished);
            }
        }
        unfinished.drain(..left_over);
        events::take_pending(|port| {
            poll_list.active(port);
            if port == ring.port() {
                *has_bytes = true;
            } else if !unfinished.contains(&port) {
                serve(port, unfinished);
            }
        });
        has_served
    }

    /// Moves bytes between xenstored and the control plane and lets that act, until neither has anything to do.
    fn control(&mut self) {
        let Self { ring, backend, .. } = self;
        let mut buffer = [0; 1024];
        loop {
            backend.run();
            let moved = backend.with_store(|client| {
                let sent = ring.send(client.outgoing());
                client.sent(sent);
                let received = ring.receive(&mut buffer);
                if let Err(error) = client.feed(buffer.get(..received).unwrap_or_default()) {
                    log::error!("xenstored breaks its protocol ({error}): every question under way is given up");
                    client.reset();
                }
                sent + received
            });
            if moved == 0 {
                return;
            }
        }
    }

    /// Waits for the next event, or for the next thing that is due. After requests were served the next one may be about to come.
    fn rest(&mut self, has_served: bool) {
        if !has_served {
            return self.sleep();
        }
        let patience = self.linger.patience();
        if patience > 0 {
            let has_found = events::look_for(patience);
            self.linger.looked(has_found);
            if has_found {
                return;
            }
        }
        let before = clock::ticks();
        self.sleep();
        self.linger.slept(clock::ticks().wrapping_sub(before));
    }

    fn sleep(&mut self) {
        let Self { backend, poll_list, .. } = self;
        poll_list.update(backend.ports_version(), || backend.ports());
        let (ports, deadline_ns) = poll_list.sleep(clock::now_ns, backend.next_deadline_ns());
        if let Err(error) = events::wait(ports, deadline_ns) {
            panic!("SCHEDOP_poll on our own ports: {error}");
        }
    }
}

/// Ends the domain as the toolstack asked.
fn end(reason: ShutdownReason) -> ! {
    const PATIENCE_NS: u64 = 100_000_000;
    log::info!("ending as asked: {reason:?}");
    console::flush(PATIENCE_NS);
    shutdown(reason)
}
