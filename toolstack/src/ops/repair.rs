//! `pcidom repair`: gives devices back what they lost while a guest had them. dom0's kernel resets a bus after a fatal error and tells the drivers, which
//! then write back what their devices had (`Documentation/PCI/pci-error-recovery.rst` in Linux). xen-pciback does that for its own guests only, so a
//! device of ours comes back without addresses, decoding and messages, and its guest goes on with one that is dead. When the device has them again, its
//! guest is told what has happened ([`relay`]).

use std::time::Duration;

use ::dom0::sysfs::Config;
use ::dom0::xen::Physdev;
use pci_registers::{command, header, msi, msix};
use pcidom_abi::{DeviceNode, PermittedWrites, WriteKind};
use pcidom_broker::{Vectors, switch_on};
use xen_types::{DomId, Sbdf};

use crate::device::quiesce::await_rest;
use crate::device::resources::DeviceResources;
use crate::device::{pristine, reset};
use crate::error::{Doing as _, Error, HostError};
use crate::host::Host;
use crate::host::lock::Lock;
use crate::ops::pool;
use crate::ops::relay::{Relayed, relay};
use crate::records::device_table::{self, Phase, Record};
use crate::sysfs::{ConfigWalk as _, Width};

/// How long another process may be at the same device: it restores it, and tells its guest three things, which wait for a stub and for the guest.
const TURN: Duration = Duration::from_secs(40);

/// Looks at a device that its guest may have reset, until it has its registers again: after a tenth of a second (PCIe 5.0 §6.6.2), and two requests of the stub to a broker
/// that may have other stubs to serve.
const GUEST_RESET_LOOKS: u32 = 10;
const GUEST_RESET_LOOK: Duration = Duration::from_millis(50);

/// How often a guest may change its vectors meanwhile.
const ROUNDS: usize = 3;

/// What became of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Repaired {
    /// It has its registers again, and its guest was told.
    Restored(Relayed),
    /// It had lost nothing.
    Sound,
    /// No guest has it; it is free and as it should be.
    Free,
    /// It is in no pool, or a command is moving it, which sees to it.
    NotOurs,
    /// Another process repairs it.
    Busy,
    /// It was isolated from its guest after an earlier error.
    Isolated,
}

/// Looks at one device and writes back what it has lost.
///
/// # Errors
/// [`Error::Gone`] where it does not answer.
pub(crate) fn repair(host: &Host, physdev: &dyn Physdev, device: Sbdf) -> Result<Repaired, Error> {
    // Two that tell its guest would tell it everything twice. But an error that comes meanwhile may have cost the device what it was just given.
    let name = format!("pcidom-repair-{device}.lock");
    let turn = || Ok::<_, Error>(Lock::try_take_in(&host.lock_folder, &name)?);
    let Some(_lock) = host.wait_for(&[], TURN, turn)? else { return Ok(Repaired::Busy) };
    let Some(record) = device_table::load_one(host, device)? else { return Ok(Repaired::NotOurs) };
    let guest = match (record.phase, record.frontend) {
        (Phase::Pool, None) => None,
        (Phase::Attached, Some(guest)) => Some(guest),
        _ => return Ok(Repaired::NotOurs),
    };
    if !host.sysfs.exists(device) || !reset::answers(host, device)? {
        return Err(Error::Gone(device));
    }
    let is_isolated = host.exists(&DeviceNode::Isolated.of(device))?;
    let Some(guest) = guest.filter(|_| !is_isolated) else { return make_ready(host, device) };
    let (config, resources) = (host.sysfs.config(device)?, DeviceResources::gather(host, device)?);
    let look = || {
        let vectors = await_rest(host, device)?;
        Ok::<_, Error>(has_lost(&config, &resources, &vectors)?.map(|is_certain| (is_certain, vectors)))
    };
    let mut lost = look()?;
    if lost.is_some() && may_reset_it(host, device)? {
        for _ in 0..GUEST_RESET_LOOKS {
            host.pause(GUEST_RESET_LOOK);
            lost = look()?;
            if lost.is_none() {
                break;
            }
        }
    }
    let Some((is_certain, mut vectors)) = lost else { return Ok(Repaired::Sound) };
    pristine::restore(host, device, &config, true)?;
    for _ in 0..ROUNDS {
        switch_on_again(host, physdev, &config, &resources, &vectors)?;
        let now = await_rest(host, device)?;
        if now == vectors {
            break;
        }
        vectors = now;
    }
    let now = device_table::load_one(host, device)?;
    if !now.as_ref().is_some_and(|now| is_still(now, &record, guest)) {
        // A command has taken it back, and may have quiesced it before this. A guest that has been given it by now may use it.
        if now.is_none_or(|now| now.phase != Phase::Attached) {
            config.walk_and_quiesce(resources.decode())?;
        }
        return Ok(Repaired::NotOurs);
    }
    let told = if is_certain {
        relay(host, &record, guest)?
    } else {
        Relayed::Untold("whether it has lost them is not known")
    };
    Ok(if told == Relayed::Taken { Repaired::NotOurs } else { Repaired::Restored(told) })
}

/// Makes a device ready that no guest uses. A command that gives it to somebody meanwhile would have it quiesced under its guest, so none is at work.
fn make_ready(host: &Host, device: Sbdf) -> Result<Repaired, Error> {
    host.lock_commands(None)?;
    let made_ready = make_ready_alone(host, device);
    host.unlock_commands();
    made_ready
}

