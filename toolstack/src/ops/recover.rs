//! Recovery, run by every command before it changes anything: takes devices back from guests and stubs that are gone,
//! and finishes or undoes the work of killed commands. No other command is at work meanwhile, except with guests that
//! it waits for (`command_lock.rs`): those are left
//! alone.

use pcidom_abi::paths;
use pcidom_broker::due::{self, are_in_pools, is_in_pool, is_over};
use pcidom_broker::vectors;
use xen_types::{DomId, Sbdf};
use xenstore::{XenbusState, path};

use crate::audit;
use crate::device::pristine;
use crate::error::{DomainName, Error, list};
use crate::host::Host;
use crate::host::domain;
use crate::ops::connect;
use crate::ops::device_model;
use crate::ops::hot_unplug::{self, Answer, IfSilent, UnplugRequest, phases, request_release};
use crate::ops::intent_log;
use crate::ops::plan::release::{Assignment, Connection, Rights};
use crate::ops::pool::{self, PoolState, STUB_PATIENCE};
use crate::ops::reattach;
use crate::ops::recover_intents;
use crate::ops::release;
use crate::records::device_table::{self, Phase, Record, Target};
use crate::records::directories::{self, Ends};
use crate::records::entries::Entries;
use crate::records::guard;
use crate::store::Change;

/// Devices taken back from a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reclaimed {
    pub(crate) guest: DomainName,
    pub(crate) devices: Vec<Sbdf>,
}

/// Puts everything right that can be. One guest's trouble is noted and does not keep a command from serving others.
pub(crate) fn reclaim(host: &Host) -> Result<Vec<Reclaimed>, Error> {
    vectors::end_vector_cleanups(host)?;
    if let Err(error) = audit::recover(host) {
        host.note(&format!("a guest was stopped by a command that was interrupted, and stands still: {error}"));
    }
    let mut reclaimed = Vec::new();
    let (mut records, mut remembered) = device_table::load_all(host)?;
    // A command that finds everything in order, as nearly every one does, need not look twice.
    let mut changed = records.iter().any(|record| matches!(record.phase, Phase::Attaching | Phase::Detaching));
    let in_pool = are_in_pools(host, &records)?;
    let mut guests: Vec<(DomId, DomId)> =
        records.iter().filter_map(|record| Some((record.frontend?, record.stub))).collect();
    guests.sort_unstable();
    guests.dedup();
    for (guest, stub) in guests {
        if host.is_others(guest)? {
            continue;
        }
        host.safe_point()?;
        let is_theirs = |record: &Record| (record.frontend, record.stub) == (Some(guest), stub);
        let theirs: Vec<Record> = records.iter().filter(|record| is_theirs(record)).copied().collect();
        let stub_alive = records.iter().zip(&in_pool).all(|(record, in_pool)| *in_pool || !is_theirs(record));
        match host.without_stopping(|| settle(host, guest, stub, stub_alive, &theirs)) {
            Ok(done) => {
                changed |= done.is_some();
                reclaimed.extend(done);
            }
            Err(error) => {
                changed = true;
                host.note(&format!("the devices of domain {guest} are not settled: {error}"));
            }
        }
    }
    for record in records.iter().filter(|record| record.phase == Phase::Attached) {
        tell_if_gone(host, record)?;
    }
    for (record, _) in records.iter().zip(&in_pool).filter(|(record, in_pool)| record.frontend.is_none() && !**in_pool)
    {
        changed = true;
        host.commit(&device_table::lose_stub(host, record.device)?)?;
        host.note(&format!("{} left the pool: backend domain {} is gone", record.device, record.stub));
    }
    changed |= recover_intents::recover(host)?;
    if changed {
        (records, remembered) = device_table::load_all(host)?;
    }
    guard::mend(host, &records)?;
    pristine::save_all_missing(host, records.iter().map(|record| record.device));
    remove_stale_directories(host, &records)?;
    reattach::reattach_all(host, &records, &remembered)?;
    Ok(reclaimed)
}

