//! Recovery from the intent log of a killed command: undoes or finishes what it began.

use pcidom_abi::Intent;
use xen_types::{DomId, Sbdf};

use crate::device::pristine;
use crate::error::Error;
use crate::host::Host;
use crate::host::domain;
use crate::ops::assignable;
use crate::ops::device_status::DeviceStatus;
use crate::ops::executor;
use crate::ops::intent_log;
use crate::ops::parking;
use crate::ops::plan::{self, Plan};
use crate::ops::pool;
use crate::records::device_table;
use crate::sysfs::PCIBACK;
use crate::xen::Permission;

/// Undoes or finishes what commands have left that were killed. Whether there was anything.
pub(crate) fn recover(host: &Host) -> Result<bool, Error> {
    let intents = intent_log::load(host)?;
    let found = !intents.is_empty();
    for (device, intent) in intents {
        host.safe_point()?;
        let recover_it = || restore_override(host, device).and_then(|()| recover_one(host, device, &intent));
        match host.without_stopping(recover_it) {
            Ok(true) => host.commit(&intent_log::done(&[device]))?,
            Ok(false) => {}
            Err(error) => {
                host.note(&format!("what an interrupted command did with {device} is not put right: {error}"))
            }
        }
    }
    Ok(found)
}

/// False while a guest has it, or something of it.
fn recover_one(host: &Host, device: Sbdf, intent: &Intent) -> Result<bool, Error> {
    if let Some(record) = device_table::load_one(host, device)?
        && record.frontend.is_some()
    {
        return Ok(false);
    }
    match intent {
        Intent::Remove { rebind } => {
            let status = DeviceStatus::gather(host, device)?;
            assignable::note_unknown_driver(host, &status, *rebind);
            executor::execute(host, &Plan::undone(plan::pool::to_host(&status, *rebind)))?;
            let forgotten = device_table::forget(host, device)?.into_iter().chain(parking::forget_name(device));
            host.commit(&forgotten.collect::<Vec<_>>())?;
            pristine::forget(host, device)?;
            host.note(&format!("removed {device}, as an interrupted command was about to"));
        }
        Intent::Add { from, stub } => {
            leave_pool(host, device, *stub)?;
            if from.as_deref() != Some(PCIBACK) {
                parking::unpark(host, device, from.as_deref())?;
            }
            pristine::forget(host, device)?;
            host.note(&format!("{device} is where it was before a command was interrupted"));
        }
    }
    Ok(true)
}

fn leave_pool(host: &Host, device: Sbdf, stub: Option<DomId>) -> Result<(), Error> {
    if device_table::load_one(host, device)?.is_some() {
        return assignable::leave_pool(host, device);
    }
    // It may have got the right and no entry yet.
    if let Some(stub) = stub
        && domain::is_alive(host, stub)?
    {
        pool::set_config_space(host, stub, device, Permission::Revoke)?;
    }
    Ok(())
}

fn restore_override(host: &Host, device: Sbdf) -> Result<(), Error> {
    match intent_log::noted_override(host, device)? {
        Some(wanted) if host.sysfs.exists(device) => host.sysfs.set_driver_override(device, &wanted),
        _ => Ok(()),
    }
}
