//! The vectors of docs/protocol.md §8.5, and what §6 says in words.

use super::assign;
use crate::Width;
use crate::fakes::{Known, Memory, network_card, network_card_known, virtual_function, virtual_function_known};
use crate::{
    BadAccess, Denied, HardwareWrite, NotQuiesced, Register, Unservable, VirtualConfig, WriteError, check_quiesced,
    check_servable,
};

struct Guest {
    config: VirtualConfig,
    hw: Memory,
}

impl Guest {
    fn card() -> Self {
        let hw = network_card();
        Self { config: assign(&network_card_known(), &hw), hw }
    }

    fn with_policy(policy: &str) -> Self {
        let hw = network_card();
        Self { config: assign(&network_card_known().with_policy(policy), &hw), hw }
    }

    fn with(resources: &[(usize, &str)]) -> Self {
        let hw = network_card();
        Self { config: assign(&Known::new(resources, 0), &hw), hw }
    }

    fn read(&self, offset: i32, size: i32) -> u32 {
        self.config.read(&self.hw, offset, size).expect("a register")
    }

    /// Writes and returns what remains for the hardware.
    fn write(&mut self, offset: i32, size: i32, value: u32) -> Vec<HardwareWrite> {
        let outcome = self.config.write(&self.hw, offset, size, value).expect("allowed");
        outcome.hardware().copied().collect()
    }

    fn refusal(&mut self, offset: i32, size: i32, value: u32) -> WriteError {
        self.config.write(&self.hw, offset, size, value).expect_err("refused")
    }
}

fn word(register: Register, offset: u16, mask: u32, value: u32) -> HardwareWrite {
    HardwareWrite { register, offset, width: Width::Word, mask, value }
}

fn byte(register: Register, offset: u16, mask: u32, value: u32) -> HardwareWrite {
    HardwareWrite { register, offset, width: Width::Byte, mask, value }
}

#[test]
fn a_64_bit_register_is_sized_by_halves() {
    let mut guest = Guest::with(&[(0, "0x380000000 0x10000000 mem64p")]);
    assert_eq!(guest.read(0x10, 4), 0x8000_000c);
    assert_eq!(guest.read(0x14, 4), 3);
    assert!(guest.write(0x10, 4, 0xffff_ffff).is_empty());
    assert_eq!(guest.read(0x10, 4), 0xf000_000c);
    assert_eq!(guest.read(0x14, 4), 3, "the halves are sized apart");
    guest.write(0x14, 4, 0xffff_ffff);
    assert_eq!(guest.read(0x14, 4), 0xffff_ffff);
    guest.write(0x10, 4, 0x1234_5678);
    assert_eq!(guest.read(0x10, 4), 0x8000_000c, "a guest cannot move a register");
    assert_eq!(guest.read(0x14, 4), 0xffff_ffff);
}

#[test]
fn a_64_bit_range_above_4_gib_in_size_is_sized_by_both_halves() {
    let mut guest = Guest::with(&[(2, "0x4000000000 0x400000000 mem64")]);
    guest.write(0x18, 4, 0xffff_ffff);
    guest.write(0x1c, 4, 0xffff_ffff);
    assert_eq!((guest.read(0x18, 4), guest.read(0x1c, 4)), (0x0000_0004, 0xffff_fffc));
    guest.write(0x1c, 4, 0xffff_fffe);
    assert_eq!(guest.read(0x1c, 4), 0x40, "an upper half has no type bits to leave out");
}

