//! Taking devices back from a guest: told first, rights after.

use xen_types::{Errno, Pirq, Sbdf};

use crate::assignable;
use crate::attach;
use crate::broker;
use crate::directories;
use crate::error::{Doing, DomainName, Error};
use crate::facts::{Facts, GuestRights};
use crate::host::Host;
use crate::pool;
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
/// the stub lets go, then the guest loses its rights, then the devices are reset and return to the pool (or, without a stub,
/// to the plain assignable ones). Where it stops half-way, the table says `detaching` and the next command goes on.
pub(crate) fn take_back(host: &Host, loan: &Loan, rights: Rights) -> Result<(), Error> {
    let facts = gather(host, &loan.devices);
    broker::let_go(host, loan.guest.id, &loan.devices, &facts)?;
    host.trace(&format!("remove the directories of {}", loan.guest));
    host.commit(&directories::remove(loan.stub.id, loan.guest.id))?;
    if loan.stub_alive {
        for device in &loan.devices {
            pool::await_return(host, &loan.stub, loan.guest.id, *device)?;
        }
    }
    if loan.guest_alive {
        revoke(host, loan, &facts, rights)?;
    } else {
        // Xen has taken the rights back with the domain. Where a device went depends on Xen's quarantine setting: make sure.
        for facts in &facts {
            assignable::quarantine(host, facts.device)?;
        }
    }
    for facts in &facts {
        host.trace(&format!("reset {}", facts.device));
        attach::reset(host, facts.device, facts.decode())?;
    }
    let back = |device: Sbdf| {
        if loan.stub_alive {
            return table::unreserve(device);
        }
        let mut changes = table::forget(device);
        changes.extend(table::forget_libxl_owner(device));
        changes
    };
    host.commit(&loan.devices.iter().copied().flat_map(back).collect::<Vec<_>>())
}

/// The devices that dom0 still sees. One that was pulled out has no registers any more.
fn gather(host: &Host, devices: &[Sbdf]) -> Vec<Facts> {
    let present = devices.iter().filter(|device| host.sysfs.exists(**device));
    present
        .filter_map(|device| match Facts::gather(host, *device) {
            Ok(facts) => Some(facts),
            Err(error) => {
                host.note(&format!("{device}: {error}"));
                None
            }
        })
        .collect()
}

/// Takes every right from a living guest. One that cannot be taken does not keep the others; the first such is the result.
fn revoke(host: &Host, loan: &Loan, facts: &[Facts], rights: Rights) -> Result<(), Error> {
    let guest = loan.guest.id;
    let mut result = Ok(());
    let mut note = |what: String, outcome: Result<(), HypercallError>| {
        host.trace(&what);
        match outcome {
            Err(error) if rights == Rights::Uncertain && is_absent(error.errno) => {}
            Err(_) if result.is_err() => {}
            outcome => result = outcome.doing(|| what),
        }
    };
    for device in &loan.devices {
        note(format!("take {device} from {}", loan.guest), host.hypervisor.deassign(guest, *device));
    }
    let GuestRights { frames, ports, gsis } = GuestRights::of(facts);
    for gsi in gsis.into_iter().map(Pirq) {
        note(format!("forbid {} interrupt {gsi}", loan.guest), host.hypervisor.set_irq(guest, gsi, Revoke));
        note(format!("unmap interrupt {gsi} from {}", loan.guest), host.hypervisor.unmap_pirq(guest, gsi));
    }
    for ports in ports {
        let what = format!("forbid {} {} ports from {:#x}", loan.guest, ports.count, ports.first);
        note(what, host.hypervisor.set_ioports(guest, ports, Revoke));
    }
    for frames in frames {
        let what = format!("forbid {} {} pages from frame {:#x}", loan.guest, frames.count, frames.first);
        note(what, host.hypervisor.set_iomem(guest, frames, Revoke));
    }
    result
}

/// How Xen says that there is nothing to take back.
fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::ENODEV | Errno::EINVAL | Errno::ENOENT)
}
