//! A device is pulled out while a guest has it.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Case, ONE, TWO};
use crate::dom0::{
    bed::Bed,
    devices::{E1000, HOT, component, sysfs},
    guests::Domain,
    hotplug::Hidden,
};

pub(in super::super) const CASES: &[Case] = &[
    Case::new("a_device_that_is_gone_is_not_attached_and_says_so", gone_before),
    Case::new("a_device_pulled_out_is_told_and_keeps_its_address_until_detached", pulled_out),
    Case::new("a_device_unplugged_in_dom0_can_be_detached_and_plugged_in_again", unplugged),
];

const DISK: &str = "/dev/nvme0n1";

/// Two running guests: one with a device that will be pulled out and one that stays, one that must not notice.
fn guests(bed: &mut Bed) -> Result<(Domain, Domain)> {
    let guest = bed.having(ONE, &[E1000])?;
    bed.in_pool(HOT)?;
    bed.in_guest(&guest, "load nvme")?;
    let other = bed.having(TWO, &[])?;
    Ok((guest, other))
}

fn gone_before(bed: &mut Bed) -> Result<()> {
    let (guest, _) = guests(bed)?;
    let hidden = Hidden::new()?;
    let outcome = bed.try_pcidom(&["attach", &guest.name, HOT])?;
    println!("agent: {}", outcome.stderr.trim());
    ensure!(outcome.code() == 1 && outcome.stderr.contains("gone"), "{outcome:?}");
    bed.expect_connected(&guest)?;
    bed.expect_in_guest(&guest, &[E1000])?;
    drop(hidden);
    bed.pcidom(&["assignable", "remove", HOT])?;
    bed.having(ONE, &[E1000, HOT])?;
    bed.await_disk(&guest, DISK)?;
    Ok(())
}

fn pulled_out(bed: &mut Bed) -> Result<()> {
    let (guest, other) = guests(bed)?;
    bed.having(ONE, &[E1000, HOT])?;
    bed.await_disk(&guest, DISK)?;
    let stub = bed.stub()?;
    let address = bed.virtual_address(&guest, HOT)?;
    // Has the frontend say what it gets.
    bed.in_guest(&guest, "echo 'module xen_pcifront +p' >/proc/dynamic_debug/control")?;
    {
        let _hidden = Hidden::new()?;
        let seen = bed.ids_in(&guest, &address)?;
        ensure!(seen == "ffffffff", "the guest reads {seen}");
        told(bed, &guest)?;
        bed.expect_connected(&guest)?;
        bed.expect_readable(&guest, E1000)?;
        // The guest's kernel was told by an error message of the bus.
        let log = bed.in_guest(&guest, "dmesg | grep 'AER process' || dmesg | tail -5")?;
        let log = String::from_utf8_lossy(&log).trim().replace('\n', " | ");
        println!("agent: the guest says: {log}");
        ensure!(log.contains("AER process"), "the guest was not told: {log}");
        bed.in_guest(&other, "true")?;
        bed.in_guest(&guest, "echo 'module xen_pcifront -p' >/proc/dynamic_debug/control")?;
        bed.pcidom(&["detach", &guest.name, HOT])?;
        bed.expect_connected(&guest)?;
        bed.expect_in_guest(&guest, &[E1000])?;
        let state = bed.pool_state(&stub, HOT)?.unwrap_or_default();
        ensure!(state.starts_with("refused") && state.contains("does not answer"), "in the pool it is {state:?}");
    }
    ensure!(bed.domains.contains(&stub), "the stub is another one");
    // Back in its slot, it is a device like any other.
    bed.pcidom(&["assignable", "remove", HOT])?;
    bed.having(ONE, &[E1000, HOT])?;
    bed.await_disk(&guest, DISK)?;
    bed.detach(&guest, &[HOT])
}

/// dom0's kernel takes part in this removal, and Xen forgets the device. The guest must not be receiving message-signalled interrupts from
/// it: Xen destroys them where they are bound, and panics when the guest then closes its event channel (Xen 4.17, "Xen BUG at
/// arch/x86/irq.c:1753" in `__pirq_guest_unbind`, whoever serves the device).
fn unplugged(bed: &mut Bed) -> Result<()> {
    let (guest, _) = guests(bed)?;
    bed.in_guest(&guest, "unload nvme")?;
    bed.having(ONE, &[E1000, HOT])?;
    let address = bed.virtual_address(&guest, HOT)?;
    bed.qmp("device_del", r#"{"id": "hot"}"#)?;
    await_presence(bed, false).context("dom0 did not let go of it")?;
    let seen = bed.ids_in(&guest, &address)?;
    ensure!(seen == "ffffffff", "the guest reads {seen}");
    told(bed, &guest)?;
    bed.expect_connected(&guest)?;
    bed.expect_readable(&guest, E1000)?;
    bed.pcidom(&["detach", &guest.name, HOT])?;
    bed.expect_in_guest(&guest, &[E1000])?;
    bed.pcidom(&["assignable", "remove", HOT])?;
    bed.qmp("device_add", r#"{"driver": "nvme", "id": "hot", "bus": "outside", "serial": "hot", "drive": "hot"}"#)?;
    await_presence(bed, true).context("dom0 did not find it again")?;
    bed.in_guest(&guest, "load nvme")?;
    bed.having(ONE, &[E1000, HOT])?;
    bed.await_disk(&guest, DISK)?;
    bed.detach(&guest, &[HOT])
}

/// The pool, the error node and `list` tell that the device is gone, and its slot is not given to anybody.
fn told(bed: &mut Bed, guest: &Domain) -> Result<()> {
    let (deadline, stub) = (bed.deadline, bed.stub()?);
    let state = stub.node(&format!("pool/{}/state", component(HOT)));
    bed.store.wait_for(&state, deadline, |state| state.is_some_and(|text| text.starts_with("vanished")))?;
    let text = bed.error_text(guest)?;
    ensure!(text.starts_with(&format!("19 {HOT} is gone")), "the error node says {text:?}");
    let listing = bed.pcidom(&["list"])?;
    ensure!(listing.lines().any(|line| line.contains(HOT) && line.contains("device gone")), "{listing}");
    let entries = bed.entries(guest)?;
    ensure!(entries.iter().any(|entry| entry.device == HOT && entry.state == "3"), "{entries:?}");
    Ok(())
}

/// Waits until dom0's kernel knows the device, or no longer does.
fn await_presence(bed: &Bed, wanted: bool) -> Result<()> {
    while fs::exists(sysfs(HOT))? != wanted {
        ensure!(std::time::Instant::now() < bed.deadline, "the time is over");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