#[test]
fn io_and_memory_registers_are_sized_as_specified() {
    let mut guest =
        Guest::with(&[(0, "0xe000 0x20 io"), (1, "0xfeb00000 0x1000 mem32"), (2, "0xf0000000 0x100 mem32p")]);
    assert_eq!([guest.read(0x10, 4), guest.read(0x14, 4), guest.read(0x18, 4)], [0xe001, 0xfeb0_0000, 0xf000_0008]);
    guest.write(0x10, 4, 0xffff_ffff);
    assert_eq!(guest.read(0x10, 4), 0xffff_ffe1);
    guest.write(0x10, 4, 0xffff_fff8);
    assert_eq!(guest.read(0x10, 4), 0xe001, "bit 2 of an I/O register is an address bit");
    guest.write(0x14, 4, 0xffff_fff0);
    assert_eq!(guest.read(0x14, 4), 0xffff_f000);
    guest.write(0x18, 4, 0xffff_ffff);
    assert_eq!(guest.read(0x18, 4), 0xffff_ff08);
}

#[test]
fn narrow_writes_do_not_size() {
    let mut guest = Guest::with(&[(0, "0xfeb00000 0x1000 mem32")]);
    guest.write(0x10, 2, 0xffff);
    guest.write(0x12, 2, 0xffff);
    guest.write(0x13, 1, 0xff);
    assert_eq!(guest.read(0x10, 4), 0xfeb0_0000);
}

#[test]
fn what_claims_nothing_has_no_size() {
    let mut guest = Guest::with(&[]);
    for offset in [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30] {
        guest.write(offset, 4, 0xffff_ffff);
        assert_eq!(guest.read(offset, 4), 0);
    }
}

#[test]
fn a_rom_is_sized_but_never_enabled() {
    let mut guest = Guest::with(&[(6, "0xfeb40000 0x40000 rom")]);
    assert!(guest.write(0x30, 4, 0xfeb4_0001).is_empty());
    assert_eq!(guest.read(0x30, 4), 0xfeb4_0000);
    guest.write(0x30, 4, 0xffff_f800);
    assert_eq!(guest.read(0x30, 4), 0xfffc_0000);
}

#[test]
fn command_shows_hardware_only_where_it_is_the_hardwares() {
    let mut guest = Guest::card();
    assert_eq!(guest.read(4, 2), 0x0004, "memory decode is on in the hardware, off for the guest");
    assert!(guest.write(4, 2, 0x0006).is_empty(), "bus master is on already");
    assert_eq!(guest.read(4, 2), 0x0006);
    assert_eq!(guest.write(4, 2, 0), [word(Register::Command, 4, 4, 0)], "decode stays on in the hardware");
    guest.hw.set(4, &[0x02]);
    assert_eq!(guest.read(4, 2), 0);
    assert_eq!(guest.write(4, 2, 0x0406), [word(Register::Command, 4, 0x0404, 0x0404)]);
    assert_eq!(guest.read(4, 2), 0x0402);
}

#[test]
fn intx_disable_reads_as_written_and_goes_where_the_hardware_differs() {
    let mut guest = Guest::card();
    let on = [word(Register::Command, 4, 0x0400, 0x0400)];
    assert_eq!(guest.write(4, 2, 0x0406), on);
    assert_eq!(guest.write(4, 2, 0x0406), on, "again, while it has not been done");
    guest.hw.set(4, &[0x06, 0x04]);
    assert!(guest.write(4, 2, 0x0406).is_empty());
    guest.config.reset();
    // With MSI on it is set, and a guest does not see that.
    assert_eq!(guest.read(4, 2), 0x0004);
    assert!(guest.write(4, 1, 0x06).is_empty(), "a byte of it says nothing about the other");
    assert_eq!(guest.write(4, 2, 0x0006), [word(Register::Command, 4, 0x0400, 0)]);
    assert_eq!(guest.read(4, 2), 0x0006);
}

#[test]
fn a_write_over_command_and_status_never_reaches_status() {
    let mut guest = Guest::card();
    assert!(guest.write(4, 4, 0xffff_0146).is_empty());
    assert_eq!(guest.read(4, 2), 0x0146);
    assert_eq!(guest.read(6, 2), 0x0010);
}

#[test]
fn a_byte_of_command_leaves_the_other_alone() {
    let mut guest = Guest::card();
    guest.write(4, 2, 0x0547);
    assert_eq!(guest.write(5, 1, 0x04), [word(Register::Command, 4, 0x0400, 0x0400)]);
    assert_eq!(guest.read(4, 2), 0x0447);
    assert!(guest.write(4, 1, 0x04).is_empty());
    assert_eq!(guest.read(4, 2), 0x0404);
}

