//! Configuration writes: the part that stays in our copy, and the part for the hardware.

use pci_registers::{ConfigSpace, Width, advanced_features, bist, command, express, header, msi, msix, power, vpd};

use crate::access::Access;
use crate::outcome::{Denied, HardwareWrite, Register, WriteError, WriteOutcome};
use crate::packed::Line;
use crate::register::{COMMAND_DEVICE, Read, Write};
use crate::view::{DWORDS, HEADER_DWORDS, VirtualConfig};

/// A guest reads back what it wrote, because with MSI on the bit is set whatever the guest thinks of it. The broker sees to that, and
/// gives the line back as the guest wants it.
const INTX_DISABLE: u32 = command::INTX_DISABLE as u32;
/// BIST bits: start, and running; whether there is a test.
const BIST_START: u32 = bist::START as u32;
const BIST_CAPABLE: u32 = bist::CAPABLE as u32;
/// PMCSR bit: the status that a one clears.
const PM_STATUS: u32 = power::PME_STATUS as u32;
/// VPD address bit: 0 asks the device to read, 1 to write.
const VPD_WRITE: u32 = vpd::WRITE as u32;

/// A register as a write finds it, all in the register's own bits.
struct Change {
    /// The value before the write, as the guest reads it.
    before: u32,
    /// The same with the written bytes in place.
    after: u32,
    /// The bits that were written at all.
    written: u32,
    /// The bits that would be different in the register.
    differ: u32,
}

impl VirtualConfig {
    /// Writes the low `size` bytes of `value` at `offset`. Our own bits have changed afterwards; what remains for the
    /// hardware is in the outcome.
    ///
    /// # Errors
    /// When that is no access to this configuration space, or the policy forbids it. Nothing has changed then.
    pub fn write(
        &mut self,
        hw: &impl ConfigSpace,
        offset: i32,
        size: i32,
        value: u32,
    ) -> Result<WriteOutcome, WriteError> {
        let access = Access::check(offset, size, self.size())?;
        self.write_registers(hw, &access, value)
    }

    fn write_registers(
        &mut self,
        hw: &impl ConfigSpace,
        access: &Access,
        value: u32,
    ) -> Result<WriteOutcome, WriteError> {
        let mut outcome = WriteOutcome { is_dropped: true, ..WriteOutcome::default() };
        for line in self.layout.lines(access.dword) {
            if line.mask() & access.mask == 0 {
                continue;
            }
            if line.write.is_drop() {
                if let Some(reset) = self.asked_reset(line, access, value) {
                    outcome.is_dropped = false;
                    outcome.push(reset);
                }
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
            if line.write == Write::Base
                && let Some(register) = self.base_register(access.dword)
                && register.is_lost(after, || hw.read_config(place.offset, place.width))
            {
                // A virtual function has no address registers, and no ids (PCIe 5.0 §9.3.4.1).
                outcome.has_lost_address = hw.read_config(header::VENDOR_ID, Width::Dword) != u32::MAX;
            }
            let change = Change { before, after, written, differ };
            if self.layout.policy_flags.controls_interrupts() && self.mixes_interrupts(line.write, &change, hw) {
                return Err(Denied::InterruptControl.into());
            }
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

    /// The function level reset that a write starts, if the guest has been shown that there is one. Whatever else is written there is lost by it.
    fn asked_reset(&self, line: &Line, access: &Access, value: u32) -> Option<HardwareWrite> {
        let mask = self.reset_bit(line, access.dword)?;
        let place = access.whole(line);
        let is_asked = (value << access.shift & access.mask) >> place.shift & mask != 0;
        let (register, offset, width) = (Register::Reset, place.offset, place.width);
        is_asked.then_some(HardwareWrite { register, offset, width, mask, value: mask })
    }

    /// The write that resets the function, if its guest has been shown that there is one.
    #[must_use]
    pub fn reset_write(&self) -> Option<HardwareWrite> {
        (HEADER_DWORDS..DWORDS).find_map(|dword| {
            let offset = u16::try_from(dword * 4).ok()?;
            let access = Access { offset, width: Width::Dword, dword, shift: 0, mask: u32::MAX };
            self.layout.lines(dword).iter().find_map(|line| self.asked_reset(line, &access, u32::MAX))
        })
    }

    /// The bit of a register that starts a function level reset, if the guest has been shown that there is one.
    pub(crate) fn reset_bit(&self, line: &Line, dword: usize) -> Option<u32> {
        // In both, the capabilities are in the dword before.
        let capabilities = *self.own.get(dword.checked_sub(1)?)?;
        let is_shown = match line.write {
            Write::DeviceControl => express::has_reset(capabilities),
            Write::FeaturesControl => advanced_features::has_reset(capabilities),
            _ => false,
        };
        is_shown.then_some(line.write.device_bits())
    }

    /// Whether a write would have the function send two kinds of interrupts at once. MSI and MSI-X may be turned on while the line is: they take
    /// its place (PCI Local Bus 3.0 §6.8), and Linux turns the line off behind them.
    fn mixes_interrupts(&self, register: Write, change: &Change, hw: &impl ConfigSpace) -> bool {
        let is_on = |control, enable| self.interrupt_control(control, hw).is_some_and(|control| control & enable != 0);
        let turns_on = |enable: u16| change.differ & change.after & u32::from(enable) != 0;
        let line_on = register == Write::Command && change.differ & !change.after & INTX_DISABLE != 0;
        let msi_on = register == Write::MsiControl && turns_on(msi::ENABLE);
        let msix_on = register == Write::MsixControl && turns_on(msix::ENABLE);
        (line_on || msi_on) && is_on(Write::MsixControl, msix::ENABLE)
            || (line_on || msix_on) && is_on(Write::MsiControl, msi::ENABLE)
    }

    /// Changes what is ours; returns which bits of which register remain for the hardware.
    fn apply(&mut self, line: &Line, dword: usize, change: &Change) -> Result<Option<(Register, u32)>, Denied> {
        let &Change { before, after, written, differ } = change;
        let bits = line.write.device_bits();
        let (register, mask) = match line.write {
            Write::Drop | Write::DropStatus | Write::DeviceControl | Write::FeaturesControl | Write::Ignore => {
                return Ok(None);
            }
            Write::Command => {
                self.set(dword, Read::Command.own(), after);
                let more = if self.layout.policy_flags.is_permissive() { COMMAND_DEVICE } else { 0 };
                (Register::Command, differ & (bits | more))
            }
            Write::CacheLineSize => (Register::CacheLineSize, differ),
            Write::Bist => {
                let starts = differ & BIST_START != 0 && after & BIST_START != 0;
                // The broker has no such register in its list where there is no test.
                let allowed = before & BIST_CAPABLE != 0 && (differ & !BIST_START == 0 || after == BIST_START);
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
            Write::MsiControl | Write::MsixControl => {
                let is_open = self.layout.policy_flags.controls_interrupts();
                if differ & !(if is_open { line.write.interrupt_bits() } else { 0 }) != 0 {
                    return Err(Denied::InterruptControl);
                }
                (Register::InterruptControl, differ)
            }
        };
        Ok((mask != 0).then_some((register, mask)))
    }
}
