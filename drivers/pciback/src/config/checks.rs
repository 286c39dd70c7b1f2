//! What a function must be, and how quiet, before it is lent.

use thiserror::Error;

use super::VirtualConfig;
use super::capabilities::{Capabilities, id};
use crate::platform::{ConfigSpace, Width};
use crate::topology::Traits;

const ID: u16 = 0x00;
const COMMAND: u16 = 0x04;
const CLASS: u16 = 0x08;
const BUS_MASTER: u32 = 0x0004;
const INTX_DISABLE: u32 = 0x0400;
/// Status, in the upper half of Command's dword: the function asks for an interrupt.
const INTX_PENDING: u32 = 0x0008 << 16;
/// Control words of MSI and MSI-X, from the capability's start, and their enable bits.
const INTERRUPT_CONTROL: u16 = 2;
const MSI_ENABLE: u32 = 0x0001;
const MSI_X_ENABLE: u32 = 0x8000;
const BRIDGE: u32 = 0x06;

/// Why a function cannot be served at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unservable {
    /// Everything reads as ones.
    #[error("the function does not answer")]
    Absent,
    /// Header types other than 0 are bridges.
    #[error("header type {0:#04x} is not that of an endpoint")]
    HeaderType(u8),
}

/// What a function still does, or could do, that it must not while nobody has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotQuiet {
    /// It may read and write memory.
    #[error("bus mastering is on")]
    BusMaster,
    /// It asks for an interrupt on its line.
    #[error("it asserts its interrupt line")]
    Interrupt,
    /// MSI is on.
    #[error("MSI is on")]
    Msi,
    /// MSI-X is on.
    #[error("MSI-X is on")]
    MsiX,
}

/// Whether nothing answers there any more. A virtual function's ids read as ones too, its class does not (PCIe 5.0 §9.3.4.1.1).
pub(crate) fn is_absent(hw: &impl ConfigSpace) -> bool {
    [ID, CLASS].iter().all(|offset| hw.read_config(*offset, Width::Dword) == u32::MAX)
}

impl VirtualConfig {
    /// Checks that this is a function we know how to show.
    ///
    /// # Errors
    /// The reason why not.
    pub fn check_servable(&self) -> Result<(), Unservable> {
        // A virtual function's ids read as ones too, its class does not.
        if self.own[0] == u32::MAX && self.own[2] == u32::MAX {
            return Err(Unservable::Absent);
        }
        match self.header_type() {
            0 => Ok(()),
            other => Err(Unservable::HeaderType(other)),
        }
    }

    /// Checks that the function does nothing on its own: no DMA and no interrupts.
    ///
    /// # Errors
    /// The first thing that it still does.
    pub fn check_quiet(&self, hw: &impl ConfigSpace) -> Result<(), NotQuiet> {
        let command_and_status = hw.read_config(COMMAND, Width::Dword);
        if command_and_status & BUS_MASTER != 0 {
            return Err(NotQuiet::BusMaster);
        }
        if command_and_status & (INTX_DISABLE | INTX_PENDING) == INTX_PENDING {
            return Err(NotQuiet::Interrupt);
        }
        for capability in Capabilities::new(hw) {
            let control = hw.read_config(u16::from(capability.offset) + INTERRUPT_CONTROL, Width::Word);
            match capability.id() {
                id::MSI if control & MSI_ENABLE != 0 => return Err(NotQuiet::Msi),
                id::MSI_X if control & MSI_X_ENABLE != 0 => return Err(NotQuiet::MsiX),
                _ => {}
            }
        }
        Ok(())
    }

    /// What the topology must know about the function.
    #[must_use]
    pub fn traits(&self) -> Traits {
        Traits {
            // PCIe 5.0 §9.3.4.1.1: Vendor ID and Device ID of a virtual function read as ones.
            is_virtual_function: self.own[0] == u32::MAX && self.own[2] != u32::MAX,
            is_bridge: self.own[2] >> 24 == BRIDGE && self.header_type() == 1,
        }
    }

    /// Header type without the multi-function bit.
    fn header_type(&self) -> u8 {
        self.own[3].to_le_bytes()[2] & 0x7f
    }
}