#[test]
fn mwi_is_the_hardwares() {
    let mut guest = Guest::card();
    assert_eq!(guest.write(4, 2, 0x0014), [word(Register::Command, 4, 0x10, 0x10)]);
    assert_eq!(guest.read(4, 2), 4, "not before the hardware has it");
    guest.hw.set(4, &[0x16]);
    assert!(guest.write(4, 2, 0x0014).is_empty());
}

#[test]
fn the_next_guest_sees_nothing_of_the_one_before() {
    let mut guest = Guest::card();
    guest.write(4, 2, 0x0547);
    guest.write(0x10, 4, 0xffff_ffff);
    guest.config.reset();
    assert_eq!(guest.read(4, 2), 4);
    assert_eq!(guest.read(0x10, 4), 0xfeb0_0000);
}

#[test]
fn cache_line_size_and_bist_in_one_write_are_two_hardware_writes() {
    let mut guest = Guest::card();
    assert!(guest.write(0x0c, 4, 0x0080_0010).is_empty(), "NetBSD writes the dword back as it was");
    assert_eq!(guest.write(0x0c, 1, 0x08), [byte(Register::CacheLineSize, 0x0c, 0x18, 0x08)]);
    assert_eq!(guest.write(0x0c, 4, 0x4080_ff10), [], "it has no self-test");
    guest.hw.set(0x0f, &[0x80]);
    assert_eq!(
        guest.write(0x0c, 4, 0x4080_ff20),
        [byte(Register::CacheLineSize, 0x0c, 0x30, 0x20), byte(Register::Bist, 0x0f, 0x40, 0x40)]
    );
}

#[test]
fn bist_is_only_ever_started() {
    let mut guest = Guest::card();
    guest.hw.set(0x0f, &[0x80]);
    assert_eq!(guest.write(0x0f, 1, 0xc0), [byte(Register::Bist, 0x0f, 0x40, 0x40)]);
    assert_eq!(guest.write(0x0f, 1, 0x40), [byte(Register::Bist, 0x0f, 0x40, 0x40)]);
    assert!(guest.write(0x0f, 1, 0x00).is_empty());
    assert!(guest.write(0x0f, 1, 0xc1).is_empty());
    guest.hw.set(0x0f, &[0xc0]);
    assert!(guest.write(0x0f, 1, 0xc0).is_empty(), "it runs already");
}

#[test]
fn vital_product_data_is_read_and_not_written() {
    let mut guest = Guest::card();
    assert_eq!(guest.refusal(0x52, 2, 0x8004), WriteError::Denied(Denied::VpdWrite));
    assert_eq!(guest.write(0x52, 2, 0x0004), [word(Register::VpdAddress, 0x52, 0xffff, 4)]);
    guest.hw.set(0x52, &[0x04, 0x00]);
    assert_eq!(
        guest.write(0x52, 2, 0x0004),
        [word(Register::VpdAddress, 0x52, 0xffff, 4)],
        "the same again is a new read"
    );
    assert!(guest.write(0x54, 4, 0).is_empty());
}

#[test]
fn no_guest_is_told_that_its_function_resets_itself() {
    let mut card = crate::fakes::server_card();
    card.set(0x64, &0x1000_8fc2_u32.to_le_bytes());
    card.set(0xba, &[0x06, 0x03]);
    let known = Known::new(&[], 0);
    let mut config = super::assign(&known, &card);
    let read = |config: &VirtualConfig, offset, size| config.read(&card, offset, size).unwrap();
    assert_eq!(read(&config, 0x64, 4), 0x0000_8fc2);
    assert_eq!(config.read_dword(&card, 0x64), Some(0x0000_8fc2));
    assert_eq!((read(&config, 0x67, 1), read(&config, 0x60, 2)), (0, 0xa010), "and the list goes on");
    assert_eq!((read(&config, 0xba, 2), read(&config, 0xb8, 2)), (0x0106, 0xc013));
    // Whoever writes there all the same reaches nothing.
    for (offset, value) in [(0x68, 0x8000), (0xbc, 1)] {
        let written = config.write(&card, offset, 2, value);
        assert!(written.is_ok_and(|outcome| outcome.hardware().next().is_none()), "{offset:#x}");
    }
}

