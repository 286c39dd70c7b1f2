//! A device is pulled out while a guest has it.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, ONE, TWO};
use crate::dom0::{
    devices::{E1000, HOT, component, config, sysfs},
    fixture::Fixture,
    guests::Domain,
    hotplug::Hidden,
};

pub(in super::super) const CASES: &[Case] = &[
    Case::new("a_device_that_is_gone_is_not_attached_and_says_so", gone_before),
    Case::new("a_device_pulled_out_is_told_and_keeps_its_address_until_detached", pulled_out),
    Case::new("a_device_that_does_not_answer_for_a_while_is_whole_when_it_does", away_for_a_while),
    Case::new("a_device_unplugged_in_dom0_can_be_detached_and_plugged_in_again", unplugged),
];

const DISK: &str = "/dev/nvme0n1";

/// Two running guests: one with a device that will be pulled out and one that stays, one that must not notice.
fn guests(fixture: &mut Fixture) -> Result<(Domain, Domain)> {
    let guest = fixture.having(ONE, &[E1000])?;
    fixture.in_pool(HOT)?;
    fixture.in_guest(&guest, "load nvme")?;
    let other = fixture.having(TWO, &[])?;
    Ok((guest, other))
}

fn gone_before(fixture: &mut Fixture) -> Result<()> {
    let (guest, _) = guests(fixture)?;
    let hidden = Hidden::new()?;
    let outcome = fixture.try_pcidom(&["attach", &guest.name, HOT])?;
    println!("agent: {}", outcome.stderr.trim());
    ensure!(outcome.code() == 1 && outcome.stderr.contains("gone"), "{outcome:?}");
    fixture.expect_connected(&guest)?;
    fixture.expect_in_guest(&guest, &[E1000])?;
    drop(hidden);
    fixture.pcidom(&["assignable", "remove", HOT])?;
    fixture.having(ONE, &[E1000, HOT])?;
    fixture.await_disk(&guest, DISK)?;
    Ok(())
}

fn pulled_out(fixture: &mut Fixture) -> Result<()> {
    let (guest, other) = guests(fixture)?;
    fixture.having(ONE, &[E1000, HOT])?;
    fixture.await_disk(&guest, DISK)?;
    let stub = fixture.stub()?;
    let address = fixture.virtual_address(&guest, HOT)?;
    // Has the frontend say what it gets.
    fixture.in_guest(&guest, "echo 'module xen_pcifront +p' >/proc/dynamic_debug/control")?;
    {
        let _hidden = Hidden::new()?;
        let seen = fixture.ids_in(&guest, &address)?;
        ensure!(seen == "ffffffff", "the guest reads {seen}");
        told(fixture, &guest)?;
        fixture.expect_connected(&guest)?;
        fixture.expect_readable(&guest, E1000)?;
        // The guest's kernel was told by an error message of the bus.
        let log = fixture.in_guest(&guest, "dmesg | grep 'AER process' || dmesg | tail -5")?;
        let log = String::from_utf8_lossy(&log).trim().replace('\n', " | ");
        println!("agent: the guest says: {log}");
        ensure!(log.contains("AER process"), "the guest was not told: {log}");
        fixture.in_guest(&other, "true")?;
        fixture.in_guest(&guest, "echo 'module xen_pcifront -p' >/proc/dynamic_debug/control")?;
        fixture.pcidom(&["detach", &guest.name, HOT])?;
        fixture.expect_connected(&guest)?;
        fixture.expect_in_guest(&guest, &[E1000])?;
        let state = fixture.pool_state(&stub, HOT)?.unwrap_or_default();
        ensure!(state.starts_with("refused") && state.contains("does not answer"), "in the pool it is {state:?}");
    }
    ensure!(fixture.domains.contains(&stub), "the stub is another one");
    // Back in its slot, it is a device like any other.
    fixture.pcidom(&["assignable", "remove", HOT])?;
    fixture.having(ONE, &[E1000, HOT])?;
    fixture.await_disk(&guest, DISK)?;
    fixture.detach(&guest, &[HOT])
}

