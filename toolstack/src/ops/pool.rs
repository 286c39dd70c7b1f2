//! The pool: devices that the stub holds. Giving a device to the stub and taking it back (`docs/xenstore.md`, "The pool").

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pci_config::Policy;
use xen_types::{DomId, Sbdf};
use xenstore::path::key;
use xenstore::wire::MAX_PAYLOAD;
use xenstore::{Permission, path};

use crate::device::reset::{Reset, is_fresh, reset};
use crate::device::resources::DeviceResources;
use crate::error::{Doing, DomainName, Error, list};
use crate::host::Host;
use crate::host::domain;
use crate::ops::patience;
use crate::records::device_table::{self, Record};
use crate::records::guard;
use crate::records::rollback::RollbackStack;
use crate::store::Change;
use crate::xen::{Frames, Permission as Right};

pub(crate) use crate::ops::patience::STUB_PATIENCE;

/// What the stub says about one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PoolState {
    /// The stub has not looked yet.
    New,
    Free,
    Assigned(DomId),
    /// Assigned, and not there any more.
    Absent(DomId),
    Refused(String),
    Released,
    /// No entry, or a word that is not in the contract.
    Unknown(String),
}

impl PoolState {
    pub(crate) fn parse(text: &str) -> Self {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match (word, rest.parse()) {
            ("new", _) => Self::New,
            ("free", _) => Self::Free,
            ("released", _) => Self::Released,
            ("refused", _) => Self::Refused(rest.to_owned()),
            ("assigned", Ok(guest)) => Self::Assigned(DomId(guest)),
            ("absent", Ok(guest)) => Self::Absent(DomId(guest)),
            _ => Self::Unknown(text.to_owned()),
        }
    }
}

impl PoolState {
    /// Whether the stub has given the device to the guest, and not got it back.
    pub(crate) fn is_with(&self, guest: DomId) -> bool {
        matches!(self, Self::Assigned(holder) | Self::Absent(holder) if *holder == guest)
    }
}

fn state_path(stub: DomId, device: Sbdf) -> String {
    path::child(&path::pool_dir(stub, device), "state")
}

pub(crate) fn state(host: &Host, stub: DomId, device: Sbdf) -> Result<PoolState, Error> {
    Ok(PoolState::parse(&host.read(&state_path(stub, device))?.unwrap_or_default()))
}

/// Whether the stub is there and is still the one that was given the device: domain ids come again.
pub(crate) fn is_in_pool(host: &Host, stub: DomId, device: Sbdf) -> Result<bool, Error> {
    Ok(domain::is_alive(host, stub)? && host.exists(&path::pool_dir(stub, device))?)
}

/// As [`is_in_pool`] for each of these.
pub(crate) fn are_in_pools(host: &Host, records: &[Record]) -> Result<Vec<bool>, Error> {
    let mut pools: BTreeMap<DomId, BTreeSet<String>> = BTreeMap::new();
    for record in records {
        if let Entry::Vacant(place) = pools.entry(record.stub) {
            let is_alive = domain::is_alive(host, record.stub)?;
            let names = if is_alive { host.list(&path::pool_root(record.stub))? } else { Vec::new() };
            place.insert(names.into_iter().collect());
        }
    }
    let has = |record: &Record| {
        pools.get(&record.stub).is_some_and(|pool| pool.contains(&record.device.path_component().to_string()))
    };
    Ok(records.iter().map(has).collect())
}

/// Quiets a device, resets it and gives it to the stub, which must find it fit. One that was reset here needs no reset before a guest gets it.
pub(crate) fn hand_over(
    rollback: &mut RollbackStack<'_>,
    stub: &DomainName,
    facts: &DeviceResources,
) -> Result<(), Error> {
    let (device, id) = (facts.device, stub.id);
    let decode = facts.decode();
    check_room(rollback.host(), stub)?;
    let had_reset = device_table::was_reset(rollback.host(), device)?;
    let mut outcome = Reset::Failed;
    rollback.step(
        format!("quiet and reset {device}"),
        |host| {
            outcome = if is_fresh(host, device, decode)? {
                Reset::Done
            } else {
                host.sysfs.config(device)?.quiesce(decode)?;
                reset(host, device, decode)?
            };
            Ok(())
        },
        |_| Ok(()), // a quiet device is how any driver finds one
    )?;
    rollback.step(
        format!("let {stub} read the configuration space of {device}"),
        |host| set_ecam(host, id, device, Right::Allow),
        move |host| set_ecam(host, id, device, Right::Revoke),
    )?;
    let owner = stub.clone();
    let was_remembered = device_table::backend(rollback.host(), device)?.is_some();
    rollback.step(
        format!("enter {device} into the pool of {stub}"),
        |host| guard::commit(host, &[device], &entry(host, stub, facts, outcome)?),
        move |host| {
            let released = ask_back(host, &owner, device);
            let mut forgotten =
                if had_reset { Vec::new() } else { vec![device_table::note_reset(device, Reset::Failed)] };
            forgotten.extend(if was_remembered {
                device_table::lose_stub(host, device)?
            } else {
                device_table::forget(host, device)?
            });
            host.commit(&[leave(id, device), forgotten].concat())?;
            released
        },
    )?;
    rollback.step(
        format!("wait until {stub} has looked at {device}"),
        |host| await_verdict(host, stub, device),
        |_| Ok(()),
    )
}

