//! XSA-129 (CVE-2015-4104): a guest could write MSI's mask bits, which are Xen's to control, and had interrupts come when the host did not expect them.
//!
//! Ours: neither the mask bits nor MSI-X's function mask are in the broker's list, and a change of Message Control is refused.

use pciif::{Command, ErrorCode, Request};
use sim::device::Function;

use super::{ATTACKER, MINE, V, ask, command, registers, world_with};

/// MSI with a mask bit for each vector, from 50h to 68h, and MSI-X at 70h.
fn maskable(card: Function) -> Function {
    let mut card = card.with_interrupts(16);
    for (at, value) in [(0x50, 0x0186_7005), (0x60, 0), (0x64, 0), (0x68, 0), (0x70, 0x000f_0011), (0x74, 0)] {
        card.write(at, value);
    }
    card
}

#[test]
fn mask_bits_are_not_the_guests() {
    let mut world = world_with(maskable);
    assert_eq!(command(&mut world, Command::EnableMsi).err, 0);
    let before = registers(&world, MINE);
    for (offset, size) in [(0x60, 4), (0x60, 1), (0x62, 2), (0x64, 4), (0x67, 1)] {
        for value in [0, u32::MAX, 1] {
            ask(&mut world, &Request::conf_write(V, offset, size, value));
        }
    }
    assert_eq!(registers(&world, MINE), before, "mask and pending bits of MSI");
    assert_eq!(command(&mut world, Command::DisableMsi).err, 0);

    assert_eq!(world.ask_msix(ATTACKER, V, &[0, 1]).1.len(), 2);
    let before = registers(&world, MINE);
    for value in [0xc00f, 0x400f, 0x000f, 0xffff] {
        let answer = ask(&mut world, &Request::conf_write(V, 0x72, 2, value));
        assert_eq!(answer.code(), Some(ErrorCode::AccessDenied), "{value:#x}");
    }
    assert_eq!(registers(&world, MINE), before, "the function mask of MSI-X");
}
