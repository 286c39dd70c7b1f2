//! Malicious devices: arbitrary bytes, loops in the capability list, registers that change between reads.

use std::cell::Cell;

use proptest::prelude::*;

use super::assign;
use crate::fakes::{Memory, network_card, network_card_known};
use crate::walk::Walk;
use crate::{ConfigSpace, Width};
use crate::{Register, VirtualConfig, WritableMask};

/// Answers every read with another number, without bounds on what a read's width allows.
struct Noise(Cell<u32>);

impl ConfigSpace for Noise {
    fn read_config(&self, offset: u16, _: Width) -> u32 {
        assert!(offset < 4096, "read at {offset:#x}");
        let mut state = self.0.get();
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        self.0.set(state);
        state
    }
}

fn access_everything(config: &mut VirtualConfig, hw: &impl ConfigSpace, value: u32) {
    for offset in 0..i32::from(config.size()) {
        for size in [1, 2, 4] {
            if let Ok(read) = config.read(hw, offset, size) {
                assert!(size == 4 || read >> (8 * size) == 0, "{offset:#x} size {size}: {read:#x}");
            }
            if let Ok(outcome) = config.write(hw, offset, size, value) {
                for write in outcome.hardware() {
                    assert!(write.offset < 256 && write.offset.is_multiple_of(write.width as u16));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_a_device(seed in prop::collection::vec(any::<u8>(), 4096), has_list in any::<bool>(), value in any::<u32>()) {
        let hw = Memory::of(&seed, has_list);
        let mut config = assign(&network_card_known(), &hw);
        access_everything(&mut config, &hw, value);
    }

    #[test]
    fn a_device_that_never_says_the_same_twice_is_served(seed in 1..u32::MAX, value in any::<u32>()) {
        let hw = Noise(Cell::new(seed));
        let mut config = VirtualConfig::new(&network_card_known().description(), &hw);
        access_everything(&mut config, &hw, value);
        let _ = crate::check_quiesced(&hw);
    }

    #[test]
    fn any_list_ends_and_names_no_place_twice(pointers in prop::collection::vec(any::<u8>(), 64), start in any::<u8>()) {
        let mut hw = network_card();
        hw.set(0x34, &[start]);
        for (at, next) in (0..256).step_by(4).zip(&pointers).filter(|(at, _)| *at >= 0x40) {
            hw.set(at, &[0x09, *next]);
        }
        let offsets: Vec<u16> = Walk::conventional(&hw).map(|capability| capability.offset).collect();
        let mut places = offsets.clone();
        places.sort_unstable();
        places.dedup();
        prop_assert_eq!(places.len(), offsets.len());
        prop_assert!(offsets.iter().all(|offset| *offset >= 0x40 && offset % 4 == 0));
    }
}

#[test]
fn lists_end_where_they_make_no_sense() {
    let walk = |change: &dyn Fn(&mut Memory)| {
        let mut hw = network_card();
        change(&mut hw);
        Walk::conventional(&hw).map(|capability| capability.offset).collect::<Vec<_>>()
    };
    assert_eq!(walk(&|_| ()), [0x40, 0x50, 0x60, 0x70, 0x80, 0x98]);
    assert_eq!(walk(&|hw| hw.set(0x51, &[0x40])), [0x40, 0x50], "a loop");
    assert_eq!(walk(&|hw| hw.set(0x41, &[0x40])), [0x40], "a loop of one");
    assert_eq!(walk(&|hw| hw.set(0x41, &[0x3c])), [0x40], "into the header");
    assert_eq!(walk(&|hw| hw.set(0x41, &[0x53])), [0x40, 0x50, 0x60, 0x70, 0x80, 0x98], "reserved bits");
    assert_eq!(walk(&|hw| hw.set(0x60, &[0xff])), [0x40, 0x50], "not answering");
    assert_eq!(walk(&|hw| hw.set(0x06, &[0x00])), [0; 0], "no list");
    assert_eq!(walk(&|hw| hw.bytes.fill(0xff)), [0; 0]);
}

#[test]
fn the_longest_list_is_walked_to_its_end() {
    let mut hw = network_card();
    for at in (0x40..0x100usize).step_by(4) {
        hw.set(at, &[0x09, u8::try_from((at + 4) & 0xff).expect("masked")]);
    }
    assert_eq!(Walk::conventional(&hw).count(), 48);
}

#[test]
fn overlapping_capabilities_keep_the_first_meaning() {
    let mut hw = network_card();
    hw.set(0x40, &[0x01, 0x44, 0xc3, 0xff, 0x05, 0x00, 0x80, 0x00]); // MSI inside power management
    let mut config = assign(&network_card_known(), &hw);
    let outcome = config.write(&hw, 0x44, 2, 0x0003).expect("the D-state");
    assert_eq!(outcome.hardware().map(|write| write.register).collect::<Vec<_>>(), [Register::PowerState]);
    assert_eq!(config.write(&hw, 0x46, 2, 0xffff).expect("bridge extensions").hardware().count(), 0);
}

#[test]
fn interrupts_are_opened_by_no_other_name() {
    let policy = "permissive=1".parse().expect("a policy");
    let mut hw = network_card();
    // MSI, and in its registers something that claims to be a vendor's own, before it in the list or behind.
    for (first, at) in [(0x40, 0x44), (0x44, 0x40)] {
        hw.set(0x34, &[first]);
        hw.set(0x40, &[0x05, if at == 0x44 { 0x44 } else { 0 }, 0x80, 0x00]);
        hw.set(0x44, &[0x09, if at == 0x40 { 0x40 } else { 0 }, 0x00, 0x00]);
        let writable = WritableMask::new(&hw, &policy);
        for dword in 0x10..0x14 {
            assert_eq!(writable.open(dword).bits, 0, "{dword:#x}");
        }
    }
}

#[test]
fn a_capability_at_the_very_end_does_not_reach_beyond() {
    for id in [0x01, 0x03, 0x05, 0x07, 0x10, 0x11] {
        let mut hw = network_card();
        hw.set(0x34, &[0xfc]);
        hw.set(0xfc, &[id, 0x00]);
        hw.set(0x100, &[0x00; 8]);
        let mut config = assign(&network_card_known(), &hw);
        access_everything(&mut config, &hw, 0x5a5a_5a5a);
    }
}
