//! XSA-157 (CVE-2015-8551, CVE-2015-8552): sequences of MSI and MSI-X requests ran into a BUG or a NULL pointer of dom0's PCI core (on twice, both kinds at once, off
//! without on, MSI-X with memory decoding off), or had it print warnings without end.
//!
//! Ours: every sequence of four is answered, never leaves both kinds on, and what is mapped is what is on.

use pciback::platform::Width;
use pciif::{Command, Request};
use sim::logs;
use sim::tool::ecam;

use super::{ATTACKER, MINE, V, ask, assert_served, command, enable_msi, register, vectors, world};

const KINDS: usize = 5;

/// Whether a request of this kind succeeded, and how many vectors are on then.
fn carry_out(world: &mut sim::World, kind: usize) -> (bool, usize) {
    let is_done = |err: i32| err == 0;
    match kind {
        0 => (is_done(command(world, Command::EnableMsi).err), 1),
        1 => (is_done(ask(world, &enable_msi(4)).err), 4),
        2 => (world.ask_msix(ATTACKER, V, &[0, 3]).0.is_some_and(|answer| answer.err == 0), 2),
        3 => (is_done(command(world, Command::DisableMsi).err), 0),
        _ => (is_done(command(world, Command::DisableMsix).err), 0),
    }
}

#[test]
fn every_sequence_of_four_is_answered_and_leaves_one_kind_on_or_none() {
    logs::collect(log::LevelFilter::Info);
    let mut world = world();
    logs::take();
    for sequence in 0..KINDS.pow(4) {
        let mut on = 0;
        for step in 0..4 {
            let (is_done, count) = carry_out(&mut world, sequence / KINDS.pow(step) % KINDS);
            on = if is_done { count } else { on };
            assert_eq!(vectors(&world), on, "sequence {sequence}, step {step}");
            let kinds = world.xen.with_function(ecam(MINE), |card| (card.has_msi_on(), card.has_msix_on()));
            let (msi, msix) = kinds.expect("plugged in");
            assert_eq!((msi || msix, msi && msix), (on > 0, false), "sequence {sequence}, step {step}");
        }
        assert_eq!(command(&mut world, Command::DisableMsi).err, 0);
    }
    assert!(logs::take().len() + world.broker.take_lines().len() < 10);
    assert_served(&mut world);
}

/// Xen reads and writes the table when it maps an entry, which the simulated one refuses without decoding.
#[test]
fn msi_x_is_set_up_with_memory_decoding_on() {
    let mut world = world();
    world.xen.with_function(ecam(MINE), |card| {
        let command = card.read(4, Width::Word);
        card.write_register(4, Width::Word, command & !2);
    });
    assert_eq!(ask(&mut world, &Request::conf_write(V, 4, 2, 0)).err, 0, "nor does the guest want any");
    assert_eq!(world.ask_msix(ATTACKER, V, &[0]).1.len(), 1);
    assert_eq!(register(&world, 4, Width::Word) & 2, 2, "turned on before the entry was mapped");
}
