//! Guests beside each other, and after each other.

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    dom0::{
        bed::Bed,
        devices::{E1000, EDU, NVME, attribute, sysfs},
        snapshot::Snapshot,
    },
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::new("each_of_two_guests_sees_its_own_device_only", own_device_only),
    Case::new("a_destroyed_guest_leaves_nothing_behind", nothing_left),
];

fn own_device_only(bed: &mut Bed) -> Result<()> {
    for (name, device) in [("left", E1000), ("right", NVME)] {
        let guest = bed.guest_with(name, &[device])?;
        bed.in_guest(&guest, "echo 1 >/sys/bus/pci/rescan")?;
        let found = bed.addresses_in(&guest)?;
        ensure!(found == ["0000:00:00.0"], "{name} has {found:?}");
    }
    // Both at the same virtual address, each with the ids of its own: also with the other one running.
    for (name, device) in [("left", E1000), ("right", NVME)] {
        let guest = bed.guest_with(name, &[device])?;
        let ids = bed.in_guest(&guest, &format!("cd {}; cat vendor device", sysfs("0000:00:00.0")))?;
        let expected = format!("{}\n{}\n", attribute(device, "vendor")?, attribute(device, "device")?);
        ensure!(ids == expected.as_bytes(), "{name} sees {:?}, not {expected:?}", String::from_utf8_lossy(&ids));
    }
    Ok(())
}

/// A guest that dies with a device leaves xenstore, the stub's grants and event channels, everybody's rights and the pool as
/// they were before it came. The two guests of the case before stay and must not notice.
fn nothing_left(bed: &mut Bed) -> Result<()> {
    let stub = bed.stub_with_pool()?;
    let before = Snapshot::take(bed, &stub)?;
    let guest = bed.guest_with("brief", &[EDU])?;
    ensure!(before.compare(&Snapshot::take(bed, &stub)?).is_err(), "the comparison does not even notice the guest");
    bed.destroy(&guest)?;
    let deadline = bed.deadline;
    let backend = stub.node(&format!("backend/pci/{}", guest.id));
    // Xen and the stub have done their part by themselves; the tool does its own with the next command that changes anything.
    bed.pcidom(&["detach", &guest.id.to_string(), EDU])?;
    bed.store.wait_for(&backend, deadline, |value| value.is_none()).context("the stub holds on to the guest")?;
    expect(EDU, bed.pool_state(&stub, EDU)?.as_deref(), "free")?;
    before.compare(&Snapshot::take(bed, &stub)?)
}
