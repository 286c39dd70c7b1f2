//! Taking devices back from a guest: told first, rights after.

use xen_types::{Errno, Pirq, Sbdf};

use crate::assignable;
use crate::broker;
use crate::directories;
use crate::error::{Doing, DomainName, Error};
use crate::facts::{Facts, GuestRights};
use crate::host::Host;
use crate::pool;
use crate::reset::reset;
use crate::table;
use crate::xen::HypercallError;
use crate::xen::Permission::Revoke;

/// All devices of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loan {
    pub(crate) stub: DomainName,
    pub(crate) stub_alive: bool,
    pub(crate) guest: DomainName,
    pub(crate) guest_alive: bool,
    pub(crate) devices: Vec<Sbdf>,
}

/// Whether the rights to take back are known to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// All were given.
    Complete,
    /// A command died at giving or taking them: those that are not there are no error.
    Uncertain,
}

/// Takes everything back, in the order in which it hurts nobody: the devices become quiet, the guest loses sight of them and
/// the stub lets go, then the guest loses its rights, then the devices are reset and return to the pool, where the stub looks at them
/// anew (or, without a stub, to the plain assignable ones). Where it stops half-way, the table says `detaching` and the next command goes on.
pub(crate) fn take_back(host: &Host, loan: &Loan, rights: Rights) -> Result<(), Error> {
    let (facts, vanished) = gather(host, loan);
    broker::let_go(host, loan.guest.id, &loan.devices, &facts)?;
    host.trace(&format!("remove the directories of {}", loan.guest));
    host.commit(&directories::remove(loan.stub.id, loan.guest.id))?;
    if loan.stub_alive {
        for device in &loan.devices {
            pool::await_return(host, &loan.stub, loan.guest.id, *device)?;
        }
    }
    if loan.guest_alive {
        revoke(host, loan, &[facts.as_slice(), vanished.as_slice()].concat(), rights)?;
    } else {
        // Xen has taken the rights back with the domain. Where a device went depends on Xen's quarantine setting: make sure.
        for facts in &facts {
            assignable::quarantine(host, facts.device)?;
        }
    }
    for facts in &facts {
        host.trace(&format!("reset {}", facts.device));
        reset(host, facts.device, facts.decode())?;
    }
    let back = |device: Sbdf| {
        let mut changes;
        if loan.stub_alive {
            changes = table::unreserve(device);
            changes.push(pool::present_again(loan.stub.id, device));
        } else {
            changes = table::forget(device);
            changes.extend(table::forget_libxl_owner(device));
        }
        changes
    };
    host.commit(&loan.devices.iter().copied().flat_map(back).collect::<Vec<_>>())?;
    if loan.stub_alive {
        for device in &loan.devices {
            match pool::await_verdict(host, &loan.stub, *device) {
                // The guest has nothing any more, so this is no failure of the command.
                Err(error @ (Error::StubRefuses { .. } | Error::StubSilent { .. })) => host.note(&error.to_string()),
                outcome => outcome?,
            }
        }
    }
    Ok(())
}

/// What is known of the devices that dom0 sees, and of those that were pulled out: these have no registers any more, but the
/// guest still has its rights.
fn gather(host: &Host, loan: &Loan) -> (Vec<Facts>, Vec<Facts>) {
    let (mut present, mut vanished) = (Vec::new(), Vec::new());
    for device in loan.devices.iter().copied() {
        let (known, facts) = if host.sysfs.exists(device) {
            (&mut present, Facts::gather(host, device))
        } else {
            (&mut vanished, Facts::recall(host, loan.stub.id, device))
        };
        match facts {
            Ok(facts) => known.push(facts),
            Err(error) => host.note(&format!("{device}: {error}")),
        }
    }
    (present, vanished)
}

/// Takes every right from a living guest. One that cannot be taken does not keep the others; the first such is the result.
fn revoke(host: &Host, loan: &Loan, facts: &[Facts], rights: Rights) -> Result<(), Error> {
    let guest = loan.guest.id;
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
    for device in loan.devices.iter().copied() {
        let may_be_absent = uncertain || !host.sysfs.exists(device);
        let what = format!("take {device} from {}", loan.guest);
        note(what, may_be_absent, host.hypervisor.deassign(guest, device));
    }
    let GuestRights { frames, ports, gsis } = GuestRights::of(facts);
    for gsi in gsis.into_iter().map(Pirq) {
        let what = format!("forbid {} interrupt {gsi}", loan.guest);
        note(what, uncertain, host.hypervisor.set_irq(guest, gsi, Revoke));
        let what = format!("unmap interrupt {gsi} from {}", loan.guest);
        note(what, uncertain, host.hypervisor.unmap_pirq(guest, gsi));
    }
    for ports in ports {
        let what = format!("forbid {} {} ports from {:#x}", loan.guest, ports.count, ports.first);
        note(what, uncertain, host.hypervisor.set_ioports(guest, ports, Revoke));
    }
    for frames in frames {
        let what = format!("forbid {} {} pages from frame {:#x}", loan.guest, frames.count, frames.first);
        note(what, uncertain, host.hypervisor.set_iomem(guest, frames, Revoke));
    }
    result
}

/// How Xen says that there is nothing to take back.
fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::ENODEV | Errno::EINVAL | Errno::ENOENT)
}
