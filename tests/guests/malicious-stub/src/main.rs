//! A stub that misbehaves: announces a ring to the broker as `docs/broker.md` says and asks for what it must not get. It prints
//! `malicious stub: NAME err=N` for each thing that it tried, and `malicious stub: done` at the end.
//!
//! Its command line names devices: `msi=BDF msix=BDF` for those that the broker's table says are its own (with MSI and with MSI-X), `foreign=BDF`
//! for another stub's. With `hang` it asks for nothing and hangs as soon as the broker is there, and says `malicious stub: started again` when its image
//! is.
#![no_std]
#![no_main]

extern crate alloc;

mod attempts;
mod ring;
mod targets;

use kernel::control::{ShutdownReason, shutdown};
use kernel::survivor::{self, Restart};
use kernel::{clock, console, events};
use pcidom_abi::paths;
use platform::RingTransport;
use ring::Ring;
use targets::Targets;
use xenstore::{Nodes, Store};

kernel::image!(main);

/// Time for the console to take what was said.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Time for the broker to notice an announcement.
const NOTICE_NS: u64 = 500_000_000;

fn main(info: &'static kernel::BootInfo) -> ! {
    match run(info.command_line()) {
        Ok(()) => log::info!("malicious stub: done"),
        Err(why) => log::error!("malicious stub: gave up: {why}"),
    }
    console::flush(PATIENCE_NS);
    // Stays, so that nothing is cleaned up behind it before somebody has looked.
    loop {
        if events::wait(&[], None).is_err() {
            shutdown(ShutdownReason::Crash)
        }
    }
}

fn run(command_line: &str) -> Result<(), &'static str> {
    let hangs = command_line.split(' ').any(|word| word == "hang");
    if hangs && survivor::restarts() > 0 {
        log::info!("malicious stub: started again");
        return Ok(());
    }
    let targets = Targets::parse(command_line).ok_or("the command line does not name its targets")?;
    let mut store = Store::new(RingTransport::take().map_err(|_| "no xenstore")?);
    let mut ring = Ring::offer().map_err(|_| "no page for the broker")?;
    // With a version, which toolstacks wait for.
    let mut announce = |reference: u32, port: u32| {
        let nodes = [(paths::relative::RING_REF, reference), (paths::relative::RING_PORT, port)];
        nodes
            .into_iter()
            .try_for_each(|(node, number)| store.write(node, alloc::format!("{number}")))
            .and_then(|()| store.write(paths::relative::VERSION, pcidom_abi::ANNOUNCEMENT))
            .map_err(|_| "xenstore refuses the announcement")
    };
    announce(ring.reference(), ring.port())?;
    ring.wait_for_broker()?;
    if hangs {
        survivor::allow_restart(Restart::Always);
        log::info!("malicious stub: hangs");
        loop {
            core::hint::spin_loop();
        }
    }
    for attempt in attempts::all(&targets) {
        let err = ring.ask(&attempt.request, &attempt.entries)?;
        log::info!("malicious stub: {} err={err}", attempt.name);
    }
    let harmless = attempts::query(targets.msi);
    ring.storm(&harmless)?;
    log::info!("malicious stub: a storm of events err={}", ring.ask(&harmless, &[])?);
    log::info!("malicious stub: garbage flags err={}", ring.ask_with_flags(&harmless, u32::MAX)?);
    for (reference, port) in [(u32::MAX, u32::MAX), (4711, ring.port()), (ring.reference(), ring.port())] {
        announce(reference, port)?;
        // It looks ten times a second.
        events::wait(&[], Some(clock::now_ns() + NOTICE_NS)).map_err(|_| "sleeping is refused")?;
    }
    ring.wait_for_broker()?;
    log::info!("malicious stub: a ring that was announced wrongly for a while err={}", ring.ask(&harmless, &[])?);
    Ok(())
}