fn make_ready_alone(host: &Host, device: Sbdf) -> Result<Repaired, Error> {
    let Some(record) = device_table::load_one(host, device)? else { return Ok(Repaired::NotOurs) };
    let is_free = match (record.phase, record.frontend) {
        (Phase::Pool, None) => true,
        (Phase::Attached, Some(_)) if host.exists(&DeviceNode::Isolated.of(device))? => false,
        _ => return Ok(Repaired::NotOurs),
    };
    let config = host.sysfs.config(device)?;
    pristine::restore(host, device, &config, true)?;
    config.walk_and_quiesce(DeviceResources::gather(host, device)?.decode())?;
    if !is_free {
        return Ok(Repaired::Isolated);
    }
    host.commit(&[pool::look_again(record.stub, device)])?;
    Ok(Repaired::Free)
}

/// Whether its guest may have it reset by itself, after which it has no registers until the stub asks for them.
fn may_reset_it(host: &Host, device: Sbdf) -> Result<bool, Error> {
    let permitted = host.read(&DeviceNode::PermittedWrites.of(device))?;
    let permitted = permitted.and_then(|list| list.parse::<PermittedWrites>().ok());
    Ok(permitted.is_some_and(|list| list.registers.iter().any(|write| write.kind == WriteKind::Reset)))
}

/// Whether it may have lost its registers, and in the result, whether that is certain. A function whose decoders are off has been reset: no guest can turn them
/// off, which it is shown as its own. A virtual function has none, and has been reset if its messages are off that Xen has mapped.
fn has_lost(config: &Config, resources: &DeviceResources, vectors: &Vectors) -> Result<Option<bool>, Error> {
    if !resources.is_virtual() {
        let wanted = u32::from(resources.decode().bits());
        let has_lost = config.read(header::COMMAND, Width::Word)? & wanted != wanted;
        return Ok(has_lost.then_some(true));
    }
    let capabilities = config.capabilities()?;
    let control = match vectors {
        Vectors::Msi(_) => capabilities.msi.map(|msi| (msi.at + msi::CONTROL, msi::ENABLE)),
        Vectors::Msix(_) => capabilities.msix.map(|msix| (msix.at + msix::CONTROL, msix::ENABLE)),
        Vectors::None | Vectors::Busy => None,
    };
    let Some((at, enable)) = control else { return Ok(Some(false)) };
    Ok(Some(config.read(at, Width::Word)? & u32::from(enable) == 0))
}

/// Decoders on, messages and Enable as they were. Bus mastering is left to the guest's driver, which has to set the device up anew before it is of any use.
fn switch_on_again(
    host: &Host,
    physdev: &dyn Physdev,
    config: &Config,
    resources: &DeviceResources,
    vectors: &Vectors,
) -> Result<(), Error> {
    let device = resources.device;
    let intx_off = if host.exists(&DeviceNode::Intx.of(device))? { command::INTX_DISABLE } else { 0 };
    config.change_word(header::COMMAND, |command| command | resources.decode().bits() | intx_off)?;
    if vectors.pirqs().is_empty() {
        return Ok(());
    }
    physdev.restore(device).doing(|| format!("write the messages of {device}"))?;
    let capabilities = config.capabilities()?;
    Ok(switch_on(config, &capabilities, vectors)?)
}

fn is_still(now: &Record, record: &Record, guest: DomId) -> bool {
    now.phase == Phase::Attached && (now.stub, now.frontend) == (record.stub, Some(guest))
}

/// For people.
pub(crate) fn words(device: Sbdf, repaired: &Repaired) -> String {
    let again = format!("{device} had lost its registers and has them again");
    match repaired {
        Repaired::Restored(Relayed::Recovered) => format!("{again}; its guest's driver has set it up anew"),
        Repaired::Restored(Relayed::Unhandled) => format!("{again}; its guest has no driver that handles errors"),
        Repaired::Restored(Relayed::Untold(why)) => format!("{again}; its guest was not told: {why}"),
        Repaired::Restored(Relayed::Isolated(why)) => format!("{again}, and is isolated: {why}"),
        Repaired::Isolated => format!("{device} is isolated since an earlier error; detach it"),
        Repaired::Busy => format!("{device} is being repaired by another command"),
        Repaired::Sound => format!("{device} has lost nothing"),
        Repaired::Free => format!("{device} is free and as it should be"),
        Repaired::NotOurs | Repaired::Restored(Relayed::Taken) => {
            format!("{device} is in no pool, or on its way: nothing was done")
        }
    }
}

/// Repairs several; one that cannot be keeps no other from it.
///
/// # Errors
/// The first one's.
pub(crate) fn repair_all(host: &Host, physdev: &dyn Physdev, devices: &[Sbdf]) -> Result<Vec<String>, Error> {
    let (mut done, mut first) = (Vec::new(), Ok(()));
    for device in devices.iter().copied() {
        match repair(host, physdev, device) {
            Ok(repaired) => done.push(words(device, &repaired)),
            // Such a reset goes on, and a read there would wait for it.
            Err(error) => {
                if !matches!(error, Error::Host(HostError::ResetHangs(_))) {
                    host.note(&format!("{device} is not repaired: {error}"));
                }
                first = first.and(Err(error));
            }
        }
    }
    first.map(|()| done)
}
