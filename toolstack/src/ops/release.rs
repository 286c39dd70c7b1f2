//! Taking devices back from a guest: told first, rights after.

use xen_types::{DomId, Errno, Pirq, Sbdf};
use xenstore::path;

use crate::audit;
use crate::broker;
use crate::device::reset::{Reset, Resetting};
use crate::device::resources::{DeviceResources, GuestRights};
use crate::error::{Doing, DomainName, Error, list};
use crate::host::Host;
use crate::host::domain;
use crate::host::settings::Audit;
use crate::ops::assignable;
use crate::ops::close;
use crate::ops::hot_unplug;
use crate::ops::in_use;
use crate::ops::pool::{self, STUB_PATIENCE};
use crate::records::device_table::{self, Phase, Record};
use crate::records::directories;
use crate::store::Change;
use crate::xen::HypercallError;
use crate::xen::Permission::Revoke;

/// Devices of one guest that are to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) stub: DomainName,
    pub(crate) stub_alive: bool,
    pub(crate) guest: DomainName,
    pub(crate) guest_alive: bool,
    pub(crate) devices: Vec<Sbdf>,
    /// Devices that the guest goes on using: what these need it keeps.
    pub(crate) staying: Vec<Sbdf>,
    /// What becomes of the connection of backend and frontend.
    pub(crate) connection: Connection,
    /// Devices that follow the guest go on following it.
    pub(crate) follows: bool,
}

/// What becomes of the connection of backend and frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// Other devices stay, and so does it.
    Stays,
    /// There is nobody any more at one of its ends: its directories go.
    Gone,
    /// Its last device goes, and the guest is asked to close. Whether the directories go too when it does not.
    Ends { by_force: bool },
}

/// Whether the rights to take back are known to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// All were given.
    Complete,
    /// A command died at giving or taking them: those that are not there are no error.
    Uncertain,
}

/// The devices that a guest uses, apart from some.
pub(crate) fn others(records: &[Record], guest: DomId, but: &[Sbdf]) -> Vec<Sbdf> {
    let uses = |record: &&Record| record.frontend == Some(guest) && record.phase != Phase::Leaked;
    records.iter().filter(uses).map(|record| record.device).filter(|device| !but.contains(device)).collect()
}

/// Takes everything back, in the order in which it hurts nobody: the devices become quiet, the guest loses sight of them and
/// the stub lets go, then the guest loses its rights, then the devices are reset, meanwhile the connection ends if it was the last device's,
/// and the devices return to the pool, where the stub looks at them anew (or, without a stub, to the plain assignable ones). Where it stops
/// half-way, the table says `detaching` and the next command goes on.
///
/// # Errors
/// [`Error::Held`] when all was taken, and somebody still has a mapping of the device's registers, or a channel on its interrupts.
pub(crate) fn take_back(host: &Host, assignment: &Assignment, rights: Rights) -> Result<(), Error> {
    host.without_stopping(|| take_all_back(host, assignment, rights))
}

fn take_all_back(host: &Host, assignment: &Assignment, rights: Rights) -> Result<(), Error> {
    let (facts, vanished, unknown) = gather(host, assignment);
    let all = [facts.as_slice(), vanished.as_slice()].concat();
    let mut changes = Vec::new();
    if assignment.guest_alive {
        changes.extend(audit::note_pirqs(host, &all)?); // while they are known
    }
    if !assignment.follows {
        changes.extend(assignment.devices.iter().copied().flat_map(device_table::forget_keep));
    }
    host.commit(&changes)?;
    let mut stuck = quiet(host, assignment, &facts);
    // Nobody gets one of which it is not known what the guest may have of it.
    stuck.extend(unknown);
    if assignment.connection == Connection::Gone {
        host.commit(&remove_directories(host, assignment)?)?;
    } else {
        host.trace(&format!("remove the entries of {}", list(&assignment.devices)));
        hot_unplug::remove_entries(host, &assignment.stub, &assignment.guest, &assignment.devices)?;
    }
    if assignment.stub_alive {
        pool::await_return(host, &assignment.stub, assignment.guest.id, &assignment.devices)?;
    }
    if assignment.guest_alive {
        revoke(host, assignment, &all, rights)?;
    } else {
        // Xen has taken the rights back with the domain. Where a device went depends on Xen's quarantine setting: make sure.
        for facts in &facts {
            assignable::quarantine(host, facts.device)?;
        }
    }
    let held = in_use::hold(host, &assignment.guest, &all)?;
    let is_stuck = |device: &Sbdf| stuck.iter().any(|(other, _)| other == device);
    let free: Vec<Sbdf> =
        assignment.devices.iter().copied().filter(|device| !held.has(*device) && !is_stuck(device)).collect();
    let returning = Returning::begin(host, &free, &facts)?;
    // Nothing of the devices takes part in that, so it need not wait for their resets.
    let changes = end_connection(host, assignment)?;
    let stub_alive = assignment.stub_alive && domain::is_alive(host, assignment.stub.id)?;
    returning.finish(host, &assignment.stub, stub_alive, Looked::as_set(host), changes)?;
    stuck.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))?;
    held.into_result(&assignment.guest)
}