#[test]
fn power_management_hides_pme_and_changes_states() {
    let mut guest = Guest::card();
    assert_eq!(guest.read(0x42, 2), 0x07c3);
    assert_eq!(guest.write(0x44, 2, 0x0103), [word(Register::PowerState, 0x44, 3, 3)]);
    assert_eq!(guest.write(0x45, 1, 0x04), [word(Register::PowerState, 0x44, 0x0400, 0x0400)]);
    assert!(guest.write(0x46, 2, 0xffff).is_empty());
}

#[test]
fn pme_status_is_cleared_only_by_a_one_that_the_guest_wrote() {
    let mut guest = Guest::card();
    guest.hw.set(0x44, &[0x08, 0x80]);
    assert_eq!(guest.write(0x44, 1, 0x0b), [word(Register::PowerState, 0x44, 3, 3)], "the one comes from the hardware");
    assert_eq!(guest.write(0x44, 2, 0x8008), [word(Register::PowerState, 0x44, 0x8000, 0x8000)]);
    guest.hw.set(0x44, &[0x08, 0x00]);
    assert!(guest.write(0x44, 2, 0x8008).is_empty(), "nothing to clear");
}

#[test]
fn interrupt_control_may_be_written_only_as_it_is() {
    let mut guest = Guest::card();
    assert!(guest.write(0x62, 2, 0x0180).is_empty());
    assert!(guest.write(0x60, 4, 0x0180_0000).is_empty(), "the capability header is read-only");
    assert_eq!(guest.refusal(0x62, 2, 0x0181), WriteError::Denied(Denied::InterruptControl));
    assert!(guest.write(0x72, 2, 0x0004).is_empty());
    assert_eq!(guest.refusal(0x72, 2, 0xc004), WriteError::Denied(Denied::InterruptControl));
    assert_eq!(guest.refusal(0x73, 1, 0x80), WriteError::Denied(Denied::InterruptControl));
}

