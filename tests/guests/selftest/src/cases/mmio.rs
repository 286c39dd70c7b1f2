//! MMIO frames. The bench has QEMU's `edu` device at 00:06.0.

use crate::check::{Outcome, check, check_eq, ok};
use kernel::fixmap;
use kernel::mmio::MmioPage;
use xen_types::{Errno, Mfn};

/// ECAM frame of 00:06.0 on QEMU's q35: the window is at 0xb0000000.
const EDU: Mfn = Mfn(0xb_0000 + (6 << 3));
/// The local APIC: never given to any PV domain, dom0 included.
const LOCAL_APIC: Mfn = Mfn(0xf_ee00);

pub(super) fn ecam() -> Outcome {
    let before = fixmap::slots_in_use();
    let page = ok!(MmioPage::map(EDU));
    check_eq!(page.read_u32(0), 0x11e8_1234);
    check_eq!(page.read_u16(0), 0x1234);
    check_eq!(page.read_u16(2), 0x11e8);
    check_eq!(page.read_u8(1), 0x12);
    check_eq!(page.read_u32(3), 0x11e8_1234);
    drop(page);
    check_eq!(fixmap::slots_in_use(), before);
    Ok(())
}

/// Xen protects configuration space, and a store to it would be the end: it must be seen before.
pub(super) fn protected() -> Outcome {
    let page = ok!(MmioPage::map_writable(EDU));
    check!(!page.is_writable(), "without mmcfg=0");
    let before = page.read_u16(4);
    page.write_u16(4, before ^ 0x0004);
    check_eq!(page.read_u16(4), before);
    Ok(())
}

pub(super) fn refused() -> Outcome {
    let before = fixmap::slots_in_use();
    let refusal = MmioPage::map(LOCAL_APIC).err();
    check!(refusal == Some(Errno::EPERM), "mapping the local APIC: {refusal:?}");
    check_eq!(fixmap::slots_in_use(), before);
    Ok(())
}
