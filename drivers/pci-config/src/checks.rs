//! Checks on a function before it is assigned: an endpoint, present, and quiesced.

use pci_registers::{ConfigSpace, Width, command, header, id, msi, msix, status};
use thiserror::Error;

use crate::view::VirtualConfig;
use crate::walk::Walk;

/// Status, in the upper half of Command's dword: the function asks for an interrupt.
const INTX_PENDING: u32 = (status::INTERRUPT as u32) << 16;

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

/// Why a function is not quiesced: what it still does, or could do, that it must not while it is unassigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotQuiesced {
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

/// Whether nothing answers there (any more). A virtual function's ids read as ones too, its class does not (PCIe 5.0 §9.3.4.1.1).
pub fn is_absent(hw: &impl ConfigSpace) -> bool {
    [header::VENDOR_ID, header::REVISION_ID].iter().all(|offset| hw.read_config(*offset, Width::Dword) == u32::MAX)
}

/// Who answers where a function was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// Nobody, or a function that is not ready.
    Nobody,
    /// A function that says the same of itself.
    Same,
    /// Another one.
    Other,
}

/// Checks that this is a function we know how to show.
///
/// # Errors
/// The reason why not.
pub fn check_servable(hw: &impl ConfigSpace) -> Result<(), Unservable> {
    if is_absent(hw) {
        return Err(Unservable::Absent);
    }
    match hw.read_config(header::HEADER_TYPE, Width::Byte).to_le_bytes()[0] & header::LAYOUT {
        0 => Ok(()),
        other => Err(Unservable::HeaderType(other)),
    }
}

/// Checks that the function does nothing on its own: no DMA and no interrupts.
///
/// # Errors
/// The first thing that it still does.
pub fn check_quiesced(hw: &impl ConfigSpace) -> Result<(), NotQuiesced> {
    let command_and_status = hw.read_config(header::COMMAND, Width::Dword);
    if command_and_status & u32::from(command::BUS_MASTER) != 0 {
        return Err(NotQuiesced::BusMaster);
    }
    if command_and_status & (u32::from(command::INTX_DISABLE) | INTX_PENDING) == INTX_PENDING {
        return Err(NotQuiesced::Interrupt);
    }
    for capability in Walk::conventional(hw) {
        let control = capability.control();
        match capability.id {
            id::MSI if control & msi::ENABLE != 0 => return Err(NotQuiesced::Msi),
            id::MSI_X if control & msix::ENABLE != 0 => return Err(NotQuiesced::MsiX),
            _ => {}
        }
    }
    Ok(())
}

impl VirtualConfig {
    /// Whether the function did not answer when this view was built: nothing in it is true.
    #[must_use]
    pub const fn is_blind(&self) -> bool {
        self.own[2] == u32::MAX
    }

    /// Who answers where this function was.
    #[must_use]
    pub fn who_answers(&self, hw: &impl ConfigSpace, is_virtual_function: bool) -> Answering {
        let [ids, class] = [header::VENDOR_ID, header::REVISION_ID].map(|at| hw.read_config(at, Width::Dword));
        // Request Retry Status (PCIe 5.0 §2.3.2) reads as a vendor that there is not.
        if class == u32::MAX || ids & 0xffff == 0x0001 || ids == u32::MAX && !is_virtual_function {
            return Answering::Nobody;
        }
        // Nobody else would know, and the broker looks as well.
        if self.is_blind() {
            return Answering::Same;
        }
        let known = if is_virtual_function { u32::MAX } else { self.own[0] };
        if (ids, class) == (known, self.own[2]) { Answering::Same } else { Answering::Other }
    }

    /// True for a bridge.
    #[must_use]
    pub const fn is_bridge(&self) -> bool {
        self.own[2] >> 24 == header::BRIDGE_CLASS as u32 && self.own[3].to_le_bytes()[2] & header::LAYOUT == 1
    }
}
