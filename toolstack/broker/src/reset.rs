//! A function level reset that a guest has asked for, and writing back what a function lost in it, or by itself.
//!
//! Between the two the function needs a tenth of a second (PCIe 5.0 §6.6.2), which its stub waits: here nobody does.

use std::time::Duration;

use dom0::sysfs::{PCIBACK, Width};
use pci_registers::{command, express, header};

use super::allow::Allowed;
use super::failure::Failure;
use super::interrupts::Work;
use crate::power;
use crate::resources::DeviceResources;

/// How often, and how long, a function is given time to end what it has begun. Guests look as well before they reset it.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(1);

/// Starts the reset: DMA off first, so that nothing comes of what was under way.
pub(crate) fn reset(work: &Work<'_>, write: &Allowed, new: u32) -> Result<(), Failure> {
    let Work { host, config, .. } = work;
    config.change_word(header::COMMAND, |command| command & !command::BUS_MASTER)?;
    // PCI Express's status follows its control word; that of Advanced Features, a byte with one bit, its control byte.
    let pending = if write.width == Width::Word { express::TRANSACTIONS_PENDING.into() } else { 1 };
    let status = write.offset + write.width as u16;
    for _ in 0..LOOKS {
        if config.read(status, write.width)? & pending == 0 {
            break;
        }
        host.pause(LOOK);
    }
    // Nothing takes it back from the next guest's device.
    if !work.assigned.is_current(host)? {
        return Err(Failure::NotYours);
    }
    Ok(config.write(write.offset, write.width, new)?)
}

/// Gives a function back what it had when it came into its pool, its addresses and decoding. Bus mastering stays as it is: the
/// guest's driver has to set the function up anew before that is of any use. `wanted` is what the guest has in Command, of which INTx Disable counts.
pub(crate) fn restore(work: &Work<'_>, wanted: u32) -> Result<(), Failure> {
    let Work { host, config, .. } = work;
    let device = work.assigned.device;
    // One that Linux has found anew, when it came back, is in nobody's hands.
    if host.sysfs.driver(device).as_deref() != Some(PCIBACK) {
        return Err(Failure::Replaced);
    }
    if config.identity()?.class == u32::MAX {
        return Err(Failure::Refused("asked for what a device lost that does not answer"));
    }
    let resources = DeviceResources::gather(host, device)?;
    power::write_back(host, config, &resources, true)?;
    let [low, high, ..] = wanted.to_le_bytes();
    let intx_disable = u16::from_le_bytes([low, high]) & command::INTX_DISABLE;
    Ok(config.change_word(header::COMMAND, |command| command | resources.decode().bits() | intx_disable)?)
}