/// As xen-pciback's `allow_interrupt_control`: Enable and the function mask, one kind of interrupts at a time.
#[test]
fn a_device_model_turns_on_one_kind_of_interrupts_at_a_time() {
    let control = |guest: &mut Guest, offset, size, value| {
        guest
            .config
            .write(&guest.hw, offset, size, value)
            .map(|outcome| outcome.hardware().copied().collect::<Vec<_>>())
    };
    let denied = Err(WriteError::Denied(Denied::InterruptControl));
    let mut guest = Guest::with_policy("permissive=0,interrupt-control=1");
    let write = |offset, mask, value| Ok(vec![word(Register::InterruptControl, offset, mask, value)]);
    assert_eq!(control(&mut guest, 0x62, 2, 0x0181), write(0x62, 1, 1));
    assert_eq!(control(&mut guest, 0x60, 4, 0x0181_0000), write(0x62, 1, 1), "whatever the width");
    assert_eq!(control(&mut guest, 0x62, 2, 0x0180), Ok(vec![]), "as it is");
    assert_eq!(control(&mut guest, 0x62, 2, 0x0191), denied, "the number of vectors is Xen's");
    assert_eq!(control(&mut guest, 0x72, 2, 0xc004), write(0x72, 0xc000, 0xc000));
    assert_eq!(control(&mut guest, 0x73, 1, 0x40), write(0x72, 0x4000, 0x4000));
    assert_eq!(control(&mut guest, 0x72, 2, 0xc005), denied, "the size of the table");
    // MSI-X is on.
    guest.hw.set(0x72, &[0x04, 0x80]);
    assert_eq!(control(&mut guest, 0x62, 2, 0x0181), denied);
    assert_eq!(control(&mut guest, 0x72, 2, 0xc004), write(0x72, 0x4000, 0x4000));
    assert_eq!(control(&mut guest, 0x04, 2, 0x0404), Ok(vec![word(Register::Command, 4, 0x0400, 0x0400)]));
    guest.hw.set(0x04, &[0x04, 0x04]);
    assert_eq!(control(&mut guest, 0x04, 2, 0x0004), denied, "the line beside it");
    assert_eq!(control(&mut guest, 0x04, 2, 0x0400), Ok(vec![word(Register::Command, 4, 0x0004, 0)]));
    assert_eq!(control(&mut guest, 0x72, 2, 0x0004), write(0x72, 0x8000, 0));
    // MSI is on, or nothing.
    guest.hw.set(0x72, &[0x04, 0x00]);
    assert_eq!(control(&mut guest, 0x04, 2, 0x0004), Ok(vec![word(Register::Command, 4, 0x0400, 0)]));
    guest.hw.set(0x62, &[0x81, 0x01]);
    assert_eq!(control(&mut guest, 0x04, 2, 0x0004), denied);
    assert_eq!(control(&mut guest, 0x72, 2, 0x8004), denied);
    assert_eq!(control(&mut guest, 0x72, 2, 0x4004), write(0x72, 0x4000, 0x4000), "a mask alone");
    assert_eq!(control(&mut guest, 0x62, 2, 0x0180), write(0x62, 1, 0));
    // Hidden, it is nobody's.
    let mut guest = Guest::with_policy("permissive=0,interrupt-control=1,hide=5");
    assert_eq!(control(&mut guest, 0x62, 2, 0x0181), Ok(vec![]));
}

#[test]
fn writes_to_gaps_are_dropped_and_said_so() {
    let mut guest = Guest::card();
    for (offset, size) in
        [(0x2c, 4), (0x28, 4), (0x06, 2), (0x64, 4), (0x74, 4), (0x88, 2), (0x98, 4), (0x100, 4), (0xffc, 4)]
    {
        let outcome = guest.config.write(&guest.hw, offset, size, 0x5555_5555).expect("never an error");
        assert!(outcome.is_dropped && outcome.hardware().next().is_none(), "{offset:#x}");
    }
    for (offset, size) in [(0x00, 4), (0x04, 4), (0x0d, 1), (0x10, 4), (0x3c, 1), (0x40, 4), (0x54, 4), (0x60, 2)] {
        let value = guest.read(offset, size);
        assert!(!guest.config.write(&guest.hw, offset, size, value).expect("allowed").is_dropped, "{offset:#x}");
    }
}

#[test]
fn what_is_no_register_is_refused() {
    let mut guest = Guest::card();
    for (offset, size, want) in [
        (3, 2, BadAccess::Offset),
        (2, 4, BadAccess::Offset),
        (-4, 4, BadAccess::Offset),
        (-1, 1, BadAccess::Offset),
        (i32::MIN, 4, BadAccess::Offset),
        (i32::MAX, 4, BadAccess::Offset),
        (i32::MAX, 1, BadAccess::PastEnd),
        (0x1000, 4, BadAccess::PastEnd),
        (0x10000, 4, BadAccess::PastEnd),
        (0, 0, BadAccess::Size),
        (0, 3, BadAccess::Size),
        (0, 8, BadAccess::Size),
        (0, -4, BadAccess::Size),
        (0, i32::MIN, BadAccess::Size),
    ] {
        assert_eq!(guest.config.read(&guest.hw, offset, size), Err(want), "{offset} {size}");
        assert_eq!(guest.refusal(offset, size, 0), WriteError::Access(want), "{offset} {size}");
    }
}

