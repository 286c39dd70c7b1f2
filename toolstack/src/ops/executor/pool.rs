//! Steps of devices on their way into a pool and out of it.

use xen_types::Sbdf;

use crate::device::reset::{is_fresh, reset};
use crate::device::resources::DeviceResources;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::ops::intent_log;
use crate::ops::parking;
use crate::ops::plan::Entering;
use crate::ops::pool::{self, await_verdict};
use crate::records::device_table;
use crate::records::guard;
use crate::records::reset_note::{self, ResetNote};
use crate::store::Change;
use crate::sysfs::ConfigWalk as _;
use crate::sysfs::Decode;

/// Stops a device and resets it, unless it is as its last reset left it. What is to be noted of that.
pub(super) fn quiesce_and_reset(host: &Host, device: Sbdf, decode: Decode) -> Result<Option<ResetNote>, Error> {
    if is_fresh(host, device, decode)? {
        return reset_note::load(host, device);
    }
    host.sysfs.config(device)?.walk_and_quiesce(decode)?;
    Ok(Some(reset(host, device, decode)?.note()))
}

/// Describes devices to the stub. One that was reset here needs no reset before a guest gets it.
pub(super) fn enter(host: &Host, stub: &DomainName, devices: &[(Sbdf, Option<&ResetNote>)]) -> Result<(), Error> {
    let entry = |(device, reset): &(Sbdf, Option<&ResetNote>)| {
        // Only a parked device has an interrupt for sure: xen-pciback enables it.
        let resources = DeviceResources::gather(host, *device)?;
        pool::entry(host, stub, &resources, *reset)
    };
    // What they have in common is asked for once.
    let entries = || devices.iter().map(entry).collect::<Result<Vec<_>, _>>();
    let changes = host.at_one_moment(entries)?.concat();
    let names: Vec<Sbdf> = devices.iter().map(|(device, _)| *device).collect();
    guard::commit(host, &names, &changes)
}

/// Undoes [`enter`] for one of them.
pub(super) fn leave(host: &Host, stub: &DomainName, entering: &Entering) -> Result<(), Error> {
    let Entering { device, had_reset, had_backend } = entering;
    let (device, had_reset, had_backend) = (*device, had_reset.as_ref(), *had_backend);
    let released = pool::ask_back(host, stub, device);
    let mut changes = pool::leave(stub.id, device);
    changes.push(device_table::note_reset(device, had_reset));
    changes.extend(match had_backend {
        true => device_table::lose_stub(host, device)?,
        false => device_table::forget(host, device)?,
    });
    host.commit(&changes)?;
    released
}

/// Has the stub let go of a free device. One that does not keeps it.
pub(super) fn take_back(host: &Host, stub: &DomainName, device: Sbdf) -> Result<(), Error> {
    pool::ask_back(host, stub, device).or_else(|error| {
        host.commit(&[pool::look_again(stub.id, device)])?;
        Err(error)
    })
}

/// Enters a device again that has left the pool.
pub(super) fn enter_again(
    host: &Host,
    stub: &DomainName,
    resources: &DeviceResources,
    reset: Option<&ResetNote>,
) -> Result<(), Error> {
    let device = resources.device;
    host.commit(&pool::removal(host, stub.id, device)?)?;
    guard::commit(host, &[device], &pool::entry(host, stub, resources, reset)?)?;
    await_verdict(host, stub, &[device])
}

/// Has the stub look at a free device without the policy that it had.
pub(super) fn look_again(host: &Host, stub: &DomainName, device: Sbdf) -> Result<(), Error> {
    host.commit(&pool::present_again(host, stub.id, device))?;
    await_verdict(host, stub, &[device])
}

/// Nothing is noted of the devices any more: neither of one that was only parked, and was to be given to a stub that never came.
pub(super) fn forget(host: &Host, devices: &[Sbdf]) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    for device in devices {
        changes.extend(device_table::forget(host, *device)?);
        changes.extend(parking::forget_name(*device));
    }
    changes.extend(intent_log::done(devices));
    Ok(changes)
}
