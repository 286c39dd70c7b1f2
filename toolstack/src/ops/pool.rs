//! The pool: devices that the stub holds. Giving a device to the stub and taking it back (`docs/xenstore.md`, "The pool").

use std::time::Duration;

use pci_config::{Policy, PolicyFlags};
pub(crate) use pcidom_abi::PoolState;
use pcidom_abi::paths;
use pcidom_abi::pool::{self, ONLINE, POLICY, PolicyNumbers};
use xen_types::{DomId, Sbdf};
use xenstore::wire::MAX_PAYLOAD;
use xenstore::{Permission, path};

use crate::device::permitted_writes;
use crate::device::resources::DeviceResources;
use crate::error::{Doing, DomainName, Error, list};
use crate::host::Host;
use crate::host::domain;
use crate::ops::patience;
use crate::records::device_table;
use crate::records::reset_note::ResetNote;
use crate::store::Change;
use crate::xen::{Frames, Permission as Right};

pub(crate) use crate::ops::patience::STUB_PATIENCE;

pub(crate) fn state(host: &Host, stub: DomId, device: Sbdf) -> Result<PoolState, Error> {
    Ok(PoolState::parse(&host.read(&paths::pool_state_node(stub, device))?.unwrap_or_default()))
}

/// Refuses so many more devices where the stub could not list them: it reads the names in its pool over its ring, in one message, and that is
/// all that oxenstored tells there.
pub(crate) fn check_room(host: &Host, stub: &DomainName, more: usize) -> Result<(), Error> {
    /// `0000-00-00-0` and a NUL.
    const NAME_BYTES: usize = 13;
    let devices = host.list(&paths::pool_root(stub.id))?.len();
    if more > 0 && (devices + more) * NAME_BYTES > MAX_PAYLOAD {
        return Err(Error::PoolFull { stub: stub.clone(), devices });
    }
    Ok(())
}

/// Whether the stub may map the device's page of configuration space.
pub(crate) fn set_config_space(host: &Host, stub: DomId, device: Sbdf, right: Right) -> Result<(), Error> {
    let frames = Frames { first: host.sysfs.ecam_frame(device)?, count: 1 };
    host.hypervisor.set_iomem(stub, frames, right).doing(|| format!("configuration space of {device}"))
}

/// The description of a device, as docs/xenstore.md has it.
pub(crate) fn entry(
    host: &Host,
    owner: &DomainName,
    resources: &DeviceResources,
    reset: Option<&ResetNote>,
) -> Result<Vec<Change>, Error> {
    let stub = owner.id;
    let readable = [Permission::none(DomId::DOM0), Permission::read(stub)];
    let writable = [Permission::none(DomId::DOM0), Permission::both(stub)];
    let dir = paths::pool_dir(stub, resources.device);
    let node = |name: &str| path::child(&dir, name);
    let mut changes = Vec::new();
    // A stub that is told of the directory itself looks at everything in it.
    if !host.exists(&paths::pool_root(stub))? {
        changes.extend(Change::directory(paths::pool_root(stub), &readable));
    }
    changes.extend(Change::directory(dir.clone(), &readable));
    let mut registers = [None; pool::RESOURCES.len()];
    for (index, resource) in &resources.resources {
        if let Some(place) = registers.get_mut(usize::from(*index)) {
            *place = Some(*resource);
        }
    }
    let description = pool::Description {
        ecam: host.sysfs.ecam_frame(resources.device)?,
        ids: resources.ids,
        irq: resources.gsi.unwrap_or(0),
        resources: registers,
        policy: policy_numbers(host, resources.device, &Policy::default()),
    };
    changes.extend(description.nodes().into_iter().map(|(name, value)| Change::write(node(name), value)));
    changes.push(Change::write(node(ONLINE), 1));
    changes.extend(Change::node(node(pool::STATE), PoolState::New, &writable));
    changes.extend(device_table::enter(resources.device, owner));
    changes.push(device_table::note_reset(resources.device, reset));
    Ok(changes)
}

/// Removes a device from the pool and from the device table.
pub(crate) fn removal(host: &Host, stub: DomId, device: Sbdf) -> Result<Vec<Change>, Error> {
    Ok([leave(stub, device), device_table::forget(host, device)?].concat())
}

/// Removes a device from the pool.
pub(crate) fn leave(stub: DomId, device: Sbdf) -> Vec<Change> {
    vec![Change::remove(paths::pool_dir(stub, device)), Change::remove_if_empty(paths::pool_root(stub))]
}

/// Has the stub look anew at a device that came back from a guest and was quiesced: what it saw when the guest let go may
/// have been a device still at work, and what its guest might do with it. Then comes [`await_verdict`].
pub(crate) fn present_again(host: &Host, stub: DomId, device: Sbdf) -> [Change; 3] {
    let [policy, aer] = [POLICY, pool::AER].map(|node| path::child(&paths::pool_dir(stub, device), node));
    let policy = match policy_numbers(host, device, &Policy::default()) {
        Some(numbers) => Change::write(policy, numbers),
        None => Change::remove(policy),
    };
    // What a guest was to be told of an error is nothing for the next one.
    [policy, Change::remove(aer), Change::write(paths::pool_state_node(stub, device), PoolState::New)]
}

