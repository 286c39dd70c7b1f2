//! XSA-164 (CVE-2015-8554): qemu had an array for as many MSI-X entries as the device has, and wrote behind it for a guest that named others.
//!
//! Ours: entries beyond the table, twice the same, none and more than fit into the page are refused before anybody is asked, and nothing behind the vectors in the page is written.

use pciif::layout::{MAX_VECTORS, MsixEntry};
use pciif::{Command, Request};

use super::{ATTACKER, V, assert_served, vectors, world};

#[test]
fn entries_that_are_not_in_the_table_are_refused() {
    let mut world = world(); // 16 entries
    let asked = world.broker.log.len();
    let wide: Vec<u16> = (0..128).collect();
    for entries in [&[16][..], &[0, 16], &[u16::MAX], &[0x8000], &[3, 3], &[], &wide] {
        assert_eq!(world.ask_msix(ATTACKER, V, entries).0.map(|answer| answer.err), Some(-5), "{entries:?}");
    }
    for value in [129, 0x100, 0xffff, 0x1_0000, u32::MAX] {
        let list = [MsixEntry { vector: 0xffff, entry: 0 }; MAX_VECTORS];
        world.guest(ATTACKER).publish_with_entries(&Request { value, ..Request::new(Command::EnableMsix, V) }, &list);
        world.work();
        assert_eq!(world.guest(ATTACKER).response().map(|answer| answer.err), Some(-5), "{value} entries");
    }
    assert_eq!((world.broker.log.len(), vectors(&world)), (asked, 0), "nobody is asked");
    assert_served(&mut world);
}

#[test]
fn as_many_as_there_are_fill_the_vectors_and_nothing_behind_them() {
    const BEHIND: usize = 40 + 4 * MAX_VECTORS;
    let mut world = world();
    let page = std::sync::Arc::clone(world.guest(ATTACKER).page().expect("connected"));
    for offset in (BEHIND..4096).step_by(4) {
        page.set_word(offset, 0x5aa5_5aa5);
    }
    let all: Vec<u16> = (0..16).collect();
    assert_eq!(world.ask_msix(ATTACKER, V, &all).1.len(), 16);
    for offset in (BEHIND..4096).step_by(4) {
        assert_eq!(page.word(offset), Some(0x5aa5_5aa5), "{offset}");
    }
}
