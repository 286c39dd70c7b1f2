//! XSA-120 (CVE-2015-2150): a guest turned memory or I/O decoding of its device off and then touched the BAR. The Unsupported Request became a non-maskable
//! interrupt, which took the host down. The addendum: resetting a device turned decoding off as well, while its guest still had the BARs mapped.
//!
//! Ours: both bits are virtual. The device's own stay on, whatever the guest writes, and when it unloads its driver, and when the device is
//! quiesced; also where the admin has made the device permissive.

use pciback::platform::Width;
use pciif::Request;

use super::{ATTACKER, MINE, V, ask, register, world};

const COMMAND: u16 = 4;
const DECODERS: u32 = 3;

#[test]
fn decoders_stay_on_whatever_is_written() {
    let mut world = world();
    for value in [0, 0x0400, 0x0004, 0x0407, 0xfffc, 0x03ff, 0] {
        for request in [
            Request::conf_write(V, 4, 2, value),
            Request::conf_write(V, 4, 4, value | 0xffff_0000),
            Request::conf_write(V, 4, 1, value & 0xff),
        ] {
            assert_eq!(ask(&mut world, &request).err, 0);
            assert_eq!(register(&world, COMMAND, Width::Word) & DECODERS, DECODERS, "{request}");
        }
    }
    let read = ask(&mut world, &Request::conf_read(V, 4, 2));
    assert_eq!(read.value & DECODERS, 0, "the guest sees what it wrote");
}

#[test]
fn decoders_stay_on_while_the_device_is_quiesced_and_its_guest_may_have_it_mapped() {
    let mut world = world();
    assert_eq!(ask(&mut world, &Request::conf_write(V, 4, 2, 0x0407)).err, 0);
    assert_eq!(world.ask_msix(ATTACKER, V, &[0, 1]).1.len(), 2);
    for _ in 0..3 {
        world.guest(ATTACKER).unload();
        world.settle();
        let command = register(&world, COMMAND, Width::Word);
        assert_eq!(command & 7, DECODERS, "no DMA any more, and decoding");
        world.guest(ATTACKER).set_state(1);
        world.settle();
    }
    world.quiesce(ATTACKER, MINE);
    assert_eq!(register(&world, COMMAND, Width::Word) & 7, DECODERS);
}
