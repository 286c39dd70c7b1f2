//! The commands on a simulated machine.

mod advisories;
mod assignable;
mod attach;
mod broker;
mod create;
mod detach;
mod doctor;
mod dom0_use;
mod driver_domain;
mod export;
mod golden;
mod guard;
mod hotplug;
mod hvm;
mod killed;
mod list;
mod maintenance;
mod man;
mod many;
mod named_devices;
mod neighbours;
mod persistent;
mod plans;
mod policy;
mod pristine;
mod questions;
mod reclaim;
mod refusals;
mod repair;
mod replace;
mod resets;
mod schema;
mod show;
mod status;
mod transactions;
mod units;
mod versions;
mod virtual_functions;
mod wait;
mod whole;
mod with_stub;

use std::time::Duration;

use xen_types::DomId;

use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, NVME, device};
use crate::ops::connect::Connection;
use crate::ops::recover::reclaim;

const TIMEOUT: Duration = Duration::from_secs(30);

fn request(guest: &str, devices: &[&str]) -> crate::ops::attach::Request {
    crate::ops::attach::Request {
        guest: guest.to_owned(),
        backend: "pcidom".to_owned(),
        devices: devices.iter().map(|text| text.parse().unwrap()).collect(),
        export: None,
        timeout: TIMEOUT,
        following: crate::ops::attach::Following::No,
        until: crate::ops::attach::Until::Used,
    }
}

/// `pcidom attach web …` as the command does it.
pub(crate) fn attach_to_web(machine: &Machine, devices: &[&str]) -> Result<Connection, Error> {
    reclaim(&machine.host)?;
    crate::ops::attach::attach(&machine.host, &request("web", devices))
}

/// `pcidom detach web …` as the command does it.
fn detach_from_web(machine: &Machine, devices: &[&str]) -> Result<(), Error> {
    let reclaimed = reclaim(&machine.host)?;
    let request = crate::ops::detach::Request {
        guest: "web".to_owned(),
        backend: None,
        devices: devices.iter().map(|text| device(text)).collect(),
        timeout: TIMEOUT,
        force: false,
    };
    crate::ops::detach::detach(&machine.host, &request, &reclaimed)
}

/// A machine on which "web" uses all three devices.
pub(crate) fn attached() -> Machine {
    let machine = Machine::new();
    add_all(&machine);
    attach_to_web(&machine, &[E1000, EDU, NVME]).unwrap();
    machine
}

/// `pcidom assignable add` of all three devices.
fn add_all(machine: &Machine) {
    crate::ops::assignable::add(&machine.host, &[E1000, EDU, NVME].map(device), "pcidom").unwrap();
}

fn pause(machine: &Machine, guest: DomId) {
    machine.with(|world| world.domains.get_mut(&guest).unwrap().paused = true);
}
