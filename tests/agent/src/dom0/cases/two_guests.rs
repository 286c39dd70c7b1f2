//! Two guests at the same time, and in turn.

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    dom0::{
        devices::{E1000, EDU, NVME, attribute, sysfs},
        fixture::Fixture,
        snapshot::Snapshot,
    },
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::new("each_of_two_guests_sees_its_own_device_only", own_device_only),
    Case::new("a_destroyed_guest_leaves_nothing_behind", nothing_left),
];

fn own_device_only(fixture: &mut Fixture) -> Result<()> {
    for (name, device) in [("left", E1000), ("right", NVME)] {
        let guest = fixture.guest_with(name, &[device])?;
        fixture.in_guest(&guest, "echo 1 >/sys/bus/pci/rescan")?;
        let found = fixture.addresses_in(&guest)?;
        ensure!(found == ["0000:00:00.0"], "{name} has {found:?}");
    }
    // Both at the same virtual address, each with the ids of its own: also with the other one running.
    for (name, device) in [("left", E1000), ("right", NVME)] {
        let guest = fixture.guest_with(name, &[device])?;
        let ids = fixture.in_guest(&guest, &format!("cd {}; cat vendor device", sysfs("0000:00:00.0")))?;
        let expected = format!("{}\n{}\n", attribute(device, "vendor")?, attribute(device, "device")?);
        ensure!(ids == expected.as_bytes(), "{name} sees {:?}, not {expected:?}", String::from_utf8_lossy(&ids));
    }
    Ok(())
}

/// A guest that dies with a device leaves xenstore, the stub's grants and event channels, everybody's rights and the pool as
/// they were before it came. The two guests of the case before stay and must not notice.
fn nothing_left(fixture: &mut Fixture) -> Result<()> {
    let stub = fixture.stub_with_pool()?;
    let before = Snapshot::take(fixture, &stub)?;
    let guest = fixture.guest_with("brief", &[EDU])?;
    ensure!(before.compare(&Snapshot::take(fixture, &stub)?).is_err(), "the comparison does not even notice the guest");
    fixture.destroy(&guest)?;
    let deadline = fixture.deadline;
    let backend = stub.node(&format!("backend/pci/{}", guest.id));
    // Xen and the stub have done their part by themselves; the tool does its own with the next command that changes anything.
    fixture.pcidom(&["detach", &guest.id.to_string(), EDU])?;
    fixture.store.wait_for(&backend, deadline, |value| value.is_none()).context("the stub holds on to the guest")?;
    expect(EDU, fixture.pool_state(&stub, EDU)?.as_deref(), "free")?;
    fixture.await_freed(&guest)?;
    before.compare(&Snapshot::take(fixture, &stub)?)
}
