//! A guest's vectors: mapping them, enabling MSI or MSI-X in the device, and cleaning up after a broker that died in between.
//!
//! | | order |
//! |---|---|
//! | on | `busy` → what is on goes → (MSI-X: memory decode) → map → Enable → INTx off → what is mapped |
//! | off | `busy` → Enable off → unmap → INTx as the guest wants it → `none` |
//!
//! Enable is one write of 16 bits: Xen refuses other widths for MSI-X (`pci_msi_conf_write_intercept`, `xen/arch/x86/msi.c`).

use std::collections::BTreeSet;

use pci_registers::command::{INTX_DISABLE, MEMORY_DECODE};
use pci_registers::header::COMMAND;
use pci_registers::{msi, msix};
use pcidom_abi::{Capabilities, Msi, Msix};
use xen_types::{DomId, Errno, Pirq, Resource, ResourceKind, Sbdf};

use super::allow::Allowed;
use super::assignment::Assigned;
use super::failure::Failure;
use super::power;
use super::vectors::{self, Noted, Vectors};
use crate::records;
use crate::resources::DeviceResources;
use dom0::Dom0;
use dom0::sysfs::{Config, Width};
use dom0::xen::{HypercallError, Physdev, Vector};
use dom0::{Doing as _, Error};

/// A device under our hands.
pub(crate) struct Work<'a> {
    pub(crate) host: &'a Dom0,
    pub(crate) physdev: &'a dyn Physdev,
    pub(crate) assigned: Assigned,
    /// What was mapped when the request came, and whether the guest wanted INTx off when the first vector came.
    pub(crate) noted: Noted,
    pub(crate) config: &'a Config,
    pub(crate) capabilities: Capabilities,
    /// The guest's device model maps vectors by itself: this broker maps none, and turns MSI and MSI-X on only at a guest's write.
    pub(crate) controls_interrupts: bool,
}

