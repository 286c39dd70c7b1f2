//! The list that the command makes for the broker.

use proptest::prelude::*;

use crate::fakes::{Memory, network_card, server_card, virtual_function};
use crate::walk::Walk;
use crate::writable_mask::interrupt_registers;
use crate::{Policy, permitted_writes};

fn list(hw: &Memory, policy: &str) -> String {
    permitted_writes(hw, &policy.parse().expect("a policy")).to_string()
}

#[test]
fn a_card_has_what_the_table_lets_any_guest_write() {
    let mut hw = network_card();
    hw.set(0x62, &[0x86, 0x01]); // MSI with 8 vectors
    hw.set(0x74, &[0x04]); // the MSI-X table in BAR 4
    let text = "identity:15338086:2000003 power:40 msi:60:8 msix:70:5:4 command:4:2:414:0 plain:c:1:ff:0 pmcsr:44:2:9e03:8000 vpd:52:2:ffff:8000";
    assert_eq!(list(&hw, "permissive=0"), text);
    hw.set(0x0f, &[0x80]);
    assert!(list(&hw, "permissive=0").contains(" bist:f:1:40:0 "), "where it has a self-test");
    hw.set(0x72, &[0xff, 0x07]);
    assert!(list(&hw, "permissive=0").contains(" msix:70:80:4 "), "no more entries than a frontend can ask for");
    assert_eq!(
        list(&virtual_function(), "permissive=0"),
        "identity:ffffffff:2000001 msix:80:3:3 command:4:2:414:0 plain:c:1:ff:0"
    );
    assert_eq!(list(&Memory::default(), "permissive=0"), "identity:0:0 command:4:2:414:0 plain:c:1:ff:0");
}

#[test]
fn what_the_admin_opens_stands_at_the_end() {
    let hw = server_card();
    let permissive = list(&hw, "permissive=1");
    assert!(permissive.contains("command:4:2:6bc:0"), "{permissive}");
    // Errors, PCI Express, between capabilities and a vendor's own.
    for range in [
        "range:4:1:f9000000:ffff0000",
        "range:68:1:f7010:ffff0000",
        "range:9c:1:ffffffff:0",
        "range:104:1:ffffffff:ffffffff",
    ] {
        assert!(permissive.split(' ').any(|word| word == range), "{range}: {permissive}");
    }
    let quirks = list(&hw, "permissive=0,quirk=e4:2:ff0f,quirk=68:2:ffff,quirk=6a:2:1,quirk=10:4:ffffffff");
    assert!(
        quirks.ends_with(" open:e4:2:ff0f:0 open:68:2:7010:0 open:6a:2:1:ffff"),
        "what is locked is left out: {quirks}"
    );
}

#[test]
fn what_is_hidden_is_not_in_it() {
    let hw = server_card();
    let all = list(&hw, "permissive=1");
    let hidden = list(&hw, "permissive=1,hide=1,hide=3,hide=5,hide=11,hide=9");
    for word in ["pmcsr:", "vpd:"] {
        assert!(all.contains(word) && !hidden.contains(word), "{word}");
    }
    // The broker still wakes the device and turns its interrupts off.
    assert!(hidden.contains(" power:40 msi:48:0 msix:a0:0:"), "{hidden}");
    assert!(
        all.split(' ').any(|word| word.starts_with("range:e"))
            && !hidden.split(' ').any(|word| word.starts_with("range:e"))
    );
}

#[test]
fn interrupt_control_stands_in_it_where_the_policy_gives_it() {
    let (hw, policy) = (network_card(), "permissive=0,interrupt-control=1");
    let with = list(&hw, policy);
    assert!(with.ends_with(" interrupts:62:2:1:0 interrupts:72:2:c000:0"), "{with}");
    assert_eq!(list(&hw, "permissive=1").matches("interrupts:").count(), 0);
    assert_eq!(list(&hw, &format!("{policy},hide=5")).matches("interrupts:").count(), 1);
    // A second capability of a kind, and one whose registers lie in the other's.
    let mut hw = Memory::of(&[0x86, 0x80], true);
    hw.set(0x34, &[0x50]);
    hw.set(0x50, &[0x05, 0x54, 0x00, 0x01]);
    hw.set(0x54, &[0x11, 0x80]);
    hw.set(0x80, &[0x05, 0x00]);
    let text = list(&hw, policy);
    assert!(text.contains("interrupts:52:") && text.matches("interrupts:").count() == 1, "{text}");
}

