//! Several devices at once, beside each other and after each other.

use anyhow::{Context, Result, ensure};
use xenstore::{Nodes as _, Permission};

use super::{Case, ONE};
use crate::{
    dom0::{
        devices::{AHCI, E1000, E1000E, EDU, NVME, PAIR},
        fixture::Fixture,
        guests::Domain,
        hotplug::Entry,
        store_trace::Who,
    },
    store::expect,
};

pub(in super::super) const CASES: &[Case] = &[
    Case::new("three_devices_come_in_one_transition", in_one_transition),
    Case::new("when_the_first_leaves_the_others_move_up_and_work", others_move_up),
    Case::new("a_slot_that_became_free_is_used_again", slot_is_used_again),
    Case::new("devices_come_and_go_in_one_transition", come_and_go),
    Case::new("the_last_device_leaves_and_comes_back", last_and_back),
    Case::new("functions_of_one_slot_stay_together", functions_of_one_slot),
];

fn vdevs(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| &*entry.vdev).collect()
}

fn in_one_transition(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(ONE, &[])?;
    let devices = [E1000, EDU, E1000E];
    for device in devices {
        fixture.in_pool(device)?;
    }
    // First device to a running guest: from nothing. Then two more.
    fixture.attach(&guest, &devices[..1])?;
    let dirs = [fixture.backend(&guest)? + "/state", guest.node("device/pci/0/state")];
    let name = guest.name.clone();
    let writes = fixture
        .store_trace(&guest, &dirs, |fixture| fixture.pcidom(&["attach", &name, devices[1], devices[2]]).map(drop))?;
    let states: Vec<(Who, &str)> = writes
        .iter()
        .filter(|write| write.path.ends_with("/state"))
        .map(|write| (write.who, write.value.as_deref().unwrap_or("gone")))
        .collect();
    ensure!(
        states == [(Who::Tool, "7"), (Who::Guest, "7"), (Who::Stub, "8"), (Who::Guest, "4"), (Who::Stub, "4")],
        "not one transition: {states:?}"
    );
    let entries = fixture.entries(&guest)?;
    ensure!(vdevs(&entries) == ["0000:00:00.00", "0000:00:01.00", "0000:00:02.00"], "{entries:?}");
    fixture.expect_in_guest(&guest, &devices)
}

fn others_move_up(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(ONE, &[E1000, EDU, E1000E])?;
    fixture.detach(&guest, &[E1000])?;
    fixture.expect_in_guest(&guest, &[EDU, E1000E])?;
    // Their addresses stay, their numbers do not.
    let entries = fixture.entries(&guest)?;
    ensure!(vdevs(&entries) == ["0000:00:01.00", "0000:00:02.00"], "{entries:?}");
    fixture.detach(&guest, &[EDU])?;
    fixture.expect_in_guest(&guest, &[E1000E])?;
    // A driver, with its interrupts, works with a device whose number has changed twice.
    fixture.in_guest(&guest, "load e1000e")?;
    let interface = fixture.interface_in(&guest, E1000E)?;
    fixture.connect(&guest, &interface)?;
    fixture.check_kind(&guest, &interface, "pcifront-msi-x", 3)?;
    fixture.ping(&guest, 10)?;
    fixture.in_guest(&guest, "unload e1000e")?;
    Ok(())
}

fn slot_is_used_again(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(ONE, &[E1000, EDU, E1000E])?;
    fixture.detach(&guest, &[E1000, EDU])?;
    let before = fixture.entries(&guest)?;
    ensure!(vdevs(&before) == ["0000:00:02.00"], "{before:?}");
    for device in [NVME, AHCI] {
        fixture.in_pool(device)?;
        fixture.attach(&guest, &[device])?;
    }
    let entries = fixture.entries(&guest)?;
    ensure!(vdevs(&entries) == ["0000:00:02.00", "0000:00:00.00", "0000:00:01.00"], "{entries:?}");
    fixture.expect_in_guest(&guest, &[E1000E, NVME, AHCI])
}