/// What [`reclaim`] would find to put right, one thing a line.
pub(crate) fn outstanding(host: &Host) -> Result<Vec<String>, Error> {
    let (records, remembered) = device_table::load_all(host)?;
    let mut found = Vec::new();
    for uuid in host.list(paths::CREATIONS)? {
        found.push(format!("finish or undo the creation of the guest {uuid}"));
    }
    for (device, _) in intent_log::load(host)? {
        found.push(format!("finish or undo what a command began with {device}"));
    }
    for record in &records {
        let Record { device, stub, frontend, phase } = *record;
        let guest = frontend.map(|guest| domain::named(host, guest)).transpose()?;
        match guest {
            Some(guest) if !domain::is_alive(host, guest.id)? => {
                found.push(format!("take {device} back from {guest}, which is gone"));
            }
            Some(guest) if matches!(phase, Phase::Attaching | Phase::Detaching) => {
                found.push(format!("finish or undo that {device} is {phase} ({guest})"));
            }
            _ if !is_in_pool(host, stub, device)? => {
                found.push(format!("{device}: its backend, domain {stub}, is gone"));
            }
            _ => {}
        }
    }
    if found.is_empty() && due::is_due(host, &records, &remembered, &due::persistent(host, &records)?)? {
        found.push(
            "bring devices where they belong: to guests and backends that were started again, or out of xl's reach"
                .to_owned(),
        );
    }
    Ok(found)
}

/// Whether [`reclaim`] would find something to put right.
pub(crate) fn is_due(host: &Host) -> Result<bool, Error> {
    let (records, remembered) = device_table::load_all(host)?;
    let is_left = |record: &Record| matches!(record.phase, Phase::Attaching | Phase::Detaching);
    if records.iter().any(is_left) || !intent_log::load(host)?.is_empty() {
        return Ok(true);
    }
    Ok(due::is_due(host, &records, &remembered, &due::persistent(host, &records)?)?)
}

/// Has the stub tell the guest about a device that was pulled out.
fn tell_if_gone(host: &Host, record: &Record) -> Result<(), Error> {
    if !host.sysfs.exists(record.device)
        && is_in_pool(host, record.stub, record.device)?
        && matches!(pool::state(host, record.stub, record.device)?, PoolState::Assigned(_))
    {
        host.commit(&[pool::look_again(record.stub, record.device)])?;
    }
    Ok(())
}

/// Settles the devices of one guest. Those that it uses stay, even without a stub: it can go on with the registers it
/// has mapped.
fn settle(
    host: &Host,
    guest: DomId,
    stub: DomId,
    stub_alive: bool,
    records: &[Record],
) -> Result<Option<Reclaimed>, Error> {
    let guest_alive = domain::is_alive(host, guest)?;
    let at = |wanted: &[Phase]| {
        let there = records.iter().filter(|record| wanted.contains(&record.phase));
        there.map(|record| record.device).collect::<Vec<_>>()
    };
    let is_orphan = guest_alive && !stub_alive && is_over(host, stub, guest, records)?;
    let target =
        || Ok::<_, Error>(records.first().map(|it| device_table::target(host, it.device)).transpose()?.flatten());
    let devices = match guest_alive {
        true if is_orphan => at(&[Phase::Attaching, Phase::Attached, Phase::Detaching]),
        true => at(&[Phase::Attaching, Phase::Detaching]),
        // What an HVM guest may still have mapped, whose stub domain is gone, waits for its end.
        false if target()?.is_some_and(|target| target.is_alive) => {
            at(&[Phase::Attaching, Phase::Attached, Phase::Detaching])
        }
        false => records.iter().map(|record| record.device).collect(),
    };
    if devices.is_empty() {
        return Ok(None);
    }
    let mut name = domain::named(host, guest)?;
    let backend = path::backend_dir(stub, guest);
    if name.name.is_none() {
        name.name = host.read(&path::child(&backend, "domain"))?;
    }
    let stub = domain::named(host, stub)?;
    let staying = if guest_alive && !is_orphan { at(&[Phase::Attached]) } else { Vec::new() };
    // What was being detached is not to come back.
    let stays_persistent = !guest_alive || is_orphan || at(&[Phase::Detaching]).is_empty();
    let connection = if staying.is_empty() { Connection::Gone } else { Connection::Stays };
    let mut assignment = Assignment {
        stub,
        stub_alive,
        guest: name,
        guest_alive,
        target: target()?,
        devices,
        staying,
        connection,
        stays_persistent,
    };
    if guest_alive && stub_alive {
        let (attaching, detaching) = (at(&[Phase::Attaching]), at(&[Phase::Detaching]));
        let kept = settled(host, &assignment, &attaching, &detaching)?;
        keep(host, &mut assignment, &kept)?;
        if assignment.devices.is_empty() {
            return Ok(None);
        }
        part(host, &mut assignment)?;
    } else {
        if is_orphan {
            reattach::leave(host, assignment.stub.id, &assignment.guest)?;
        }
        // The broker does nothing for them any more.
        host.commit(&phases(&assignment.devices, Phase::Detaching))?;
    }
    let taken = release::take_back(host, &assignment, Rights::Uncertain);
    let why = match (guest_alive, is_orphan) {
        (false, _) => "the guest is gone",
        (true, true) => "its backend is gone",
        (true, false) => "a command was interrupted",
    };
    taken?;
    host.note(&format!("took {} back from {}: {why}", list(&assignment.devices), assignment.guest));
    Ok(Some(Reclaimed { guest: assignment.guest, devices: assignment.devices }))
}