#[test]
fn a_capability_list_cannot_lay_a_register_over_vectors() {
    // Power management's PMCSR is where MSI's address, MSI-X's control or MSI-X's table is.
    for (msi, msix) in [(0x44, 0x80), (0x80, 0x44), (0x80, 0x3c + 4)] {
        let mut hw = Memory::of(&[0x86, 0x80], true);
        hw.set(0x34, &[0x40]);
        hw.set(msi, &[0x05, 0, 0x80, 0]);
        hw.set(msix, &[0x11, 0, 0, 0]);
        hw.set(0x40, &[0x01, 0x44]);
        hw.set(0x44, &[if msi == 0x44 { 0x05 } else { 0x11 }, 0x80]);
        let text = list(&hw, "permissive=1");
        assert!(!text.contains("pmcsr:") && !text.contains("power:"), "{msi:#x} {msix:#x}: {text}");
    }
}

#[test]
fn an_admin_cannot_open_interrupt_registers_behind_a_capability_that_lies_in_them() {
    // MSI with 32 bits of address, masks and pending bits, 50h to 63h; in it the header of MSI-X, 54h to 5fh.
    let mut hw = Memory::of(&[0x86, 0x80], true);
    hw.set(0x34, &[0x50]);
    hw.set(0x50, &[0x05, 0x54, 0x00, 0x01]);
    hw.set(0x54, &[0x11, 0, 0, 0]);
    let policy = "permissive=1".parse::<Policy>().expect("a policy");
    let list = permitted_writes(&hw, &policy);
    let opened = |offset: u16| list.ranges.iter().any(|range| range.contains(offset));
    assert_eq!(
        (0x40..0x70).step_by(4).filter(|offset| opened(*offset)).collect::<Vec<_>>(),
        [0x40, 0x44, 0x48, 0x4c, 0x64, 0x68, 0x6c]
    );
    for offset in (0x50..0x64).step_by(4) {
        let text = self::list(&hw, &format!("permissive=0,quirk={offset:x}:4:ffffffff"));
        assert!(!text.contains("open:"), "{offset:#x}: {text}");
    }
}

#[test]
fn of_two_capabilities_of_a_kind_only_the_first_is_written() {
    let mut hw = Memory::of(&[0x86, 0x80], true);
    hw.set(0x34, &[0x80]);
    for (at, id, next) in [(0x80, 0x01, 0x90), (0x90, 0x03, 0x40), (0x40, 0x01, 0x50), (0x50, 0x03, 0)] {
        hw.set(at, &[id, next]);
    }
    let text = "identity:8086:0 power:80 command:4:2:414:0 plain:c:1:ff:0 pmcsr:84:2:9e03:8000 vpd:92:2:ffff:8000";
    assert_eq!(list(&hw, "permissive=0"), text);
}

proptest! {
    #[test]
    fn any_device_has_a_list_that_reads_back(
        seed in prop::collection::vec(any::<u8>(), 4096),
        has_list in any::<bool>(),
        policy in prop_oneof!["permissive=[01]", "permissive=0,quirk=40:4:ffffffff,quirk=7[0-9a-f]:1:ff"],
    ) {
        let hw = Memory::of(&seed, has_list);
        let list = permitted_writes(&hw, &policy.parse::<Policy>().expect("a policy"));
        prop_assert_eq!(list.to_string().parse(), Ok(list.clone()));
        for registers in Walk::conventional(&hw).filter_map(|capability| interrupt_registers(&capability)) {
            let mut dwords = (registers.start / 4..registers.end.div_ceil(4)).map(|dword| dword * 4);
            prop_assert!(dwords.all(|dword| list.ranges.iter().all(|range| !range.contains(dword))));
        }
        // Only where much is open there may be more than a node holds.
        prop_assert!(policy == "permissive=1" || list.to_node().is_ok());
    }
}