/// Nobody but the stub sees that it was away, and has lost all that it had.
fn away_for_a_while(fixture: &mut Fixture) -> Result<()> {
    let (guest, _) = guests(fixture)?;
    fixture.in_guest(&guest, "unload nvme")?;
    fixture.having(ONE, &[E1000, HOT])?;
    let address = fixture.virtual_address(&guest, HOT)?;
    let (ids, before) = (fixture.ids_in(&guest, &address)?, config(HOT)?);
    {
        let hidden = Hidden::new()?;
        let seen = fixture.ids_in(&guest, &address)?;
        ensure!(seen == "ffffffff", "the guest reads {seen}");
        hidden.reset()?;
        thread::sleep(Duration::from_millis(500));
    }
    let begun = Instant::now();
    while fixture.ids_in(&guest, &address)? != ids {
        ensure!(Instant::now() < fixture.deadline, "it does not come back");
    }
    println!("agent: it was there again after {} ms", begun.elapsed().as_millis());
    let after = config(HOT)?;
    let addresses = [&before, &after].map(|config| config.get(0x10..0x18));
    ensure!(addresses[0] == addresses[1], "BAR 0 is {:x?}, was {:x?}", addresses[1], addresses[0]);
    ensure!(after.get(4).is_some_and(|command| command & 2 != 0), "it does not decode");
    let stub = fixture.stub()?;
    let state = stub.node(&format!("pool/{}/state", component(HOT)));
    let deadline = fixture.deadline;
    fixture.store.wait_for(&state, deadline, |state| state.is_some_and(|text| text.starts_with("assigned")))?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, DISK)?;
    fixture.detach(&guest, &[HOT])
}

/// dom0's kernel takes part in this removal, and Xen forgets the device. The guest must not be receiving message-signalled interrupts from
/// it: Xen destroys them where they are bound, and panics when the guest then closes its event channel (Xen 4.17, "Xen BUG at
/// arch/x86/irq.c:1753" in `__pirq_guest_unbind`, whoever serves the device).
fn unplugged(fixture: &mut Fixture) -> Result<()> {
    let (guest, _) = guests(fixture)?;
    fixture.in_guest(&guest, "unload nvme")?;
    fixture.having(ONE, &[E1000, HOT])?;
    let address = fixture.virtual_address(&guest, HOT)?;
    fixture.qmp("device_del", r#"{"id": "hot"}"#)?;
    await_presence(fixture, false).context("dom0 did not let go of it")?;
    let seen = fixture.ids_in(&guest, &address)?;
    ensure!(seen == "ffffffff", "the guest reads {seen}");
    told(fixture, &guest)?;
    fixture.expect_connected(&guest)?;
    fixture.expect_readable(&guest, E1000)?;
    fixture.pcidom(&["detach", &guest.name, HOT])?;
    fixture.expect_in_guest(&guest, &[E1000])?;
    fixture.pcidom(&["assignable", "remove", HOT])?;
    fixture
        .qmp("device_add", r#"{"driver": "nvme", "id": "hot", "bus": "outside", "serial": "hot", "drive": "hot"}"#)?;
    await_presence(fixture, true).context("dom0 did not find it again")?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.having(ONE, &[E1000, HOT])?;
    fixture.await_disk(&guest, DISK)?;
    fixture.detach(&guest, &[HOT])
}

/// The pool, the error node and `list` tell that the device is gone, and its slot is not given to anybody.
fn told(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    let (deadline, stub) = (fixture.deadline, fixture.stub()?);
    let state = stub.node(&format!("pool/{}/state", component(HOT)));
    fixture.store.wait_for(&state, deadline, |state| state.is_some_and(|text| text.starts_with("absent")))?;
    let text = fixture.error_text(guest)?;
    ensure!(text.starts_with(&format!("19 {HOT} is gone")), "the error node says {text:?}");
    let listing = fixture.pcidom(&["list"])?;
    ensure!(listing.lines().any(|line| line.contains(HOT) && line.contains("device gone")), "{listing}");
    let entries = fixture.entries(guest)?;
    ensure!(entries.iter().any(|entry| entry.device == HOT && entry.state == "3"), "{entries:?}");
    Ok(())
}

/// Waits until dom0's kernel knows the device, or no longer does.
fn await_presence(fixture: &Fixture, wanted: bool) -> Result<()> {
    while fs::exists(sysfs(HOT))? != wanted {
        ensure!(std::time::Instant::now() < fixture.deadline, "the time is over");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
