//! One request: looked up, checked, carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use pci_registers::{command, header};
use pcidom_abi::{BrokerCommand, DeviceNode, Features, PermittedWrites, WriteKind};
use pciif::{ErrorCode, MsixEntries, Request};
use xen_types::{DomId, Sbdf};

use super::allow::{self, Allowed, Asked};
use super::assignment::Assigned;
use super::failure::Failure;
use super::interrupts::{Work, switch_on};
use super::power;
use super::quiesce;
use super::reset;
use super::vectors::{self, Noted, Vectors};
use crate::records::{self, Phase};
use crate::resources::DeviceResources;
use dom0::Dom0;
use dom0::Error;
use dom0::sysfs::Config;
use dom0::xen::Physdev;

/// What the stub gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) value: u32,
    pub(crate) info: u32,
    pub(crate) vectors: Vec<u16>,
}

impl Answer {
    fn value(value: u32) -> Self {
        Self { value, ..Self::default() }
    }
}

/// The real address that a request names; `None` where it is none.
pub(crate) fn address(request: &Request) -> Option<Sbdf> {
    let segment = u16::try_from(request.domain).ok()?;
    let bus = u8::try_from(request.bus).ok()?;
    Some(Sbdf::from_devfn(segment, bus, u8::try_from(request.devfn).ok()?))
}

/// What is known of a device that a stub serves, and its open configuration space.
pub(crate) struct Known {
    assigned: Assigned,
    noted: Noted,
    /// `None` where `attach` has noted nothing that this version reads.
    permitted: Option<PermittedWrites>,
    config: Config,
    /// When the device said that it is the one it was.
    identified: Duration,
}

/// No card is exchanged in that time: a new one is not asked anything for 100 ms after its reset (PCIe 5.0 §6.6.1). Each look at the identity is two accesses
/// to registers, of which a write needs as many.
const IDENTIFIED_FOR: Duration = Duration::from_millis(50);

/// The devices that a stub has asked about, while nobody changes the database.
pub(crate) type KnownDevices = BTreeMap<Sbdf, Known>;

impl Known {
    /// All that is needed of xenstore, with one question.
    fn look(host: &Dom0, stub: DomId, device: Sbdf) -> Result<Self, Failure> {
        let [vectors, intx] = Noted::nodes(device);
        let nodes = [vectors, intx, DeviceNode::PermittedWrites.of(device)];
        let (assigned, [vectors, intx, list]) = Assigned::find(host, stub, device, &nodes)?;
        let Some(config) = host.sysfs.find_config(device)? else {
            return Err(Failure::NotYours); // it was pulled out
        };
        let permitted: Option<PermittedWrites> = list.unwrap_or_default().parse().ok();
        let (noted, identified) = (Noted::from_nodes([vectors, intx]), host.elapsed());
        let known = Self { assigned, noted, permitted, config, identified };
        if known.is_replaced()? { Err(Failure::Replaced) } else { Ok(known) }
    }

    /// Whether all of it is still so, but for what a look would tell better.
    fn is_good(&mut self, host: &Dom0, now: Duration) -> bool {
        if !self.assigned.is_unchanged(host) || host.sysfs.is_resetting(self.assigned.device) {
            return false;
        }
        let is_long_ago = now.saturating_sub(self.identified) >= IDENTIFIED_FOR;
        if is_long_ago {
            self.identified = now;
        }
        !is_long_ago || self.is_replaced().is_ok_and(|replaced| !replaced)
    }

    /// Whether another card is in the slot.
    fn is_replaced(&self) -> Result<bool, Error> {
        let Some(permitted) = &self.permitted else { return Ok(false) };
        Ok(permitted.identity.is_other(self.config.identity()?))
    }
}

/// Carries out a request of `stub` that came `now`. `entries` are those that came with it. Of `devices` it takes what is known, and puts there what is known afterwards:
/// after a failure that is nothing.
pub(crate) fn execute(
    host: &Dom0,
    physdev: &dyn Physdev,
    stub: DomId,
    request: &Request,
    entries: Option<&MsixEntries>,
    (devices, now): (&mut KnownDevices, Duration),
) -> Result<Answer, Failure> {
    let device = address(request).ok_or(Failure::NotYours)?;
    let mut known = match devices.remove(&device).and_then(|mut known| known.is_good(host, now).then_some(known)) {
        Some(known) => known,
        None => Known::look(host, stub, device)?,
    };
    let command = BrokerCommand::from_raw(request.cmd).ok_or(Failure::UnknownCommand)?;
    let (answer, noted) = carry_out(host, physdev, &known, command, request, entries)?;
    if let Some(noted) = noted
        && known.permitted.is_some()
    {
        known.noted = noted;
        devices.insert(device, known);
    }
    Ok(answer)
}