impl Work<'_> {
    /// Writes MSI or MSI-X control for a guest whose device model maps vectors by itself. One kind of interrupts at a time. MSI is turned on only where
    /// Xen has a vector for it, since it sends whatever message stands there; the entries of an MSI-X table are masked unless Xen has mapped them, and
    /// no guest can write there (`msix_capability_init`, `xen/arch/x86/msi.c`).
    pub(crate) fn write_control(&self, write: &Allowed, new: u32) -> Result<(), Failure> {
        let is_msi = |msi: &Msi| write.offset == msi.at + msi::CONTROL;
        let msi = self.capabilities.msi.filter(is_msi);
        let enable = u32::from(if msi.is_some() { msi::ENABLE } else { msix::ENABLE });
        let was_on = self.config.read(write.offset, write.width)? & enable != 0;
        if !was_on && new & enable != 0 {
            self.check_no_messages("asked for MSI and MSI-X together")?;
            if !power::is_awake(self.config, &self.capabilities)? {
                return Err(Failure::NotAllowed("asked for MSI or MSI-X of a device that sleeps"));
            }
            if let Some(Msi { at, .. }) = msi
                && !self.has_message(at)?
            {
                return Err(Failure::NotAllowed("asked for MSI without a vector that Xen has mapped"));
            }
        }
        Ok(self.config.write(write.offset, write.width, new)?)
    }

    /// Refuses where MSI or MSI-X is on.
    pub(crate) fn check_no_messages(&self, why: &'static str) -> Result<(), Failure> {
        let places = [
            self.capabilities.msi.map(|msi| (msi.at + msi::CONTROL, msi::ENABLE)),
            self.capabilities.msix.map(|msix| (msix.at + msix::CONTROL, msix::ENABLE)),
        ];
        for (control, enable) in places.into_iter().flatten() {
            if self.config.read(control, Width::Word)? & u32::from(enable) != 0 {
                return Err(Failure::NotAllowed(why));
            }
        }
        Ok(())
    }

    /// Whether Xen has a vector of MSI for the device. Nobody else writes its message: what is left of an old one is cleared, and Xen writes the one
    /// that it knows again, if there is any.
    fn has_message(&self, at: u16) -> Result<bool, Failure> {
        self.config.write(at + msi::ADDRESS, Width::Dword, 0)?;
        self.physdev.restore(self.assigned.device)?;
        Ok(self.config.read(at + msi::ADDRESS, Width::Dword)? != 0)
    }

    /// Refuses to map vectors for a guest whose device model does it.
    fn check_maps(&self) -> Result<(), Failure> {
        if self.controls_interrupts {
            return Err(Failure::Refused("asked for vectors that the guest's device model maps by itself"));
        }
        Ok(())
    }

    /// Maps `count` consecutive vectors and turns MSI on; the first pirq.
    pub(crate) fn enable_msi(&self, count: u32) -> Result<(Noted, Pirq), Failure> {
        let msi = self.capabilities.msi.ok_or(Failure::Refused("asked for MSI of a device without it"))?;
        if !count.is_power_of_two() || count > msi.vectors {
            return Err(Failure::Refused("asked for more MSI vectors than the device has"));
        }
        self.check_maps()?;
        self.check_awake()?;
        let enabled = self.replace(|mapped| {
            let first = self.physdev.map(self.assigned.guest, self.assigned.device, Vector::Msi { count })?;
            *mapped = Vectors::Msi((0..count).map(|number| Pirq(first.0.saturating_add(number))).collect());
            Ok(())
        })?;
        let first = enabled.vectors.pirqs().first().copied();
        first.map(|first| (enabled, first)).ok_or(Failure::Refused("nothing was mapped"))
    }

    /// Maps these entries, in this order, and turns MSI-X on.
    pub(crate) fn enable_msix(&self, indexes: &[u16]) -> Result<Noted, Failure> {
        let msix = self.capabilities.msix.ok_or(Failure::Refused("asked for MSI-X of a device without it"))?;
        let distinct: BTreeSet<u16> = indexes.iter().copied().collect();
        if indexes.is_empty() || distinct.len() != indexes.len() || indexes.iter().any(|index| *index >= msix.entries) {
            return Err(Failure::Refused("asked for MSI-X entries that the table does not have"));
        }
        self.check_maps()?;
        let sysfs = &self.host.sysfs;
        let table_bar = table_bar(msix, &sysfs.resources(self.assigned.device)?)
            .ok_or(Failure::Refused("asked for MSI-X of a device whose table dom0 does not know"))?;
        self.check_awake()?;
        let physical = sysfs.physical_function(self.assigned.device);
        // The table of a virtual function answers when its physical function, which is dom0's, has it so.
        let decodes = |physical| match self.capabilities.sr_iov {
            Some(at) => sysfs.decodes_virtual_functions(physical, at),
            None => Ok(false),
        };
        if let Some(physical) = physical
            && !decodes(physical)?
        {
            let why = "asked for MSI-X of a virtual function whose physical one has its memory off";
            return Err(Failure::Refused(why));
        }
        self.replace(|mapped| {
            // Xen reads and masks the table.
            if physical.is_none() {
                self.config.change_word(COMMAND, |command| command | MEMORY_DECODE)?;
            }
            let mut outcome = Ok(());
            let pirqs = indexes.iter().copied().map_while(|entry| {
                let vector = Vector::Msix { entry, table_bar };
                match self.physdev.map(self.assigned.guest, self.assigned.device, vector) {
                    Ok(pirq) => Some((entry, pirq)),
                    Err(error) => {
                        outcome = Err(error.into());
                        None
                    }
                }
            });
            *mapped = Vectors::Msix(pirqs.collect());
            outcome
        })
    }

    /// Turns off what is on and unmaps it.
    pub(crate) fn disable(&self) -> Result<(), Failure> {
        let device = self.assigned.device;
        if self.noted.vectors == Vectors::None {
            return Ok(());
        }
        self.host.commit_own(&[vectors::store(&Vectors::Busy, device)])?;
        self.clear(&self.noted)?;
        Ok(self.noted.forget(self.host, device)?)
    }

    /// In D3hot the device answers no access to its MSI-X table and forgets what MSI is told.
    fn check_awake(&self) -> Result<(), Failure> {
        if power::is_awake(self.config, &self.capabilities)? {
            Ok(())
        } else {
            Err(Failure::Refused("asked for vectors of a device that sleeps"))
        }
    }

    /// Puts a new set of vectors in the place of the old one. `map` says what it has mapped, also where it fails.
    fn replace(&self, map: impl FnOnce(&mut Vectors) -> Result<(), Failure>) -> Result<Noted, Failure> {
        let Noted { vectors: old, intx_off } = &self.noted;
        let is_off = *old == Vectors::None && self.config.read(COMMAND, Width::Word)? & u32::from(INTX_DISABLE) != 0;
        if vectors::begin(self.host, &self.assigned, is_off)? {
            self.host.commit_own(&[vectors::store(old, self.assigned.device)])?;
            return Err(Failure::Swept);
        }
        let mut noted = Noted { vectors: old.clone(), intx_off: *intx_off || is_off };
        self.clear(&noted)?;
        noted.vectors = Vectors::None;
        let done = map(&mut noted.vectors)
            .and_then(|()| check_expressible(&noted.vectors))
            .and_then(|()| Ok(switch_on(self.config, &self.capabilities, &noted.vectors)?))
            .and_then(|()| self.finish(&noted.vectors));
        match done {
            Ok(()) => Ok(noted),
            Err(failure) => {
                self.take_down(&noted)?;
                Err(failure)
            }
        }
    }

    /// Notes what is mapped and looks again, after that is done: has nobody taken the device back meanwhile?
    fn finish(&self, mapped: &Vectors) -> Result<(), Failure> {
        self.host.commit_own(&[vectors::store(mapped, self.assigned.device)])?;
        if self.assigned.is_current(self.host)? { Ok(()) } else { Err(Failure::NotYours) }
    }

    /// [`clear`] for a broker. Who is not at the vectors of another device now is dead: there is one broker.
    fn clear(&self, noted: &Noted) -> Result<(), Error> {
        let Assigned { device, guest, .. } = self.assigned;
        clear(self.host, guest, device, self.config, &self.capabilities, noted, &|other| {
            vectors::load(self.host, other)
        })
    }

    /// Undoes what was just done; the device may be nobody's by now.
    fn take_down(&self, noted: &Noted) -> Result<(), Failure> {
        let device = self.assigned.device;
        self.clear(noted)?;
        // A command that takes the device back must not find a word of ours behind it.
        vectors::remove(self.host, device)?;
        Ok(())
    }
}