fn remove_directories(host: &Host, assignment: &Assignment) -> Result<Vec<Change>, Error> {
    host.trace(&format!("remove the directories of {}", assignment.guest));
    let mut changes = directories::remove(host, assignment.stub.id, assignment.guest.id)?;
    if !domain::is_alive(host, assignment.stub.id)? {
        changes.push(Change::remove_if_empty(path::domain_path(assignment.stub.id))); // where the guest was asked to close
    }
    Ok(changes)
}

/// Has a guest close that has no devices any more. What is left to do then: to remove the directories.
fn end_connection(host: &Host, assignment: &Assignment) -> Result<Vec<Change>, Error> {
    match assignment.connection {
        Connection::Ends { by_force }
            if close::close(host, &assignment.stub, &assignment.guest, STUB_PATIENCE)? || by_force =>
        {
            remove_directories(host, assignment)
        }
        _ => Ok(Vec::new()),
    }
}

/// Makes the devices quiet and unmaps their vectors. Those with which that does not work, and why: they stay on their way back, and
/// the guest loses its rights all the same.
fn quiet(host: &Host, assignment: &Assignment, facts: &[DeviceResources]) -> Vec<(Sbdf, Error)> {
    let mut stuck = Vec::new();
    for device in assignment.devices.iter().copied() {
        let own: Vec<DeviceResources> = facts.iter().filter(|facts| facts.device == device).cloned().collect();
        if let Err(error) = broker::let_go(host, assignment.guest.id, &[device], &own) {
            host.note(&format!("{device} is not made quiet: {error}"));
            stuck.push((device, error));
        }
    }
    stuck
}

/// Whether it is known that nobody has anything of a device any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// The audit says it.
    Through,
    /// The admin does not care.
    Away,
}

impl Looked {
    /// What an audit that found nothing is worth.
    pub(crate) fn as_set(host: &Host) -> Self {
        if host.settings.get().audit == Audit::Nobody { Self::Away } else { Self::Through }
    }
}

/// Devices on their way back to the pool, and the resets that those need which dom0 sees.
pub(crate) struct Returning {
    devices: Vec<Sbdf>,
    resets: Vec<(Sbdf, Resetting)>,
}

impl Returning {
    /// Begins the resets of devices of which the guest has nothing any more.
    pub(crate) fn begin(host: &Host, devices: &[Sbdf], facts: &[DeviceResources]) -> Result<Self, Error> {
        let mut resets = Vec::new();
        for facts in facts.iter().filter(|facts| devices.contains(&facts.device)) {
            host.trace(&format!("reset {}", facts.device));
            resets.push((facts.device, Resetting::begin(host, facts.device, facts.decode())?));
        }
        Ok(Self { devices: devices.to_vec(), resets })
    }

