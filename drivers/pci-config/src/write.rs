//! Writes: what they change in our copy, and what they leave for the hardware.

use core::fmt;

use thiserror::Error;

use crate::access::{Access, BadAccess};
use crate::packed::Line;
use crate::register::{COMMAND_DEVICE, Read, Write};
use crate::space::{ConfigSpace, Width};
use crate::view::VirtualConfig;

/// A register of the hardware that a guest may have written under the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// Command: bus master, memory-write-and-invalidate and INTx disable; decode is never touched.
    Command,
    /// Cache Line Size.
    CacheLineSize,
    /// BIST: start of the self-test.
    Bist,
    /// Power management control/status: D-state, data select, PME status.
    PowerState,
    /// VPD address: a read of vital product data.
    VpdAddress,
    /// None of these: the broker knows whether the device's own policy opens it.
    Open,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "Command",
            Self::CacheLineSize => "Cache Line Size",
            Self::Bist => "BIST",
            Self::PowerState => "power state",
            Self::VpdAddress => "VPD address",
            Self::Open => "a register that the policy opens",
        })
    }
}

/// A write that passed the policy and that only the hardware can carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareWrite {
    /// Which register.
    pub register: Register,
    /// Where it is, in bytes.
    pub offset: u16,
    /// How wide the whole register is; a narrower write would not do, a wider one would touch neighbours.
    pub width: Width,
    /// The bits of the register that shall change, or be written with ones where a one clears. No others.
    pub mask: u32,
    /// Their new value; zero outside the mask.
    pub value: u32,
}

impl HardwareWrite {
    /// Bus mastering off.
    #[must_use]
    pub const fn bus_master_off() -> Self {
        Self { register: Register::Command, offset: 4, width: Width::Word, mask: 0x0004, value: 0 }
    }
}

/// What a write left to be done or told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WriteOutcome {
    hardware: [Option<HardwareWrite>; 2],
    /// True where the write reached no register that a guest has to write, and did nothing.
    pub is_dropped: bool,
}

impl WriteOutcome {
    /// The hardware writes that the policy allows, in order; most writes have none. Carrying them out is the caller's part.
    pub fn hardware(&self) -> impl Iterator<Item = &HardwareWrite> {
        self.hardware.iter().flatten()
    }

    fn push(&mut self, write: HardwareWrite) {
        // No dword has more than two such registers, which a test over all rules checks.
        if let Some(free) = self.hardware.iter_mut().find(|place| place.is_none()) {
            *free = Some(write);
        }
    }
}

/// A register that a guest may never write so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// Enable or mask bits of MSI or MSI-X. Linux guests try that around every `enable_msix` and do not mind; not worth a
    /// line in the log.
    #[error("interrupt control is not the guest's to change")]
    InterruptControl,
    /// Writing vital product data, which would outlive the guest.
    #[error("vital product data is not written")]
    VpdWrite,
}

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// No register there.
    #[error(transparent)]
    Access(#[from] BadAccess),
    /// The policy says no.
    #[error(transparent)]
    Denied(#[from] Denied),
}

/// A guest reads back what it wrote, because with MSI on the bit is set whatever the guest thinks of it. The broker sees to that, and
/// gives the line back as the guest wants it.
const INTX_DISABLE: u32 = 0x0400;
/// BIST bit: start, and running.
const BIST_START: u32 = 0x40;
/// PMCSR bit: the status that a one clears.
const PM_STATUS: u32 = 0x8000;
/// VPD address bit: 0 asks the device to read, 1 to write.
const VPD_WRITE: u32 = 0x8000;

/// A register as a write finds it, all in the register's own bits.
struct Change {
    /// What the guest would have read.
    before: u32,
    /// The same with the written bytes in place.
    after: u32,
    /// The bits that were written at all.
    written: u32,
    /// The bits that would be different in the register.
    differ: u32,
}

impl VirtualConfig {
    pub(crate) fn write_registers(
        &mut self,
        hw: &impl ConfigSpace,
        access: &Access,
        value: u32,
    ) -> Result<WriteOutcome, WriteError> {
        let mut outcome = WriteOutcome { is_dropped: true, ..WriteOutcome::default() };
        for line in self.layout.lines(access.dword) {
            if line.mask() & access.mask == 0 || line.write.is_drop() {
                continue;
            }
            outcome.is_dropped = false;
            if line.write == Write::Ignore {
                continue;
            }
            let place = access.whole(line);
            let before = self.value(hw, &place);
            let written = (access.mask & place.mask) >> place.shift;
            let value = (value << access.shift) >> place.shift;
            let after = before & !written | value & written;
            let mut differ = before ^ after;
            if line.write == Write::Command {
                let real = hw.read_config(place.offset, place.width);
                differ = differ & !INTX_DISABLE | (real ^ after) & written & INTX_DISABLE;
            }
            let change = Change { before, after, written, differ };
            if let Some((register, mask)) = self.apply(line, access.dword, &change)? {
                outcome.push(HardwareWrite {
                    register,
                    offset: place.offset,
                    width: place.width,
                    mask,
                    value: change.after & mask,
                });
            }
        }
        // As with Linux's backend, nothing is passed on that reaches, beside what is no guest's, a register that guests write: one that
        // knows dwords only would otherwise clear Status with every write of Command.
        if outcome.is_dropped && self.layout.policy_flags.passes_on() && !self.layout.hides(access.dword) {
            outcome.is_dropped = false;
            let (mask, offset, width) = (access.mask >> access.shift, access.offset, access.width);
            outcome.push(HardwareWrite { register: Register::Open, offset, width, mask, value: value & mask });
        }
        Ok(outcome)
    }

    /// Changes what is ours; returns which bits of which register remain for the hardware.
    fn apply(&mut self, line: &Line, dword: usize, change: &Change) -> Result<Option<(Register, u32)>, Denied> {
        let &Change { before, after, written, differ } = change;
        let bits = line.write.device_bits();
        let (register, mask) = match line.write {
            Write::Drop | Write::DropStatus | Write::Ignore => return Ok(None),
            Write::Command => {
                self.set(dword, Read::Command.own(), after);
                let more = if self.layout.policy_flags.is_permissive() { COMMAND_DEVICE } else { 0 };
                (Register::Command, differ & (bits | more))
            }
            Write::CacheLineSize => (Register::CacheLineSize, differ),
            Write::Bist => {
                let starts = differ & BIST_START != 0 && after & BIST_START != 0;
                let allowed = differ & !BIST_START == 0 || after == BIST_START;
                (Register::Bist, if starts && allowed { BIST_START } else { 0 })
            }
            Write::Base => {
                if let Some(register) = self.base_register(dword) {
                    self.set(dword, u32::MAX, register.after_write(after));
                }
                return Ok(None);
            }
            Write::PowerState => {
                // PME status is cleared only where the guest itself wrote the one, not where it came from reading the register.
                let clears = written & after & before & PM_STATUS;
                (Register::PowerState, differ & bits & !PM_STATUS | clears)
            }
            Write::VpdAddress if after & VPD_WRITE != 0 => return Err(Denied::VpdWrite),
            // The same address again is a new read.
            Write::VpdAddress => (Register::VpdAddress, 0xffff),
            Write::InterruptControl if differ != 0 => return Err(Denied::InterruptControl),
            Write::InterruptControl => return Ok(None),
        };
        Ok((mask != 0).then_some((register, mask)))
    }
}