/// Turns MSI or MSI-X on in the device.
///
/// # Errors
/// The kernel's.
pub fn switch_on(config: &Config, capabilities: &Capabilities, mapped: &Vectors) -> Result<(), Error> {
    match (mapped, capabilities.msi, capabilities.msix) {
        (Vectors::Msi(_), Some(Msi { at, .. }), _) => {
            config.change_word(at + msi::CONTROL, |control| control | msi::ENABLE)?;
        }
        (Vectors::Msix(_), _, Some(Msix { at, .. })) => {
            config.change_word(at + msix::CONTROL, |control| control & !msix::MASK_ALL | msix::ENABLE)?;
        }
        _ => return Ok(()),
    }
    config.change_word(COMMAND, |command| command | INTX_DISABLE)
}

/// Whether the stub can tell the guest: `pciif.h` has 16 bits for the pirq of an MSI-X entry, and 0 means "none".
fn check_expressible(mapped: &Vectors) -> Result<(), Failure> {
    if mapped.pirqs().iter().all(|pirq| (1..=u32::from(u16::MAX)).contains(&pirq.0)) {
        return Ok(());
    }
    Err(Failure::Xen(HypercallError { call: "PHYSDEVOP_map_pirq", errno: Errno::E2BIG }))
}

/// The address of the BAR with the table, as dom0's kernel knows it; `None` where that is no memory BAR.
fn table_bar(msix: Msix, resources: &[(u8, Resource)]) -> Option<u64> {
    let (_, resource) = resources.iter().find(|(index, _)| *index == msix.bar)?;
    (!matches!(resource.kind(), ResourceKind::Io | ResourceKind::Rom)).then(|| resource.start())
}