    /// Waits for the resets and returns the devices to the pool, together with other `changes`.
    pub(crate) fn finish(
        self,
        host: &Host,
        stub: &DomainName,
        stub_alive: bool,
        looked: Looked,
        mut changes: Vec<Change>,
    ) -> Result<(), Error> {
        let mut devices = self.devices;
        let mut stuck = None;
        for (device, resetting) in self.resets {
            // Who has a mapping goes on using the device after its reset.
            let reset = match (resetting.finish(host), looked) {
                (Err(error), _) => {
                    // It stays on its way back, and does not keep the others; nor are their resets left alone.
                    devices.retain(|other| *other != device);
                    stuck.get_or_insert(error);
                    continue;
                }
                (Ok(reset), Looked::Through) => reset,
                (Ok(_), Looked::Away) => Reset::Failed,
            };
            changes.push(device_table::note_reset(device, reset));
        }
        for device in devices.iter().copied() {
            if stub_alive {
                changes.extend(device_table::unreserve(host, device)?);
                changes.extend(pool::present_again(stub.id, device));
            } else {
                changes.extend(device_table::lose_stub(host, device)?);
            }
        }
        host.commit(&changes)?;
        for device in devices.iter().filter(|_| stub_alive) {
            match pool::await_verdict(host, stub, *device) {
                // The guest has nothing any more, so this is no failure of the command.
                Err(error @ (Error::StubRefuses { .. } | Error::StubSilent { .. })) => host.note(&error.to_string()),
                outcome => outcome?,
            }
        }
        stuck.map_or(Ok(()), Err)
    }
}

/// What is known of the devices that dom0 sees, and of those that were pulled out: these have no registers any more, but the
/// guest still has its rights. Last, those of which neither dom0 nor the pool says what they have.
fn gather(host: &Host, assignment: &Assignment) -> (Vec<DeviceResources>, Vec<DeviceResources>, Vec<(Sbdf, Error)>) {
    let (mut present, mut vanished, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for device in assignment.devices.iter().copied() {
        let known = if host.sysfs.exists(device) { &mut present } else { &mut vanished };
        match DeviceResources::find_or_recall(host, assignment.stub.id, device) {
            Ok(facts) => known.push(facts),
            Err(error) => unknown.push((device, error)),
        }
    }
    (present, vanished, unknown)
}

/// Takes every right from a living guest that it needs for none of its other devices. One that cannot be taken does not keep the
/// others; the first such is the result.
fn revoke(host: &Host, assignment: &Assignment, facts: &[DeviceResources], rights: Rights) -> Result<(), Error> {
    let guest = assignment.guest.id;
    let kept = DeviceResources::of_others(host, assignment.stub.id, &assignment.staying)?;
    let mut result = Ok(());
    let mut note = |what: String, may_be_absent: bool, outcome: Result<(), HypercallError>| {
        host.trace(&what);
        match outcome {
            Err(error) if may_be_absent && is_absent(error.errno) => {}
            Err(_) if result.is_err() => {}
            outcome => result = outcome.doing(|| what),
        }
    };
    let uncertain = rights == Rights::Uncertain;
    for device in assignment.devices.iter().copied() {
        let may_be_absent = uncertain || !host.sysfs.exists(device);
        let what = format!("take {device} from {}", assignment.guest);
        note(what, may_be_absent, host.hypervisor.deassign(guest, device));
    }
    let GuestRights { frames, ports, gsis } = GuestRights::of(facts).without(&GuestRights::of(&kept));
    for gsi in gsis.into_iter().map(Pirq) {
        let what = format!("forbid {} interrupt {gsi}", assignment.guest);
        note(what, uncertain, host.hypervisor.set_irq(guest, gsi, Revoke));
        let what = format!("unmap interrupt {gsi} from {}", assignment.guest);
        note(what, uncertain, host.hypervisor.unmap_pirq(guest, gsi));
    }
    for ports in ports {
        let what = format!("forbid {} {} ports from {:#x}", assignment.guest, ports.count, ports.first);
        note(what, uncertain, host.hypervisor.set_ioports(guest, ports, Revoke));
    }
    for frames in frames {
        let what = format!("forbid {} {} pages from frame {:#x}", assignment.guest, frames.count, frames.first);
        note(what, uncertain, host.hypervisor.set_iomem(guest, frames, Revoke));
    }
    result
}

/// How Xen says that there is nothing to take back.
fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::ENODEV | Errno::EINVAL | Errno::ENOENT)
}
