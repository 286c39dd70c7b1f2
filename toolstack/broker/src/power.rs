//! Power states: the waits that a device needs, and the header that it loses on its way back to D0.

use std::time::Duration;

use pci_registers::header::{CACHE_LINE_SIZE, COMMAND, INTERRUPT_LINE, LATENCY_TIMER};
use pci_registers::{command, power};
use pcidom_abi::Capabilities;

use crate::resources::DeviceResources;
use dom0::Dom0;
use dom0::Error;
use dom0::sysfs::{Config, Width};

/// PMCSR's power state and values of it.
const STATE: u32 = power::STATE as u32;
const D2: u32 = power::D2 as u32;
const D3: u32 = power::D3 as u32;
/// From and to D3hot, from and to D2 (§5.6.1, table 5-6).
const D3_TIME: Duration = Duration::from_millis(10);
const D2_TIME: Duration = Duration::from_micros(200);

/// Whether the device is in D0; one without power states always is.
pub(crate) fn is_awake(config: &Config, capabilities: &Capabilities) -> Result<bool, Error> {
    match capabilities.power {
        Some(at) => Ok(config.read(at + power::PMCSR, Width::Word)? & STATE == 0),
        None => Ok(true),
    }
}

/// Writes PMCSR and waits as long as the device needs. True when the device may have lost its registers and got them back: what was saved when it came
/// into its pool where it says that it loses them, and its header in any case. Messages are gone then. The header comes back as it was if `is_in_use` says so after the wait; else quiesced, without bus mastering and INTx.
/// It comes back in any case: who has taken the device meanwhile has found it awake, and restores nothing.
pub(crate) fn write_pmcsr(
    host: &Dom0,
    config: &Config,
    resources: &DeviceResources,
    offset: u16,
    value: u32,
    is_in_use: impl FnOnce() -> Result<bool, Error>,
) -> Result<bool, Error> {
    let pmcsr = config.read(offset, Width::Word)?;
    let (from, to) = (pmcsr & STATE, value & STATE);
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
            _ => header.command & !u32::from(command::BUS_MASTER) | u32::from(command::INTX_DISABLE),
        };
        write_back(host, config, resources, pmcsr & u32::from(power::NO_SOFT_RESET) == 0)?;
        header.restore(config, resources, command)?;
        answer?;
    }
    Ok(returns)
}

/// Brings a device back to D0.
pub(crate) fn wake(
    host: &Dom0,
    config: &Config,
    capabilities: &Capabilities,
    resources: &DeviceResources,
    is_in_use: impl FnOnce() -> Result<bool, Error>,
) -> Result<bool, Error> {
    let Some(at) = capabilities.power else { return Ok(false) };
    let pmcsr = config.read(at + power::PMCSR, Width::Word)?;
    if pmcsr & STATE == 0 {
        return Ok(false);
    }
    write_pmcsr(host, config, resources, at + power::PMCSR, pmcsr & !(STATE | u32::from(power::PME_STATUS)), is_in_use)
}

/// Writes back a function's addresses and, where all `is_lost`, what was saved of it when it came into its pool.
pub(crate) fn write_back(
    host: &Dom0,
    config: &Config,
    resources: &DeviceResources,
    is_lost: bool,
) -> Result<(), Error> {
    // A virtual function has no address registers to lose (PCIe 5.0 §9.3.4.1.11).
    let addresses = if resources.is_virtual() { &[] } else { resources.resources.as_slice() };
    match host.sysfs.pristine(resources.device).filter(|_| is_lost) {
        Some(pristine) => host.sysfs.restore(config, addresses, &pristine, false).map(drop),
        None => config.restore_addresses(addresses),
    }
}

/// Registers of the header besides addresses, which come from sysfs because the device may be wrong about them.
struct Header {
    command: u32,
    bytes: [(u16, u32); 3],
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

    /// When the addresses are there.
    fn restore(&self, config: &Config, resources: &DeviceResources, command: u32) -> Result<(), Error> {
        for (offset, value) in self.bytes {
            config.write(offset, Width::Byte, value)?;
        }
        config.write(COMMAND, Width::Word, command | u32::from(resources.decode().bits()))
    }
}