/// Turns a device's vectors off and unmaps them; finds out which they are where `noted` does not say. INTx goes back to what the
/// guest wants.
pub(crate) fn clear<E: From<Error>>(
    host: &Dom0,
    guest: DomId,
    device: Sbdf,
    config: &Config,
    capabilities: &Capabilities,
    noted: &Noted,
    settle: Settle<'_, E>,
) -> Result<(), E> {
    if noted.vectors == Vectors::None {
        return Ok(());
    }
    if let Some(Msi { at, .. }) = capabilities.msi {
        config.change_word(at + msi::CONTROL, |control| control & !msi::ENABLE)?;
    }
    if let Some(Msix { at, .. }) = capabilities.msix {
        // Not masked either: Xen does not assign a device whose vectors are all masked (`pdev_msix_assign`).
        config.change_word(at + msix::CONTROL, |control| control & !(msix::ENABLE | msix::MASK_ALL))?;
    }
    unmap(host, guest, device, &noted.vectors, settle)?;
    if !noted.intx_off {
        config.change_word(COMMAND, |command| command & !INTX_DISABLE)?;
    }
    Ok(())
}

/// What another device's vectors are once nobody changes them.
pub type Settle<'a, E> = &'a dyn Fn(Sbdf) -> Result<Vectors, E>;

/// Unmaps a device's vectors without looking at the device.
///
/// # Errors
/// Xen's and xenstore's, and those of `settle`.
pub fn unmap<E: From<Error>>(
    host: &Dom0,
    guest: DomId,
    device: Sbdf,
    mapped: &Vectors,
    settle: Settle<'_, E>,
) -> Result<(), E> {
    match mapped {
        Vectors::Busy => clean_up_vectors(host, guest, device, settle),
        mapped => Ok(unmap_all(host, guest, mapped.mappings())?),
    }
}

/// Unmaps what is there. A vector that is not mapped any more, or whose guest is gone, is no error. Another error does not keep the
/// rest, but the node `vectors` must go on saying `busy`.
fn unmap_all(host: &Dom0, guest: DomId, pirqs: impl IntoIterator<Item = Pirq>) -> Result<(), Error> {
    /// No such process: the domain is gone, and Xen has taken everything back.
    const ESRCH: Errno = Errno(3);
    let mut result = Ok(());
    for pirq in pirqs {
        match host.hypervisor.unmap_pirq(guest, pirq) {
            Ok(()) => {}
            Err(error) if error.errno == ESRCH => break,
            Err(error) if error.errno == Errno::EINVAL => {}
            outcome => result = result.and(outcome.doing(|| format!("unmap pirq {pirq} of domain {guest}"))),
        }
    }
    result
}

/// Unmaps every vector of the guest that is not known to belong to another of its devices. Upwards: the first of consecutive
/// vectors must go first. Nobody maps anything for the guest meanwhile.
fn clean_up_vectors<E: From<Error>>(host: &Dom0, guest: DomId, device: Sbdf, settle: Settle<'_, E>) -> Result<(), E> {
    host.commit(&[vectors::begin_vector_cleanup(guest)])?;
    let keep = vectors_of_others(host, guest, device, settle);
    let cleanup = keep.map(|keep| {
        let all = host.hypervisor.vector_pirqs();
        unmap_all(host, guest, all.filter(|number| !keep.contains(number)).map(Pirq))
    });
    // Also where it failed: until then the guest gets no vectors.
    host.commit(&vectors::end_vector_cleanup(guest))?;
    Ok(cleanup??)
}

/// The interrupts of a guest that belong to its other devices, and the lines of all.
fn vectors_of_others<E: From<Error>>(
    host: &Dom0,
    guest: DomId,
    device: Sbdf,
    settle: Settle<'_, E>,
) -> Result<BTreeSet<u32>, E> {
    let mut keep = BTreeSet::new();
    for record in records::load(host)?.into_iter().filter(|record| record.frontend == Some(guest)) {
        let resources = DeviceResources::of_others(host, record.stub, &[record.device])?;
        keep.extend(resources.into_iter().filter_map(|resources| resources.gsi));
        if record.device != device {
            // One that stays `busy` is another one that somebody died at.
            keep.extend(settle(record.device)?.pirqs().into_iter().map(|pirq| pirq.0));
        }
    }
    Ok(keep)
}
