//! The broker is killed and started again.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::{Case, network};
use crate::dom0::{
    devices::{E1000E, config},
    drivers::vectors_node,
    fixture::Fixture,
    guests::{Domain, Request},
    irqs::Irqs,
    services::signal_xenstored,
};

pub(super) const CASES: &[Case] = &[
    Case::within(LIMIT, "a_transfer_does_not_notice_that_the_broker_is_killed", during_a_transfer),
    Case::within(LIMIT, "a_broker_killed_between_mapping_and_answer_leaks_nothing", between_mapping_and_answer),
    Case::within(LIMIT, "without_a_broker_msi_fails_cleanly_and_reads_work", without_a_broker),
];

const LIMIT: Duration = Duration::from_mins(5);
const MIB: u64 = 20;

/// The guest with the driver and one vector at least.
fn driving(fixture: &mut Fixture) -> Result<Domain> {
    let guest = network::guest(fixture)?;
    fixture.in_guest(&guest, "load e1000e")?;
    let interface = fixture.interface_in(&guest, E1000E)?;
    fixture.connect(&guest, &interface)?;
    fixture.check_kind(&guest, &interface, "pcifront-msi-x", 3)?;
    Ok(guest)
}

fn during_a_transfer(fixture: &mut Fixture) -> Result<()> {
    let guest = driving(fixture)?;
    fixture.transfer(&guest, MIB, |fixture, peer| {
        while peer.received() < MIB << 18 {
            ensure!(Instant::now() < fixture.deadline, "{} bytes moved", peer.received());
            thread::sleep(Duration::from_millis(1));
        }
        fixture.kill_broker();
        let at = peer.received();
        ensure!(at < MIB << 20, "the transfer was over before the broker died");
        fixture.broker()?;
        println!("agent: killed after {at} bytes, back after {}", peer.received());
        Ok(())
    })?;
    fixture.in_guest(&guest, "reload e1000e 1")?;
    let interface = fixture.interface_in(&guest, E1000E)?;
    fixture.connect(&guest, &interface)?;
    fixture.check_kind(&guest, &interface, "pcifront-msi-x", 3)?;
    fixture.ping(&guest, 10)
}

/// The driver comes. When the broker has noted that it is changing vectors, xenstored stops, so that the broker can map them but not say so
/// to anybody, and is killed. Stopped too early, xenstored does not tell the broker that its note was taken; hence more than one try, until one
/// succeeds.
fn between_mapping_and_answer(fixture: &mut Fixture) -> Result<()> {
    const ROUNDS: u32 = 20;
    const STEP: Duration = Duration::from_micros(400);
    const MAPPING: Duration = Duration::from_millis(20);
    let guest = driving(fixture)?;
    let irqs = Irqs::now(fixture)?;
    let before = (irqs.messages(), irqs.bound_to(guest.id).len());
    let mut round = 0;
    loop {
        ensure!(round < ROUNDS, "no broker died at the right moment");
        fixture.in_guest(&guest, "unload e1000e")?;
        let idle = Irqs::now(fixture)?.messages();
        let request = when_vectors_change(fixture, &guest, "load e1000e", |fixture| {
            thread::sleep(STEP * (round % 5));
            signal_xenstored(Signal::STOP)?;
            thread::sleep(MAPPING);
            let killed = fixture.broker().and_then(|broker| broker.signal(Signal::KILL));
            // Also for the sake of the kernel, which tells xenstored that the broker's connections are gone.
            signal_xenstored(Signal::CONT)?;
            killed
        })?;
        fixture.kill_broker();
        let left = Irqs::now(fixture)?.messages();
        round += 1;
        fixture.broker()?;
        // The driver may have got its vectors from the second broker, or made do with a pin.
        fixture.answer_well(&request)?;
        if left != idle {
            break;
        }
    }
    println!("agent: broker {round} died with vectors mapped and not answered");
    fixture.in_guest(&guest, "reload e1000e 1")?;
    let interface = fixture.interface_in(&guest, E1000E)?;
    fixture.connect(&guest, &interface)?;
    fixture.check_kind(&guest, &interface, "pcifront-msi-x", 3)?;
    fixture.ping(&guest, 10)?;
    let irqs = Irqs::now(fixture)?;
    let after = (irqs.messages(), irqs.bound_to(guest.id).len());
    ensure!(before == after, "messages (bound, unbound) and the guest's interrupts: {before:?}, then {after:?}");
    Ok(())
}

/// Has a guest start a command and does `work` as soon as the broker writes down that it changes the vectors of its card.
fn when_vectors_change(
    fixture: &mut Fixture,
    guest: &Domain,
    command: &str,
    work: impl FnOnce(&mut Fixture) -> Result<()>,
) -> Result<Request> {
    let node = vectors_node(E1000E);
    fixture.store.watch(&node)?;
    // The first event comes by itself.
    while fixture.store.wait(Instant::now() + Duration::from_millis(50))? {}
    let request = fixture.ask(guest, command)?;
    let deadline = fixture.deadline;
    ensure!(fixture.store.wait(deadline)?, "vectors did not change");
    let result = work(fixture);
    fixture.store.unwatch(&node)?;
    result.map(|()| request)
}

fn without_a_broker(fixture: &mut Fixture) -> Result<()> {
    let guest = driving(fixture)?;
    fixture.in_guest(&guest, "unload e1000e")?;
    fixture.kill_broker();
    // Its driver tries MSI-X, then MSI, then the pin.
    let started = Instant::now();
    let (code, _) = {
        let request = fixture.ask(&guest, "load e1000e")?;
        fixture.answer(&request)?
    };
    println!("agent: without a broker the driver took {:.1} s and ended with {code}", started.elapsed().as_secs_f64());
    let address = fixture.virtual_address(&guest, E1000E)?;
    let seen =
        fixture.in_guest(&guest, &format!("dd if=/sys/bus/pci/devices/{address}/config bs=4 count=1 2>/dev/null"))?;
    ensure!(config(E1000E)?.starts_with(&seen), "the guest reads {seen:02x?}");
    fixture.in_guest(&guest, "unload e1000e")?;
    let guest = driving(fixture)?;
    fixture.ping(&guest, 10)?;
    fixture.destroy(&guest)
}
