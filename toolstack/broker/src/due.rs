//! Whether there is work for `pcidom reclaim`: devices of guests and stubs that are gone, and devices that go where they were told to be
//! when what was there has come again. The commands that do the work ask the same questions.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use dom0::domain::{self, DomainName, Names};
use dom0::sysfs::PCIBACK;
use dom0::xen::DomainInfo;
use dom0::{Dom0, Error};
use pcidom_abi::{DeviceNode, Fit, PartVersion, VERSION, paths};
use xen_types::{DomId, Sbdf};
use xenstore::XenbusState;
use xenstore::path::{self, key};

use crate::guard;
use crate::records::{self, Phase, Record, UnassignedEntry};

/// Whether there is work. `followers` are those of [`persistent`].
///
/// # Errors
/// Xen's and xenstore's.
pub fn is_due(
    host: &Dom0,
    records: &[Record],
    unassigned: &[UnassignedEntry],
    followers: &[Follower],
) -> Result<bool, Error> {
    if !strays(host, unassigned)?.is_empty() || !followers_that_can_come(host, followers)?.is_empty() {
        return Ok(true);
    }
    let mut guests = BTreeMap::new();
    for guest in records.iter().filter_map(|record| record.frontend) {
        if let Entry::Vacant(place) = guests.entry(guest) {
            place.insert(domain::is_alive(host, guest)?);
        }
    }
    for (record, in_pool) in records.iter().zip(are_in_pools(host, records)?) {
        let is_over = match record.frontend {
            Some(guest) if guests.get(&guest) != Some(&true) => true,
            Some(guest) => !in_pool && is_over(host, record.stub, guest, records)?,
            None => !in_pool,
        };
        if is_over {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the stub is there and is still the one that was given the device: domain ids come again.
///
/// # Errors
/// Xen's and xenstore's, as in everything below.
pub fn is_in_pool(host: &Dom0, stub: DomId, device: Sbdf) -> Result<bool, Error> {
    Ok(domain::is_alive(host, stub)? && host.exists(&paths::pool_dir(stub, device))?)
}

/// As [`is_in_pool`] for each of these.
///
/// # Errors
/// Xen's and xenstore's.
pub fn are_in_pools(host: &Dom0, records: &[Record]) -> Result<Vec<bool>, Error> {
    let mut pools: BTreeMap<DomId, BTreeSet<String>> = BTreeMap::new();
    for record in records {
        if let Entry::Vacant(place) = pools.entry(record.stub) {
            let is_alive = domain::is_alive(host, record.stub)?;
            let names = if is_alive { host.list(&paths::pool_root(record.stub))? } else { Vec::new() };
            place.insert(names.into_iter().collect());
        }
    }
    let has = |record: &Record| {
        pools.get(&record.stub).is_some_and(|pool| pool.contains(&record.device.path_component().to_string()))
    };
    Ok(records.iter().map(has).collect())
}

/// The stub of this name, if it runs and has announced that it is ready.
///
/// # Errors
/// Xen's and xenstore's.
pub fn ready_stub(host: &Dom0, backend: &str) -> Result<Option<DomainName>, Error> {
    if_ready(host, domain::find(host, backend)?)
}

fn if_ready(host: &Dom0, found: Option<(DomainName, DomainInfo)>) -> Result<Option<DomainName>, Error> {
    let Some((stub, info)) = found else { return Ok(None) };
    let is_there = stub.id != DomId::DOM0 && !info.dying && !info.shutdown;
    let version = if is_there { host.read(&paths::version_node(stub.id))? } else { None };
    Ok(version.filter(|version| PartVersion::parse(version).fit(VERSION) == Fit::Same).map(|_| stub))
}

/// Devices that no stub has, though the one that they are for is there.
///
/// # Errors
/// Xen's and xenstore's.
pub fn strays(host: &Dom0, unassigned: &[UnassignedEntry]) -> Result<Vec<(Sbdf, DomainName)>, Error> {
    let mut strays = Vec::new();
    if unassigned.is_empty() {
        return Ok(strays);
    }
    let (names, mut stubs) = (Names::read(host)?, BTreeMap::new());
    for (device, backend) in unassigned {
        let stub = match stubs.entry(backend) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(if_ready(host, names.find(host, backend)?)?),
        };
        if let Some(stub) = stub
            && host.sysfs.driver(*device).as_deref() == Some(PCIBACK)
            && guard::libxl_owner(host, *device)?.is_none()
        {
            strays.push((*device, stub.clone()));
        }
    }
    Ok(strays)
}

/// A free device that follows a guest, and that guest's UUID.
pub type Follower = (Record, String);

/// The free devices that follow guests.
///
/// # Errors
/// Xenstore's.
pub fn persistent(host: &Dom0, records: &[Record]) -> Result<Vec<Follower>, Error> {
    let free: Vec<Record> = records.iter().filter(|record| is_free(record)).copied().collect();
    let ids = host.read_all(&free.iter().map(|record| keep_node(record.device)).collect::<Vec<_>>())?;
    Ok(free.into_iter().zip(ids).filter_map(|(record, id)| Some((record, id?))).collect())
}

/// Whether a guest could get it.
pub(crate) fn is_free(record: &Record) -> bool {
    record.phase == Phase::Pool && record.frontend.is_none()
}

/// Devices in the pool of a stub that follow a guest which is there, each with that guest.
///
/// # Errors
/// Xen's and xenstore's.
pub fn followers(host: &Dom0, records: &[Record]) -> Result<Vec<(Record, DomainName)>, Error> {
    followers_that_can_come(host, &persistent(host, records)?)
}

fn followers_that_can_come(host: &Dom0, followers: &[Follower]) -> Result<Vec<(Record, DomainName)>, Error> {
    let mut can_come = Vec::new();
    if followers.is_empty() {
        return Ok(can_come);
    }
    let guests = domain::uuids(host)?;
    for (record, id) in followers {
        let Some((guest, _)) = guests.iter().find(|(_, uuid)| uuid.eq_ignore_ascii_case(id)) else { continue };
        let Some(info) = domain::info(host, *guest)? else { continue };
        if info.dying || info.shutdown {
            continue;
        }
        // Nobody could bring it without its options.
        if !host.exists(&DeviceNode::Spec.of(record.device))? {
            continue;
        }
        if host.exists(&paths::creation_node(id))? {
            continue; // it is just being made, and the command that does it gives it its devices
        }
        if !host.sysfs.exists(record.device) || !is_in_pool(host, record.stub, record.device)? {
            continue;
        }
        // Who has no frontend at work need not answer. Of the others, one that stands still cannot, and one that did not is left alone
        // until it is another or its frontend has moved.
        let front = front_state(host, *guest)?;
        let must_answer = !matches!(front, XenbusState::Unknown | XenbusState::Initialising | XenbusState::Closed);
        let was_silent = || Ok::<_, Error>(host.read(&silence_node(record.device))? == Some(silence(host, *guest)?));
        if must_answer && (info.paused || was_silent()?) {
            continue;
        }
        can_come.push((*record, domain::named(host, *guest)?));
    }
    Ok(can_come)
}

/// Where the id of the guest stands that a device follows.
#[must_use]
pub fn keep_node(device: Sbdf) -> String {
    DeviceNode::Persistent.of(device)
}

/// Where it stands that the guest which the device follows did not answer.
#[must_use]
pub fn silence_node(device: Sbdf) -> String {
    DeviceNode::Silent.of(device)
}

/// What stands there of a guest that did not answer: as long as it is so, it is not asked again.
///
/// # Errors
/// Xenstore's.
pub fn silence(host: &Dom0, guest: DomId) -> Result<String, Error> {
    Ok(format!("{guest} {}", front_state(host, guest)?))
}

/// Whether a guest whose stub is gone has nothing more from its devices: it has closed its frontend, as an orderly stub asks for before
/// it goes, or another stub is there for devices that follow it.
///
/// # Errors
/// Xen's and xenstore's.
pub fn is_over(host: &Dom0, stub: DomId, guest: DomId, records: &[Record]) -> Result<bool, Error> {
    if matches!(front_state(host, guest)?, XenbusState::Unknown | XenbusState::Closed) {
        return Ok(true);
    }
    for record in records.iter().filter(|record| (record.stub, record.frontend) == (stub, Some(guest))) {
        if host.exists(&keep_node(record.device))?
            && let Some(backend) = records::backend(host, record.device)?
            && ready_stub(host, &backend)?.is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn front_state(host: &Dom0, guest: DomId) -> Result<XenbusState, Error> {
    let state = host.read(&path::child(&path::frontend_dir(guest), key::STATE))?;
    Ok(state.map(XenbusState::parse).unwrap_or_default())
}
