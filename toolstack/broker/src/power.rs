//! Power states: the waits that a device needs, and the header that it loses on its way back to D0.

use std::time::Duration;

use xen_types::{Resource, ResourceKind};

use super::allow::{BUS_MASTER, INTX_DISABLE};
use super::capabilities::Capabilities;
use crate::resources::DeviceResources;
use dom0::Dom0;
use dom0::Error;
use dom0::sysfs::{Config, Width};

/// PMCSR in the capability, and its lowest bits (PCI PM 1.2 §3.2.4).
const PMCSR: u64 = 4;
const STATE: u32 = 3;
const D2: u32 = 2;
const D3: u32 = 3;
/// From and to D3hot, from and to D2 (§5.6.1, table 5-6).
const D3_TIME: Duration = Duration::from_millis(10);
const D2_TIME: Duration = Duration::from_micros(200);

/// Registers of the header (PCI Local Bus 3.0 §6.1).
const COMMAND: u64 = 0x04;
const CACHE_LINE_SIZE: u64 = 0x0c;
const LATENCY_TIMER: u64 = 0x0d;
const BAR_0: u64 = 0x10;
const ROM_BAR: u64 = 0x30;
const INTERRUPT_LINE: u64 = 0x3c;

/// Whether the device is in D0; one without power states always is.
pub(crate) fn is_awake(config: &Config, capabilities: &Capabilities) -> Result<bool, Error> {
    match capabilities.power {
        Some(at) => Ok(config.read(at + PMCSR, Width::Word)? & STATE == 0),
        None => Ok(true),
    }
}

/// Writes PMCSR and waits as long as the device needs. True when the device may have lost its registers and got its header back:
/// messages are gone then. The header comes back as it was if `is_in_use` says so after the wait; else quiet, without bus mastering and INTx.
/// It comes back in any case: who has taken the device meanwhile has found it awake, and restores nothing.
pub(crate) fn write_pmcsr(
    host: &Dom0,
    config: &Config,
    facts: &DeviceResources,
    offset: u64,
    value: u32,
    is_in_use: impl FnOnce() -> Result<bool, Error>,
) -> Result<bool, Error> {
    let (from, to) = (config.read(offset, Width::Word)? & STATE, value & STATE);
    // A device in D3hot still answers; what it loses, it loses on the way back (PCI PM 1.2 §5.4.1).
    let header = Header::read(config)?;
    config.write(offset, Width::Word, value)?;
    match (from, to) {
        _ if from == to => return Ok(false),
        (D3, _) | (_, D3) => host.pause(D3_TIME),
        (D2, _) | (_, D2) => host.pause(D2_TIME),
        _ => {}
    }
    let returns = from == D3 && to == 0;
    if returns {
        let answer = is_in_use();
        let command = match answer {
            Ok(true) => header.command,
            _ => header.command & !BUS_MASTER | INTX_DISABLE,
        };
        header.restore(config, facts, command)?;
        answer?;
    }
    Ok(returns)
}

/// Brings a device back to D0.
pub(crate) fn wake(
    host: &Dom0,
    config: &Config,
    capabilities: &Capabilities,
    facts: &DeviceResources,
    is_in_use: impl FnOnce() -> Result<bool, Error>,
) -> Result<bool, Error> {
    /// Clears by a one that we do not mean to write.
    const PME_STATUS: u32 = 1 << 15;
    let Some(at) = capabilities.power else { return Ok(false) };
    let pmcsr = config.read(at + PMCSR, Width::Word)?;
    if pmcsr & STATE == 0 {
        return Ok(false);
    }
    write_pmcsr(host, config, facts, at + PMCSR, pmcsr & !(STATE | PME_STATUS), is_in_use)
}

/// What the header holds besides addresses. Those come from sysfs: they are right whatever the device says.
struct Header {
    command: u32,
    bytes: [(u64, u32); 3],
}

impl Header {
    fn read(config: &Config) -> Result<Self, Error> {
        let byte = |offset| Ok::<_, Error>((offset, config.read(offset, Width::Byte)?));
        let bytes = [byte(CACHE_LINE_SIZE)?, byte(LATENCY_TIMER)?, byte(INTERRUPT_LINE)?];
        // All ones: the device does not answer, so nothing is known but that it must decode.
        let command = match config.read(COMMAND, Width::Word)? {
            0xffff => 0,
            command => command,
        };
        Ok(Self { command, bytes })
    }

    /// Addresses before decoders.
    fn restore(&self, config: &Config, facts: &DeviceResources, command: u32) -> Result<(), Error> {
        // A virtual function has no address registers to lose (PCIe 5.0 §9.3.4.1.11).
        for (index, resource) in facts.resources.iter().filter(|_| !facts.is_virtual()) {
            restore_address(config, *index, *resource)?;
        }
        for (offset, value) in self.bytes {
            config.write(offset, Width::Byte, value)?;
        }
        config.write(COMMAND, Width::Word, command | u32::from(facts.decode().bits()))
    }
}

fn restore_address(config: &Config, index: u8, resource: Resource) -> Result<(), Error> {
    let (offset, flags) = match resource.kind() {
        ResourceKind::Rom => (ROM_BAR, 0x7ff), // its enable bit stays off
        ResourceKind::Io => (BAR_0 + 4 * u64::from(index), 3),
        _ => (BAR_0 + 4 * u64::from(index), 0xf),
    };
    let [low, high] = [resource.start(), resource.start() >> 32].map(|half| u32::try_from(half & 0xffff_ffff));
    let restore = |offset, want: u32, flags: u32| match config.read(offset, Width::Dword)? {
        old if old & !flags == want => Ok(()),
        _ => config.write(offset, Width::Dword, want),
    };
    restore(offset, low.unwrap_or_default(), flags)?;
    if resource.kind().is_64bit() { restore(offset + 4, high.unwrap_or_default(), 0) } else { Ok(()) }
}
