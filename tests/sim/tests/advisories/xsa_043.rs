//! XSA-43 (CVE-2013-0231): each failing `XEN_PCI_OP_enable_msi` made pciback print a line, and a guest could have the log of dom0 filled.
//!
//! Ours: what a guest causes is told once for each device and reason, and counted.

use pciif::{Command, Request};
use sim::logs;

use super::{V, ask, assert_served, command, world};

#[test]
fn requests_that_fail_fill_no_log() {
    logs::collect(log::LevelFilter::Info);
    let mut world = world();
    world.xen.limit_pirqs(0);
    logs::take();
    drop(world.broker.take_lines());
    for round in 0..2_000 {
        assert_eq!(command(&mut world, Command::EnableMsi).err, -5);
        assert_eq!(world.ask_msix(super::ATTACKER, V, &[0, 1]).0.map(|answer| answer.err), Some(-5));
        assert_eq!(ask(&mut world, &Request { cmd: 77 + round, ..Request::conf_read(V, 0, 4) }).err, -4);
        assert_eq!(ask(&mut world, &Request::conf_read(V, -4, 4)).err, -2);
        assert_ne!(ask(&mut world, &Request::conf_write(V, 0x52, 2, 1)).err, 0);
        assert_eq!(ask(&mut world, &Request::conf_write(V, 0x100, 4, round)).err, 0, "dropped");
    }
    let (stub, broker) = (logs::take(), world.broker.take_lines());
    assert!(stub.len() <= 8, "{} lines: {:?}", stub.len(), stub.first());
    assert!(broker.len() <= 8, "{} lines: {:?}", broker.len(), broker.first());
    assert_served(&mut world);
}