/// What a policy means for the stub, with the resets that it may show a guest; `None` where that is nothing.
fn policy_numbers(host: &Host, device: Sbdf, policy: &Policy) -> Option<PolicyNumbers> {
    let flags = permitted_writes::with_resets(host, device, policy).policy_flags();
    (flags != PolicyFlags::default()).then(|| PolicyNumbers(flags.numbers()))
}

/// Tells stub and broker what the next guest of a free device may do with it besides what any guest may. Then comes [`await_verdict`].
pub(crate) fn set_policy(host: &Host, stub: DomId, device: Sbdf, policy: &Policy) -> Vec<Change> {
    let node = path::child(&paths::pool_dir(stub, device), POLICY);
    let numbers = policy_numbers(host, device, policy);
    vec![
        device_table::set_policy(device, policy),
        numbers.map_or_else(|| Change::remove(&node), |numbers| Change::write(&node, numbers)),
        Change::remove(path::child(&paths::pool_dir(stub, device), pool::AER)),
        Change::write(paths::pool_state_node(stub, device), PoolState::New),
    ]
}

/// Has the stub look whether a device that it has assigned is still there: it does when anything of the device's entry is touched.
pub(crate) fn look_again(stub: DomId, device: Sbdf) -> Change {
    Change::write(path::child(&paths::pool_dir(stub, device), ONLINE), 1)
}

/// Waits until the stub has looked at the devices, and found all of them fit.
pub(crate) fn await_verdict(host: &Host, stub: &DomainName, devices: &[Sbdf]) -> Result<(), Error> {
    await_verdicts(host, stub, devices)?.into_iter().next().map_or(Ok(()), Err)
}

/// Waits until the stub has looked at the devices: why those are not fit that it has refused, or of which it says nothing.
pub(crate) fn await_verdicts(host: &Host, stub: &DomainName, devices: &[Sbdf]) -> Result<Vec<Error>, Error> {
    let asked = host.elapsed();
    let nodes: Vec<String> = devices.iter().map(|device| paths::pool_state_node(stub.id, *device)).collect();
    let states = || {
        let states = host.read_all(&nodes)?.into_iter().map(Option::unwrap_or_default);
        Ok::<Vec<PoolState>, Error>(states.map(|state| PoolState::parse(&state)).collect())
    };
    let is_verdict = |state: &PoolState| matches!(state, PoolState::Free | PoolState::Refused(_));
    let all = host.wait_for(&watched(&nodes), patience::with_stub(devices.len()), || {
        if !domain::is_alive(host, stub.id)? {
            return Err(Error::StubWentAway(stub.clone()));
        }
        let states = states()?;
        Ok(states.iter().all(is_verdict).then_some(states))
    })?;
    let after = host.elapsed().saturating_sub(asked);
    let error = |(device, state)| match state {
        PoolState::Free => None,
        PoolState::Refused(reason) => Some(Error::StubRefuses { stub: stub.clone(), device, reason }),
        _ => Some(silent(stub, after, format!("whether it takes {device}"))),
    };
    Ok(devices.iter().copied().zip(all.map_or_else(states, Ok)?).filter_map(error).collect())
}

/// These nodes, and the end of any domain.
fn watched(nodes: &[String]) -> Vec<String> {
    nodes.iter().cloned().chain([path::RELEASE_DOMAIN.to_owned()]).collect()
}

/// Asks the stub to let go of a device and waits until it has.
pub(crate) fn ask_back(host: &Host, stub: &DomainName, device: Sbdf) -> Result<(), Error> {
    host.commit(&[Change::write(path::child(&paths::pool_dir(stub.id, device), ONLINE), 0)])?;
    let asked = host.elapsed();
    let node = paths::pool_state_node(stub.id, device);
    let released = host.wait_for(&watched(&[node]), STUB_PATIENCE, || {
        let has_it = domain::is_alive(host, stub.id)? && state(host, stub.id, device)? != PoolState::Released;
        Ok((!has_it).then_some(()))
    })?;
    let after = || host.elapsed().saturating_sub(asked);
    released.ok_or_else(|| silent(stub, after(), format!("letting go of {device}")))
}

/// Waits until the stub has the devices back from `guest`, whose directories or entries are gone.
pub(crate) fn await_return(host: &Host, stub: &DomainName, guest: DomId, devices: &[Sbdf]) -> Result<(), Error> {
    let asked = host.elapsed();
    let nodes: Vec<String> = devices.iter().map(|device| paths::pool_state_node(stub.id, *device)).collect();
    let still_there = || {
        let states = host.read_all(&nodes)?;
        let is_there =
            |state: &Option<String>| PoolState::parse(state.as_deref().unwrap_or_default()).guest() == Some(guest);
        let there = devices.iter().copied().zip(&states).filter(|(_, state)| is_there(state));
        Ok::<_, Error>(there.map(|(device, _)| device).collect::<Vec<_>>())
    };
    let returned = host.wait_for(&watched(&nodes), patience::with_stub(devices.len()), || {
        Ok((!domain::is_alive(host, stub.id)? || still_there()?.is_empty()).then_some(()))
    })?;
    if returned.is_some() {
        return Ok(());
    }
    let waiting_for = format!("taking {} back from domain {guest}", list(&still_there()?));
    Err(Error::StubSilent { stub: stub.clone(), after: host.elapsed().saturating_sub(asked), waiting_for })
}

fn silent(stub: &DomainName, after: Duration, waiting_for: String) -> Error {
    Error::StubSilent { stub: stub.clone(), after, waiting_for }
}
