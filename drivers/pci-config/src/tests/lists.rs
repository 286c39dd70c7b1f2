//! Capability lists as a guest sees them: hidden capabilities, malformed lists.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::assign;
use crate::fakes::{Memory, network_card, network_card_known, server_card};
use crate::view::VirtualConfig;
use crate::{ConfigSpace, Walk, Width};

/// What a guest's own walk finds: place and id.
type Found = Vec<(u16, u16)>;

/// What is hidden by default of what the server's card has.
const SHOWN: &str = "show=x10,show=x15";

/// Walks as a guest does that trusts the device; more steps than there are dwords are a loop.
fn guests_walk(config: &VirtualConfig, hw: &impl ConfigSpace) -> (Found, Found) {
    let read = |offset: u16, size| config.read(hw, offset.into(), size).expect("a register");
    let mut conventional = Vec::new();
    let mut at = if read(6, 2) & 0x10 == 0 { 0 } else { read(0x34, 1) };
    while at != 0 {
        assert!(at >= 0x40 && at.is_multiple_of(4), "{at:#x}");
        let offset = u16::try_from(at).expect("a byte");
        conventional.push((offset, u16::try_from(read(offset, 1)).expect("a byte")));
        assert!(conventional.len() <= 48, "a loop");
        at = read(offset + 1, 1);
    }
    let mut extended = Vec::new();
    let mut offset = if config.size() == 4096 { 0x100 } else { 0 };
    while offset != 0 {
        assert!(offset >= 0x100 && offset % 4 == 0, "{offset:#x}");
        let header = read(offset, 4);
        if header == 0 || header == u32::MAX {
            break;
        }
        extended.push((offset, u16::try_from(header & 0xffff).expect("half a dword")));
        assert!(extended.len() <= 960, "a loop");
        offset = u16::try_from(header >> 20).expect("twelve bits");
    }
    (conventional, extended)
}

#[test]
fn a_sound_list_is_shown_as_it_is() {
    let hw = server_card();
    let config = assign(&network_card_known().with_policy(SHOWN), &hw);
    for offset in
        (0..0x1000).step_by(4).filter(|offset| !matches!(offset, 0x04 | 0x10..=0x24 | 0x30 | 0x3c | 0x40 | 0xb8))
    {
        let real = hw.read_config(u16::try_from(offset).expect("in the space"), Width::Dword);
        assert_eq!(config.read(&hw, offset, 4), Ok(real), "{offset:#x}");
    }
    let (conventional, extended) = guests_walk(&config, &hw);
    assert_eq!((conventional.len(), extended.len()), (11, 14));
}

#[test]
fn each_capability_can_be_hidden() {
    let hw = server_card();
    let (conventional, extended) = guests_walk(&assign(&network_card_known().with_policy(SHOWN), &hw), &hw);
    for (at, id) in &conventional {
        let config = assign(&network_card_known().with_policy(&format!("{SHOWN},hide={id:x}")), &hw);
        let (seen, seen_extended) = guests_walk(&config, &hw);
        let want: Found = conventional.iter().filter(|found| found != &&(*at, *id)).copied().collect();
        assert_eq!(seen, want, "{id:#x} at {at:#x}");
        // Without PCI Express there is no extended space.
        assert_eq!(seen_extended.len(), if *id == 0x10 { 0 } else { 14 });
        assert_eq!(config.read(&hw, (*at).into(), 4), Ok(0), "{id:#x}");
    }
    for (at, id) in extended.iter().filter(|(_, id)| *id < 64) {
        let config = assign(&network_card_known().with_policy(&format!("{SHOWN},hide=x{id:x}")), &hw);
        let (seen, seen_extended) = guests_walk(&config, &hw);
        assert_eq!(seen, conventional);
        // The very first leaves a header without an id, because the list begins with it.
        let want: Found = extended.iter().filter(|found| found != &&(*at, *id)).copied().collect();
        let seen_extended: Found = seen_extended.into_iter().filter(|(_, id)| *id != 0).collect();
        assert_eq!(seen_extended, want, "{id:#x} at {at:#x}");
        assert_eq!(config.read(&hw, i32::from(*at) + 4, 4), Ok(0), "its registers read as none");
    }
}