#[test]
fn only_pci_express_and_pci_x_mode_2_have_extended_space() {
    let size = |capability: &[u8]| {
        let mut hw = network_card();
        hw.set(0x34, &[0x40]);
        hw.set(0x40, capability);
        assign(&network_card_known(), &hw).size()
    };
    assert_eq!(size(&[0x10, 0, 2, 0]), 4096);
    assert_eq!(size(&[0x07, 0, 0, 0, 0, 0, 0, 0x40]), 4096);
    assert_eq!(size(&[0x07, 0, 0, 0, 0, 0, 0, 0x80]), 4096);
    assert_eq!(size(&[0x07, 0, 0, 0, 0xff, 0xff, 0xff, 0x3f]), 256);
    assert_eq!(size(&[0x09, 0, 0, 0]), 256);

    let mut hw = network_card();
    hw.set(0x06, &[0x00]);
    let config = assign(&network_card_known(), &hw);
    assert_eq!(config.size(), 256, "Status says that there is no list");
    assert_eq!(config.read(&hw, 0x100, 4), Err(BadAccess::PastEnd));
    assert!(config.read(&hw, 0xfc, 4).is_ok());
}

#[test]
fn the_interrupt_line_is_the_gsi_or_none() {
    let hw = network_card();
    for (irq, line, pin) in [(11, 11, 1), (254, 254, 1), (1, 1, 1), (0, 0, 0), (255, 0, 0), (256 + 11, 0, 0)] {
        let config = assign(&Known::new(&[], irq), &hw);
        assert_eq!(config.read(&hw, 0x3c, 2), Ok(line | pin << 8), "irq {irq}");
        assert_eq!(u32::from(config.interrupt_line()), line);
    }
}

#[test]
fn what_cannot_change_is_read_once() {
    let mut guest = Guest::card();
    let constant =
        [(0, 4), (8, 4), (0x0e, 1), (0x28, 4), (0x2c, 4), (0x34, 1), (0x3c, 4), (0x40, 4), (0x50, 2), (0x60, 2)];
    let constant = constant.into_iter().chain([
        (0x70, 2),
        (0x74, 4),
        (0x78, 4),
        (0x80, 2),
        (0x84, 4),
        (0x98, 2),
        (0x10, 4),
        (0x30, 4),
    ]);
    let before: Vec<_> = constant.clone().map(|(offset, size)| guest.read(offset, size)).collect();
    guest.hw.bytes.fill(0x5a);
    guest.hw.reads.set(0);
    let after: Vec<_> = constant.map(|(offset, size)| guest.read(offset, size)).collect();
    assert_eq!(before, after);
    assert_eq!(guest.hw.reads.get(), 0);
    assert_eq!(guest.read(0x88, 4), 0x5a5a_5a5a, "the rest is the hardware's");
}

#[test]
fn functions_that_are_none_or_no_endpoints_are_told_apart() {
    let check = |change: &dyn Fn(&mut Memory)| {
        let mut hw = network_card();
        change(&mut hw);
        let config = assign(&network_card_known(), &hw);
        (check_servable(&hw), config.is_bridge())
    };
    assert_eq!(check(&|_| ()), (Ok(()), false));
    assert_eq!(check(&|hw| hw.bytes.fill(0xff)).0, Err(Unservable::Absent));
    let bridge = |hw: &mut Memory| {
        hw.set(0x0b, &[6]);
        hw.set(0x0e, &[0x81]);
    };
    assert_eq!(check(&bridge), (Err(Unservable::HeaderType(1)), true));
    assert_eq!(check(&|hw| hw.set(0x0b, &[6])), (Ok(()), false), "a host bridge has an endpoint's header");
    assert_eq!(check(&|hw| hw.set(0, &[0xff; 4])), (Ok(()), false), "a virtual function");
}