/// The answer, and what stands in xenstore afterwards about the device's interrupts where that is known.
fn carry_out(
    host: &Dom0,
    physdev: &dyn Physdev,
    known: &Known,
    command: BrokerCommand,
    request: &Request,
    entries: Option<&MsixEntries>,
) -> Result<(Answer, Option<Noted>), Failure> {
    let Known { assigned, config, .. } = known;
    let unlisted;
    let permitted = match &known.permitted {
        Some(permitted) => permitted,
        None => {
            unlisted = without_list(command, config)?;
            &unlisted
        }
    };
    let capabilities = permitted.capabilities;
    let controls_interrupts = permitted.gives_interrupt_control();
    let noted = known.noted.clone();
    let work = Work { host, physdev, assigned: *assigned, noted, config, capabilities, controls_interrupts };
    match command {
        BrokerCommand::ConfWrite => {
            let is_noted = write(&work, request, permitted)?;
            Ok((Answer::default(), (!is_noted).then_some(work.noted)))
        }
        BrokerCommand::EnableMsi | BrokerCommand::EnableMultiMsi => {
            let count = if command == BrokerCommand::EnableMsi { 1 } else { request.info };
            let (noted, first) = work.enable_msi(count)?;
            Ok((Answer::value(first.0), Some(noted)))
        }
        BrokerCommand::DisableMsi | BrokerCommand::DisableMsix => {
            work.disable()?;
            // Nothing was written where nothing was on.
            if work.noted.vectors != Vectors::None {
                check_after(&work)?;
                return Ok((Answer::default(), Some(Noted { vectors: Vectors::None, intx_off: false })));
            }
            Ok((Answer::default(), Some(work.noted)))
        }
        BrokerCommand::EnableMsix => {
            let (answer, noted) = enable_msix(&work, entries)?;
            Ok((answer, Some(noted)))
        }
        BrokerCommand::Quiesce => {
            let resources = DeviceResources::gather(host, assigned.device)?;
            quiesce::quiesce_device(host, assigned.guest, &resources, &capabilities, &|other| {
                vectors::load(host, other)
            })?;
            if work.assigned.is_current(host)? {
                work.config.prepare(resources.decode())?;
            }
            check_after(&work).map(|()| (Answer::default(), None))
        }
        BrokerCommand::Query => Ok((query(&work), Some(work.noted))),
        BrokerCommand::Restore => {
            reset::restore(&work, request.value)?;
            restore_vectors(&work)?;
            check_after(&work).map(|()| (Answer::default(), None))
        }
    }
}

/// What may be done with a device for which `attach` has noted nothing that this version reads: nothing is turned on, but what is on can be turned
/// off. Where MSI and MSI-X are is not known, so DMA ends before their vectors are unmapped: messages that go on coming are DMA.
fn without_list(command: BrokerCommand, config: &Config) -> Result<PermittedWrites, Failure> {
    match command {
        BrokerCommand::ConfWrite
        | BrokerCommand::EnableMsi
        | BrokerCommand::EnableMultiMsi
        | BrokerCommand::EnableMsix
        | BrokerCommand::Restore => return Err(Failure::NoList),
        BrokerCommand::DisableMsi | BrokerCommand::DisableMsix | BrokerCommand::Quiesce => {
            config.change_word(header::COMMAND, |command| command & !command::BUS_MASTER)?;
        }
        BrokerCommand::Query => {}
    }
    Ok(PermittedWrites::default())
}

/// Whether what stands in xenstore about the device's interrupts is something else now.
fn write(work: &Work<'_>, request: &Request, permitted: &PermittedWrites) -> Result<bool, Failure> {
    let mut is_noted = false;
    let Request { offset, size, value, info, .. } = *request;
    let allowed = allow::check(&Asked { offset, size, value, mask: info }, permitted)?;
    for write in &allowed {
        let new = write.merged(work.config.read(write.offset, write.width)?);
        match write.kind {
            WriteKind::PowerState => change_power_state(work, write.offset, new)?,
            WriteKind::Command => is_noted |= write_command(work, write, new)?,
            WriteKind::Reset => reset::reset(work, write, new)?,
            WriteKind::InterruptControl => work.write_control(write, new)?,
            _ => work.config.write(write.offset, write.width, new)?,
        }
    }
    // The other registers can hurt nobody.
    let needs_look = |kind| matches!(kind, WriteKind::Command | WriteKind::InterruptControl | WriteKind::Open);
    if allowed.iter().any(|write| needs_look(write.kind)) {
        check_after(work)?;
    }
    Ok(is_noted)
}