#[test]
fn what_no_guest_can_use_is_hidden_unless_the_admin_shows_it() {
    let mut hw = server_card();
    hw.set(0x300, &(0x24_u32 | 1 << 16).to_le_bytes());
    let ids = |policy: &str| -> Vec<u16> {
        let config = assign(&network_card_known().with_policy(policy), &hw);
        guests_walk(&config, &hw).1.into_iter().map(|(_, id)| id).collect()
    };
    let [sriov, rebar, vfrebar] = [0x10, 0x15, 0x24];
    let all = ids("show=x10,show=x15,show=x24");
    assert!([sriov, rebar, vfrebar].iter().all(|id| all.contains(id)), "{all:x?}");
    let seen = ids("permissive=0");
    assert_eq!(seen.len(), all.len() - 3);
    assert!(![sriov, rebar, vfrebar].iter().any(|id| seen.contains(id)), "{seen:x?}");
    assert!(ids("show=x10").contains(&sriov) && !ids("show=x10").contains(&rebar));
    // The driver domain is told nothing about a device of which there is nothing to say.
    let known = network_card_known();
    let untold = crate::Description { policy_flags: crate::PolicyFlags::default(), ..known.description() };
    assert_eq!(guests_walk(&VirtualConfig::new(&untold, &hw), &hw).1.len(), seen.len());
}

#[test]
fn a_space_that_repeats_its_first_256_bytes_has_no_more() {
    let mut hw = server_card();
    let first: Vec<u8> = hw.bytes[..256].to_vec();
    (1..16).for_each(|page| hw.set(page * 256, &first));
    let (config, fault) = VirtualConfig::read_from(&network_card_known().description(), &hw);
    assert_eq!((config.size(), fault), (256, None));
    assert_eq!(guests_walk(&config, &hw).0.len(), 11);
    let writable = crate::WritableMask::new(&hw, &crate::Policy::default());
    assert!((64..1024).all(|dword| writable.open(dword).bits == 0));
    // One page that is another: it was no repetition.
    hw.set(0xf00, &[0x87]);
    assert_eq!(assign(&network_card_known(), &hw).size(), 4096);
}

#[test]
fn everything_can_be_hidden() {
    let hw = server_card();
    let all = "permissive=0,hide=1,hide=5,hide=11,hide=3,hide=13,hide=8,hide=12,hide=14,hide=9,hide=d";
    let extended = ",hide=x1,hide=x3,hide=xb,hide=x10,hide=xf,hide=xd,hide=xe,hide=x13,hide=x1b,hide=x18,hide=x15,hide=x1d,hide=x1e";
    let config = assign(&network_card_known().with_policy(&format!("{all}{extended}")), &hw);
    assert_eq!(guests_walk(&config, &hw).0, [(0x60, 0x10)]);
    // One cannot be hidden by its number: it is not in the table.
    assert_eq!(guests_walk(&config, &hw).1, [(0x100, 0), (0x300, 0x7e)]);
    assert_eq!((config.msi_vectors(&hw), config.msix_entries(&hw)), (0, 0));
    let mut hw = server_card();
    hw.set(0x1e8, &(0x18_u32 | 1 << 16).to_le_bytes());
    let config = assign(&network_card_known().with_policy(&format!("{all}{extended}")), &hw);
    assert_eq!(guests_walk(&config, &hw).1, []);
    assert_eq!(config.read(&hw, 0x100, 4), Ok(0));
    let config = assign(&network_card_known().with_policy(&format!("{all},hide=10")), &hw);
    assert_eq!(guests_walk(&config, &hw), (vec![], vec![]));
    assert_eq!(config.size(), 256);
}

#[test]
fn a_hidden_capability_is_written_by_nobody() {
    let hw = server_card();
    let mut config = assign(&network_card_known().with_policy("hide=1,hide=3,hide=5,hide=x1"), &hw);
    for offset in [0x44, 0xb2, 0x4a, 0x104] {
        let outcome = config.write(&hw, offset, 2, 0x0003).expect("dropped");
        assert!(outcome.is_dropped && outcome.hardware().count() == 0, "{offset:#x}");
    }
}