#[test]
fn a_virtual_function_is_shown_as_a_function() {
    let hw = virtual_function();
    let mut config = assign(&virtual_function_known(), &hw);
    let read = |config: &VirtualConfig, offset, size| config.read(&hw, offset, size).expect("a register");
    assert_eq!(read(&config, 0, 4), 0x1520_8086);
    assert_eq!((read(&config, 0, 2), read(&config, 2, 2)), (0x8086, 0x1520));
    assert_eq!(read(&config, 8, 4), 0x0200_0001, "the class is the hardware's");
    assert_eq!(read(&config, 0x2c, 4), 0x8086);
    assert_eq!((read(&config, 0x10, 4), read(&config, 0x14, 4)), (0xc000_000c, 8));
    assert_eq!((read(&config, 0x1c, 4), read(&config, 0x20, 4)), (0xc010_000c, 8));
    assert_eq!((read(&config, 0x18, 4), read(&config, 0x24, 4), read(&config, 0x30, 4)), (0, 0, 0));
    assert_eq!(read(&config, 0x3c, 2), 0, "no line, no pin");
    for (offset, mask) in [(0x10, 0xffff_c00c), (0x14, 0xffff_ffff)] {
        config.write(&hw, offset, 4, u32::MAX).expect("sizing");
        assert_eq!(read(&config, offset, 4), mask);
    }
    // Decoding is virtual: the hardware has no such bits in a virtual function (§9.3.4.1.3).
    let outcome = config.write(&hw, 4, 2, 0x0006).expect("Command");
    assert_eq!(read(&config, 4, 2), 0x0002);
    let masks: Vec<_> = outcome.hardware().map(|write| (write.offset, write.mask, write.value)).collect();
    assert_eq!(masks, [(4, 4, 4)], "bus mastering is the function's own");
    config.reset();
    assert_eq!((read(&config, 0, 4), read(&config, 4, 2)), (0x1520_8086, 0));
    assert_eq!((check_servable(&hw), check_quiesced(&hw), config.size()), (Ok(()), Ok(()), 4096));
    assert_eq!(config.msix_entries(&hw), 3);
}

#[test]
fn a_function_that_could_disturb_is_not_quiet() {
    let check = |offset, bytes: &[u8]| {
        let mut hw = network_card();
        hw.set(4, &[0x02]);
        hw.set(offset, bytes);
        check_quiesced(&hw)
    };
    assert_eq!(check(4, &[0x02]), Ok(()));
    assert_eq!(check(4, &[0x06]), Err(NotQuiesced::BusMaster));
    assert_eq!(check(4, &[0x02, 0x00, 0x18]), Err(NotQuiesced::Interrupt));
    assert_eq!(check(4, &[0x02, 0x04, 0x18]), Ok(()), "it may ask, INTx is disabled");
    assert_eq!(check(0x62, &[0x81]), Err(NotQuiesced::Msi));
    assert_eq!(check(0x73, &[0x80]), Err(NotQuiesced::MsiX));
    assert_eq!(check(0x73, &[0x40]), Ok(()), "masked is no matter");
}

/// xen-pcifront refuses a driver that asks for more than 128 entries at once, and drivers ask for all that they see.
#[test]
fn a_table_is_no_larger_than_a_frontend_can_ask_for() {
    for (real, seen) in [(1u16, 1u16), (5, 5), (128, 128), (129, 128), (256, 128), (2048, 128)] {
        let mut guest = Guest::card();
        guest.hw.set(0x72, &(u16::to_le_bytes(real - 1)));
        guest.config = assign(&network_card_known(), &guest.hw);
        let size = u32::from(seen) - 1;
        assert_eq!((guest.read(0x72, 2), guest.read(0x70, 4)), (size, size << 16 | 0x8011), "{real}");
        assert_eq!(guest.config.msix_entries(&guest.hw), u32::from(seen));
        // What Linux does around every enable: read, and write back. Enabling is refused, as ever.
        assert!(guest.write(0x72, 2, size).is_empty());
        assert!(matches!(guest.refusal(0x72, 2, size | 0x8000), WriteError::Denied(Denied::InterruptControl)));
        guest.hw.set(0x72, &(u16::to_le_bytes((real - 1) | 0xc000)));
        assert_eq!(guest.read(0x72, 2), size | 0xc000, "enabled and masked, as the device says");
    }
}