fn change_power_state(work: &Work<'_>, pmcsr: u16, new: u32) -> Result<(), Failure> {
    let resources = DeviceResources::gather(work.host, work.assigned.device)?;
    let is_in_use = || work.assigned.is_current(work.host);
    let has_lost = power::write_pmcsr(work.host, work.config, &resources, pmcsr, new, is_in_use)?;
    check_after(work)?;
    if has_lost {
        restore_vectors(work)?;
        check_after(work)?;
    }
    Ok(())
}

/// While vectors are mapped INTx Disable stays, and what the guest wants is noted for afterwards. Whether something was noted.
fn write_command(work: &Work<'_>, write: &Allowed, mut new: u32) -> Result<bool, Failure> {
    const INTX_DISABLE: u32 = command::INTX_DISABLE as u32;
    if work.controls_interrupts && write.mask & INTX_DISABLE != 0 && new & INTX_DISABLE == 0 {
        work.check_no_messages("asked for the interrupt line beside MSI or MSI-X")?;
    }
    let is_noted = write.mask & INTX_DISABLE != 0 && work.noted.vectors != Vectors::None;
    if is_noted {
        work.host.commit_own(&[vectors::set_intx_off(work.assigned.device, new & INTX_DISABLE != 0)])?;
        new |= INTX_DISABLE;
    }
    work.config.write(write.offset, write.width, new)?;
    Ok(is_noted)
}

/// A command may have taken the device back since it was looked up, and made it quiet before this write came. Then it is made so again: with the
/// next guest, which may have it by now, nothing has turned bus mastering on that would not be asked for here.
fn check_after(work: &Work<'_>) -> Result<(), Failure> {
    let device = work.assigned.device;
    if work.assigned.is_current(work.host)? {
        return Ok(());
    }
    let record = records::load_one(work.host, device)?;
    match record.map(|record| record.phase) {
        Some(Phase::Attaching | Phase::Attached) => {
            work.config.change_word(header::COMMAND, |command| command & !command::BUS_MASTER)?;
        }
        _ => work.config.quiesce(DeviceResources::gather(work.host, device)?.decode(), &work.capabilities)?,
    }
    Err(Failure::NotYours)
}

/// A device that came back from D3hot or was reset has forgotten its messages.
fn restore_vectors(work: &Work<'_>) -> Result<(), Failure> {
    if work.controls_interrupts {
        // Whose they are only Xen knows; the guest turns them on again.
        return Ok(work.physdev.restore(work.assigned.device)?);
    }
    if work.noted.vectors.pirqs().is_empty() {
        return Ok(());
    }
    work.physdev.restore(work.assigned.device)?;
    Ok(switch_on(work.config, &work.capabilities, &work.noted.vectors)?)
}

fn enable_msix(work: &Work<'_>, entries: Option<&MsixEntries>) -> Result<(Answer, Noted), Failure> {
    let entries = entries.ok_or(Failure::Refused("asked for more MSI-X entries than fit into a request"))?;
    let indexes: Vec<u16> = entries.as_slice().iter().map(|entry| entry.entry).collect();
    let noted = work.enable_msix(&indexes)?;
    // Checked before: each fits.
    let vectors = noted.vectors.pirqs().iter().map(|pirq| u16::try_from(pirq.0).unwrap_or_default()).collect();
    Ok((Answer { vectors, ..Answer::default() }, noted))
}

fn query(work: &Work<'_>) -> Answer {
    let mut features = Features::empty();
    features.set(Features::MSI, work.capabilities.msi.is_some_and(|msi| msi.vectors > 0));
    features.set(Features::MSIX, work.capabilities.msix.is_some_and(|msix| msix.entries > 0));
    let mapped = work.noted.vectors.pirqs().len();
    Answer { value: features.bits(), info: u32::try_from(mapped).unwrap_or(u32::MAX), vectors: Vec::new() }
}

/// The words of a failure: an error, and the number behind it.
pub(crate) fn failed(failure: &Failure) -> (ErrorCode, u32) {
    (failure.code(), failure.errno().0.unsigned_abs())
}