/// A stub reads the names in its pool over its ring, in one message: that is all that oxenstored tells there.
fn check_room(host: &Host, stub: &DomainName) -> Result<(), Error> {
    /// `0000-00-00-0` and a NUL.
    const NAME_BYTES: usize = 13;
    let devices = host.list(&path::pool_root(stub.id))?.len();
    if (devices + 1) * NAME_BYTES > MAX_PAYLOAD {
        return Err(Error::PoolFull { stub: stub.clone(), devices });
    }
    Ok(())
}

/// Takes a free device from the stub.
pub(crate) fn take<'a>(
    rollback: &mut RollbackStack<'a>,
    stub: &DomainName,
    facts: &'a DeviceResources,
) -> Result<(), Error> {
    let (device, id) = (facts.device, stub.id);
    let owner = stub.clone();
    let reset = if device_table::was_reset(rollback.host(), device)? { Reset::Done } else { Reset::Failed };
    rollback.step(
        format!("have {stub} let go of {device}"),
        |host| {
            ask_back(host, stub, device).or_else(|error| {
                host.commit(&[Change::write(path::child(&path::pool_dir(id, device), "online"), 1)])?;
                Err(error)
            })
        },
        move |host| {
            host.commit(&removal(host, id, device)?)?;
            guard::commit(host, &[device], &entry(host, &owner, facts, reset)?)?;
            await_verdict(host, &owner, device)
        },
    )?;
    rollback.step(
        format!("forbid {stub} the configuration space of {device}"),
        |host| set_ecam(host, id, device, Right::Revoke),
        move |host| set_ecam(host, id, device, Right::Allow),
    )?;
    // The first step's undo enters it again.
    rollback.step(format!("remove {device} from the pool"), |host| host.commit(&removal(host, id, device)?), |_| Ok(()))
}

/// Takes from the stub the right to a device that has no entry.
pub(crate) fn forbid(host: &Host, stub: DomId, device: Sbdf) -> Result<(), Error> {
    set_ecam(host, stub, device, Right::Revoke)
}

fn set_ecam(host: &Host, stub: DomId, device: Sbdf, right: Right) -> Result<(), Error> {
    let frames = Frames { first: host.sysfs.ecam_frame(device)?, count: 1 };
    host.hypervisor.set_iomem(stub, frames, right).doing(|| format!("configuration space of {device}"))
}

/// The description of a device, as docs/xenstore.md has it.
fn entry(host: &Host, owner: &DomainName, facts: &DeviceResources, reset: Reset) -> Result<Vec<Change>, Error> {
    let stub = owner.id;
    let readable = [Permission::none(DomId::DOM0), Permission::read(stub)];
    let writable = [Permission::none(DomId::DOM0), Permission::both(stub)];
    let dir = path::pool_dir(stub, facts.device);
    let node = |name: &str| path::child(&dir, name);
    let mut changes = Vec::new();
    // A stub that is told of the directory itself looks at everything in it.
    if !host.exists(&path::pool_root(stub))? {
        changes.extend(Change::directory(path::pool_root(stub), &readable));
    }
    changes.extend(Change::directory(dir.clone(), &readable));
    changes.push(Change::write(node("ecam"), format!("{:x}", host.sysfs.ecam_frame(facts.device)?)));
    for (index, resource) in &facts.resources {
        changes.push(Change::write(node(&format!("resource-{index}")), resource));
    }
    changes.extend(facts.ids.map(|ids| Change::write(node(key::IDS), format!("{ids:x}"))));
    changes.push(Change::write(node("irq"), facts.gsi.unwrap_or(0)));
    changes.push(Change::write(node("online"), 1));
    changes.extend(Change::node(node("state"), "new", &writable));
    changes.extend(device_table::enter(facts.device, owner));
    changes.push(device_table::note_reset(facts.device, reset));
    Ok(changes)
}

fn removal(host: &Host, stub: DomId, device: Sbdf) -> Result<Vec<Change>, Error> {
    Ok([leave(stub, device), device_table::forget(host, device)?].concat())
}

fn leave(stub: DomId, device: Sbdf) -> Vec<Change> {
    vec![Change::remove(path::pool_dir(stub, device)), Change::remove_if_empty(path::pool_root(stub))]
}

/// Has the stub look anew at a device that came back from a guest and was made quiet: what it saw when the guest let go may
/// have been a device still at work, and what its guest might do with it. Then comes [`await_verdict`].
pub(crate) fn present_again(stub: DomId, device: Sbdf) -> [Change; 2] {
    let policy = path::child(&path::pool_dir(stub, device), key::POLICY);
    [Change::remove(policy), Change::write(state_path(stub, device), "new")]
}