/// Those of the devices, in whose midst a command died, that the guest has for good: it has all it needs, or has not begun to let
/// go.
fn settled(host: &Host, assignment: &Assignment, attaching: &[Sbdf], detaching: &[Sbdf]) -> Result<Vec<Sbdf>, Error> {
    let (stub, guest) = (&assignment.stub, &assignment.guest);
    if assignment.target.is_some() {
        return Ok(Vec::new()); // nobody knows how far its device model was
    }
    if hot_unplug::cancel(host, stub, guest, detaching)? {
        return Ok(detaching.to_vec());
    }
    if Ends::read(host, stub.id, guest.id)?.front == XenbusState::Reconfiguring {
        // A round is under way. Then it is clear what came of it.
        match connect::settle(host, stub, guest, STUB_PATIENCE) {
            Err(Error::GuestSilent { .. } | Error::StubSilent { .. }) => {}
            settled => drop(settled?),
        }
    }
    let entries = Entries::load(host, stub.id, guest.id)?;
    let exported = |device: &Sbdf| entries.find(*device).is_some_and(|entry| entry.state == XenbusState::Initialised);
    let done = Ends::read(host, stub.id, guest.id)?.are_connected() && attaching.iter().all(exported);
    Ok(if done { attaching.to_vec() } else { Vec::new() })
}

fn keep(host: &Host, assignment: &mut Assignment, devices: &[Sbdf]) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let forget: Vec<Change> = devices.iter().map(|device| audit::forget_pirqs(*device)).collect();
    host.commit(&[phases(devices, Phase::Attached), forget, intent_log::done(devices)].concat())?;
    host.note(&format!("{} keeps {} though a command was interrupted", assignment.guest, list(devices)));
    assignment.devices.retain(|device| !devices.contains(device));
    assignment.staying.extend_from_slice(devices);
    Ok(())
}

/// The guest shall not use the devices any more. One that does not let go of what it was just given loses it all the same.
fn part(host: &Host, assignment: &mut Assignment) -> Result<(), Error> {
    if let Some(Target { guest, is_alive: true }) = &assignment.target
        && let Err(error) = device_model::unplug(host, guest, &assignment.devices, STUB_PATIENCE)
    {
        host.note(&format!("{error}; it loses them"));
    }
    let request = UnplugRequest {
        stub: &assignment.stub,
        guest: &assignment.guest,
        devices: &assignment.devices,
        timeout: STUB_PATIENCE,
        if_silent: IfSilent::Leave,
    };
    if !matches!(request_release(host, request)?, Answer::Released) {
        host.commit(&phases(&assignment.devices, Phase::Detaching))?;
    }
    assignment.connection =
        if assignment.staying.is_empty() { Connection::Ends { by_force: false } } else { Connection::Stays };
    release::look_who_is_there(host, assignment)
}

/// Removes directories that no device stands behind any more: of guests that are gone, or that closed after they had let go of
/// their last device.
fn remove_stale_directories(host: &Host, records: &[Record]) -> Result<(), Error> {
    let mut stubs: Vec<DomId> = records.iter().map(|record| record.stub).collect();
    stubs.dedup();
    for stub in stubs {
        for guest in host.list(&path::backend_root(stub))?.iter().filter_map(|name| name.parse().ok().map(DomId)) {
            let serves = |record: &Record| (record.stub, record.frontend) == (stub, Some(guest));
            if records.iter().any(serves) || host.is_others(guest)? {
                continue;
            }
            let is_over = !domain::is_alive(host, guest)? || Ends::read(host, stub, guest)?.are_closed();
            if is_over {
                host.commit(&directories::remove(host, stub, guest)?)?;
            }
        }
    }
    Ok(())
}