#[test]
fn broken_lists_are_told_and_shown_as_far_as_they_go() {
    let check = |change: &dyn Fn(&mut Memory)| {
        let mut hw = server_card();
        change(&mut hw);
        let known = network_card_known().with_policy(SHOWN);
        let (config, fault) = VirtualConfig::read_from(&known.description(), &hw);
        let (conventional, extended) = guests_walk(&config, &hw);
        (fault.map(|fault| fault.pointer), conventional.len(), extended.len())
    };
    assert_eq!(check(&|_| ()), (None, 11, 14));
    assert_eq!(check(&|hw| hw.set(0x49, &[0x40])), (Some(0x40), 2, 0), "a loop, before PCI Express");
    assert_eq!(check(&|hw| hw.set(0xa1, &[0x3c])), (Some(0x3c), 4, 14), "into the header");
    assert_eq!(check(&|hw| hw.set(0xb0, &[0xff])), (Some(0xb0), 4, 14), "not answering");
    assert_eq!(check(&|hw| hw.set(0xf1, &[0x02])), (None, 11, 14), "reserved bits alone");
    let next = |hw: &mut Memory, at: usize, next: u32| {
        let id = u32::from(hw.bytes[at]);
        hw.set(at, &(id | 1 << 16 | next << 20).to_le_bytes());
    };
    assert_eq!(check(&|hw| next(hw, 0x150, 0x140)), (Some(0x140), 11, 3), "a loop");
    assert_eq!(check(&|hw| next(hw, 0x150, 0x150)), (Some(0x150), 11, 3), "a loop of one");
    assert_eq!(check(&|hw| next(hw, 0x150, 0x0fc)), (Some(0xfc), 11, 3), "into the conventional space");
    assert_eq!(check(&|hw| next(hw, 0x150, 0x004)), (Some(0x04), 11, 3), "into the header");
    assert_eq!(check(&|hw| hw.set(0x160, &[0xff; 4])), (Some(0x160), 11, 3), "not answering");
    assert_eq!(check(&|hw| hw.set(0x100, &[0xff; 4])), (None, 11, 0), "no extended space");
    assert_eq!(check(&|hw| hw.set(0x100, &[0; 4])), (None, 11, 0), "no extended capabilities");
    assert_eq!(check(&|hw| hw.bytes.fill(0xff)), (None, 0, 0), "not there");
}

#[test]
fn the_longest_extended_list_is_walked_to_its_end() {
    let mut hw = server_card();
    for at in (0x100..0x1000usize).step_by(4) {
        let next = u32::try_from((at + 4) & 0xfff).expect("masked");
        hw.set(at, &(0x0b | 1 << 16 | next << 20).to_le_bytes());
    }
    assert_eq!(Walk::extended(&hw).count(), 960);
    assert_eq!(guests_walk(&assign(&network_card_known(), &hw), &hw).1.len(), 960);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn over_any_image_both_walks_end_and_so_do_a_guests(
        image in prop::collection::vec(any::<u8>(), 4096),
        ids in prop::collection::vec(0..16u8, 1024),
        is_raw in any::<bool>(),
        hidden in any::<u32>(),
    ) {
        let mut hw = network_card();
        hw.set(0, &image);
        hw.set(0x0e, &[0]);
        hw.set(0x06, &[hw.bytes[6] | 0x10]);
        if !is_raw {
            // Ids that mean something, or hardly a list gets anywhere.
            for (dword, id) in ids.iter().enumerate().skip(16) {
                hw.set(dword * 4, &[if dword == 16 || *id == 2 { 0x10 } else { *id }]);
                if dword >= 64 {
                    hw.set(dword * 4 + 1, &[0]);
                }
            }
            hw.set(0x34, &[0x40]);
        }
        let mut policy = String::from("permissive=0");
        for id in (1..32).filter(|id| hidden >> id & 1 != 0 && *id != 0x10) {
            policy += &format!(",hide={id:x},hide=x{id:x}");
        }
        for known in [network_card_known(), network_card_known().with_policy(&policy)] {
            let config = assign(&known, &hw);
            let (conventional, extended) = guests_walk(&config, &hw);
            for found in [&conventional, &extended] {
                let places: BTreeSet<_> = found.iter().map(|(at, _)| *at).collect();
                prop_assert_eq!(places.len(), found.len(), "no place twice");
            }
        }
        // What the walks find is what the device says.
        for capability in Walk::conventional(&hw).chain(Walk::extended(&hw)) {
            prop_assert_eq!(capability.header, hw.read_config(capability.offset, Width::Dword));
        }
    }
}