/// Tells the stub what the next guest of a free device may do with it besides what any guest may.
pub(crate) fn set_policy(
    rollback: &mut RollbackStack<'_>,
    stub: &DomainName,
    device: Sbdf,
    policy: &Policy,
) -> Result<(), Error> {
    if policy.is_default() {
        return Ok(());
    }
    let node = path::child(&path::pool_dir(stub.id, device), key::POLICY);
    let owner = stub.clone();
    rollback.step(
        format!("tell {stub} and the broker that {device} has {policy}"),
        |host| {
            let state = Change::write(state_path(stub.id, device), "new");
            let numbers = policy.policy_flags().numbers().map(|number| format!("{number:x}")).join(" ");
            host.commit(&[device_table::set_policy(device, policy), Change::write(node, numbers), state])
        },
        move |host| {
            host.commit(&present_again(owner.id, device))?;
            await_verdict(host, &owner, device)
        },
    )?;
    // A stub that does not take it is told of a device without it: by what undoes the step before.
    rollback.step(
        format!("wait until {stub} has looked at {device} with it"),
        |host| await_verdict(host, stub, device),
        |_| Ok(()),
    )
}

/// Has the stub look whether a device that it has assigned is still there: it does when anything of the device's entry is touched.
pub(crate) fn look_again(stub: DomId, device: Sbdf) -> Change {
    Change::write(path::child(&path::pool_dir(stub, device), "online"), 1)
}

/// Waits until the stub has looked at a device, and found it fit.
pub(crate) fn await_verdict(host: &Host, stub: &DomainName, device: Sbdf) -> Result<(), Error> {
    let verdict = await_state(host, stub, device, |state| match state {
        PoolState::Free => Some(Ok(())),
        PoolState::Refused(reason) => Some(Err(reason)),
        _ => None,
    })?;
    match verdict {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(Error::StubRefuses { stub: stub.clone(), device, reason }),
        Err(after) => Err(silent(stub, after, format!("whether it takes {device}"))),
    }
}

/// Asks the stub to let go of a device and waits until it has.
fn ask_back(host: &Host, stub: &DomainName, device: Sbdf) -> Result<(), Error> {
    host.commit(&[Change::write(path::child(&path::pool_dir(stub.id, device), "online"), 0)])?;
    match await_state(host, stub, device, |state| (state == PoolState::Released).then_some(())) {
        Ok(Ok(())) | Err(Error::StubWentAway(_)) => Ok(()),
        Ok(Err(after)) => Err(silent(stub, after, format!("letting go of {device}"))),
        Err(error) => Err(error),
    }
}

/// Waits until the stub has the devices back from `guest`, whose directories or entries are gone.
pub(crate) fn await_return(host: &Host, stub: &DomainName, guest: DomId, devices: &[Sbdf]) -> Result<(), Error> {
    let asked = host.elapsed();
    let nodes: Vec<String> = devices.iter().map(|device| state_path(stub.id, *device)).collect();
    let mut watched = nodes.clone();
    watched.push(path::RELEASE_DOMAIN.to_owned());
    let still_there = || {
        let states = host.read_all(&nodes)?;
        let is_there = |state: &Option<String>| PoolState::parse(state.as_deref().unwrap_or_default()).is_with(guest);
        let there = devices.iter().copied().zip(&states).filter(|(_, state)| is_there(state));
        Ok::<_, Error>(there.map(|(device, _)| device).collect::<Vec<_>>())
    };
    let returned = host.wait_for(&watched, patience::with_stub(devices.len()), || {
        Ok((!domain::is_alive(host, stub.id)? || still_there()?.is_empty()).then_some(()))
    })?;
    if returned.is_some() {
        return Ok(());
    }
    let waiting_for = format!("taking {} back from domain {guest}", list(&still_there()?));
    Err(Error::StubSilent { stub: stub.clone(), after: host.elapsed().saturating_sub(asked), waiting_for })
}

/// Waits for the stub's word on a device, which it was just asked for; `Err` in `Ok` says for how long in vain.
fn await_state<T>(
    host: &Host,
    stub: &DomainName,
    device: Sbdf,
    wanted: impl Fn(PoolState) -> Option<T>,
) -> Result<Result<T, Duration>, Error> {
    let asked = host.elapsed();
    let paths = [state_path(stub.id, device), path::RELEASE_DOMAIN.to_owned()];
    let answer = host.wait_for(&paths, STUB_PATIENCE, || {
        if !domain::is_alive(host, stub.id)? {
            return Err(Error::StubWentAway(stub.clone()));
        }
        Ok(wanted(state(host, stub.id, device)?))
    })?;
    Ok(answer.ok_or_else(|| host.elapsed().saturating_sub(asked)))
}

fn silent(stub: &DomainName, after: Duration, waiting_for: String) -> Error {
    Error::StubSilent { stub: stub.clone(), after, waiting_for }
}