/// What the tool does not do, and another toolstack may: one device leaves and another one comes in the same round.
fn come_and_go(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(ONE, &[E1000E, NVME])?;
    fixture.in_pool(EDU)?;
    let stub = fixture.stub()?;
    let dir = fixture.backend(&guest)?;
    let node = |name: &str| format!("{dir}/{name}");
    // Entries 0 and 1 are there; 2 is new.
    let stubs = [
        Permission::none(xen_types::DomId::DOM0),
        Permission::both(xen_types::DomId(stub.id)),
        Permission::read(xen_types::DomId(guest.id)),
    ];
    let paths = ["dev-2", "state-2", "vdev-2", "state-0", "num_devs", "state"].map(node);
    let [dev, state, vdev, leaving, count, own] = &paths;
    fixture.store.transaction(|nodes| {
        nodes.write(dev, EDU)?;
        nodes.write(state, "1")?;
        nodes.set_permissions(state, &stubs)?;
        nodes.write(vdev, "")?;
        nodes.set_permissions(vdev, &stubs)?;
        nodes.write(count, "3")?;
        nodes.write(leaving, "5")?;
        nodes.write(own, "7")
    })?;
    fixture.await_backend(&guest, "4")?;
    fixture.expect_connected(&guest)?;
    let entries = fixture.entries(&guest)?;
    let states: Vec<&str> = entries.iter().map(|entry| &*entry.state).collect();
    ensure!(states == ["5", "3", "3"], "{entries:?}");
    expect("the device that left", fixture.pool_state(&stub, E1000E)?.as_deref(), "free")?;
    expect("the device that came", fixture.pool_state(&stub, EDU)?.as_deref(), &format!("assigned {}", guest.id))?;
    let found = fixture.addresses_in(&guest)?;
    ensure!(found.len() == 2, "the guest has {found:?}");
    // And back, so that the tool's table is right again.
    fixture.store.transaction(|nodes| {
        nodes.write(leaving, "1")?;
        nodes.write(state, "5")?;
        nodes.write(own, "7")
    })?;
    fixture.await_backend(&guest, "4")?;
    fixture.store.transaction(|nodes| {
        nodes.write(count, "2")?;
        [dev, state, vdev].iter().try_for_each(|path| nodes.remove(path).map(drop))
    })?;
    fixture.expect_free(EDU)?;
    fixture.expect_in_guest(&guest, &[E1000E, NVME])
}

fn last_and_back(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(ONE, &[NVME])?;
    for _ in 0..2 {
        fixture.detach(&guest, &[NVME])?;
        nothing_left(fixture, &guest)?;
        fixture.attach(&guest, &[NVME])?;
        fixture.expect_in_guest(&guest, &[NVME])?;
    }
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    fixture.detach(&guest, &[NVME])
}

/// With the last device both directories are gone.
fn nothing_left(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    let (stub, backend) = (fixture.stub()?, fixture.backend(guest)?);
    ensure!(fixture.store.text(&backend)?.is_none(), "the backend's directory is still there");
    ensure!(fixture.store.children(&stub.node("backend"))?.is_empty(), "its parent is still there");
    ensure!(fixture.store.children(&guest.node("device/pci"))?.is_empty(), "the frontend's directory is still there");
    Ok(())
}

fn functions_of_one_slot(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(ONE, &[EDU])?;
    for device in PAIR {
        fixture.in_pool(device)?;
    }
    let together = ["0000:00:00.00", "0000:00:01.00", "0000:00:01.01"];
    fixture.attach(&guest, &PAIR)?;
    let entries = fixture.entries(&guest)?;
    ensure!(vdevs(&entries) == together, "{entries:?}");
    fixture.expect_in_guest(&guest, &[EDU, PAIR[0], PAIR[1]])?;
    // Each may go and come alone, and finds its place again.
    for (alone, other) in [(1, 0), (0, 1)] {
        fixture.detach(&guest, &[PAIR[alone]])?;
        fixture.expect_in_guest(&guest, &[EDU, PAIR[other]])?;
        fixture.attach(&guest, &[PAIR[alone]])?;
        let entries = fixture.entries(&guest)?;
        let place = entries.iter().find(|entry| entry.device == PAIR[alone]).context("it is not listed")?;
        ensure!(place.vdev == together[alone + 1], "{entries:?}");
    }
    fixture.detach(&guest, &PAIR)?;
    fixture.expect_in_guest(&guest, &[EDU])
}
