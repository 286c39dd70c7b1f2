//! XSA-128 (CVE-2015-4103): an access that reached over several fields had qemu write fields back that were the host's own, MSI's message data among them.
//!
//! Ours: nothing of a message is ever written for a guest, whatever an access reaches: the broker writes single registers of its list, at their own width.

use pciif::{Command, Request};

use super::{ATTACKER, MINE, V, ask, command, registers, vectors, world};

#[test]
fn no_access_of_any_size_changes_a_message() {
    let mut world = world();
    for is_msix in [false, true] {
        if is_msix {
            assert_eq!(world.ask_msix(ATTACKER, V, &[0, 1]).1.len(), 2);
        } else {
            assert_eq!(command(&mut world, Command::EnableMsi).err, 0);
        }
        let before = registers(&world, MINE);
        // MSI is at 50h, with 64 bits of address, and MSI-X at 60h; what is before and behind may be reached by the same access.
        for offset in 0x4e..0x70 {
            for size in [1, 2, 4] {
                for value in [0, u32::MAX, 0xfee0_0000, 0x1234_5678] {
                    ask(&mut world, &Request::conf_write(V, offset, size, value));
                }
            }
        }
        assert_eq!(registers(&world, MINE), before);
        assert_eq!(vectors(&world), if is_msix { 2 } else { 1 });
        assert_eq!(command(&mut world, Command::DisableMsi).err, 0);
    }
}
