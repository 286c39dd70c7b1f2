//! Takes devices back from a guest: the guest is asked first, its rights are revoked after.

use xen_types::Sbdf;

use crate::device::resources::{DeviceResources, GuestRights};
use crate::error::Error;
use crate::host::Host;
use crate::host::domain;
use crate::host::settings::Audit;
use crate::ops::executor;
use crate::ops::plan::release::{Assignment, Known, Rights};
use crate::ops::plan::{self, Looked, Plan};

/// Takes everything back ([`plan::release::release`]). Where it stops half-way, the table says `detaching` and the next command goes on.
///
/// # Errors
/// [`Error::Leaked`] when all was taken, and somebody still has a mapping of the device's registers, or a channel on its interrupts.
pub(crate) fn take_back(host: &Host, assignment: &Assignment, rights: Rights) -> Result<(), Error> {
    host.without_stopping(|| {
        executor::run(host, |executor| {
            let (plan, unknown) = plan(host, assignment, rights)?;
            // Nobody gets one of which it is not known what the guest may have of it.
            executor.set_aside(unknown);
            executor.carry_out(&plan)?;
            executor.verdict(&assignment.guest)
        })
    })
}

/// Reads again who is there, after a guest was waited for.
pub(crate) fn look_who_is_there(host: &Host, assignment: &mut Assignment) -> Result<(), Error> {
    assignment.guest_alive = domain::is_alive(host, assignment.guest.id)?;
    assignment.stub_alive = assignment.stub_alive && domain::is_alive(host, assignment.stub.id)?;
    if let Some(target) = &mut assignment.target {
        target.is_alive = domain::is_alive(host, target.guest.id)?;
    }
    Ok(())
}

/// What [`take_back`] would do, and the devices that would stay on their way because neither dom0 nor the pool says what they have.
pub(crate) fn plan(host: &Host, assignment: &Assignment, rights: Rights) -> Result<(Plan, Vec<(Sbdf, Error)>), Error> {
    let (mut known, unknown) = gather(host, assignment);
    if !assignment.alive().is_empty() {
        known.kept = GuestRights::of(&DeviceResources::of_others(host, assignment.stub.id, &assignment.staying)?);
    }
    Ok((plan::release::release(assignment, &known, rights, looked(host)), unknown))
}

/// How far a clean audit can be trusted.
pub(crate) fn looked(host: &Host) -> Looked {
    if host.settings.get().audit == Audit::Nobody { Looked::Away } else { Looked::Through }
}

/// What is known of the devices that dom0 sees, and of those that were pulled out. Last, those of which neither dom0 nor the pool says what they
/// have.
fn gather(host: &Host, assignment: &Assignment) -> (Known, Vec<(Sbdf, Error)>) {
    let (mut known, mut unknown) = (Known::default(), Vec::new());
    for device in assignment.devices.iter().copied() {
        let is_there = host.sysfs.exists(device);
        if !is_there {
            known.absent.push(device);
        }
        match DeviceResources::find_or_recall(host, assignment.stub.id, device) {
            Ok(resources) if is_there => known.present.push(resources),
            Ok(resources) => known.removed.push(resources),
            Err(error) => unknown.push((device, error.into())),
        }
    }
    (known, unknown)
}
