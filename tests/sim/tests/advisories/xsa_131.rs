//! XSA-131 (CVE-2015-4106): qemu passed writes on to registers that it did not know.
//!
//! Ours: what is not in the table is not written, in the conventional and in the extended space; `permissive` is the admin's word for one device.

use pciif::Request;

use super::{MINE, V, ask, registers, world};

/// PMCSR of the simulated card, which guests write.
const PMCSR: usize = 0x4c;

#[test]
fn registers_that_nobody_knows_are_not_written() {
    let mut world = world();
    let before = registers(&world, MINE);
    for offset in (0x40..4096).step_by(4) {
        for value in [u32::MAX, 0xa5a5_a5a5] {
            ask(&mut world, &Request::conf_write(V, offset, 4, value));
            ask(&mut world, &Request::conf_write(V, offset + 1, 1, value & 0xff));
        }
    }
    let after = registers(&world, MINE);
    for (dword, (before, after)) in before.iter().zip(&after).enumerate() {
        // Power state, data select and PME; reserved bits are not written there either.
        let open = if dword * 4 == PMCSR { 0x9e03 } else { 0 };
        assert_eq!((before ^ after) & !open, 0, "{:#x}", dword * 4);
    }
}
