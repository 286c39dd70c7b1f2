//! Fuzz target: tables of the firmware.

use xen_types::Sbdf;

/// Whatever is in the tables, a frame of configuration space has a number that Xen can have, and the search for reserved memory ends.
pub(crate) fn tables(data: &[u8]) {
    const MAX_FRAME: u64 = 1 << 52;
    for device in [Sbdf::from_devfn(0, 0, 0), Sbdf::from_devfn(0, 0xff, 0xff), Sbdf::from_devfn(0xffff, 3, 1)] {
        if let Some(frame) = super::mcfg::ecam_frame(data, device) {
            assert!(frame.0 < MAX_FRAME + (1 << 16), "{device}: {frame:?}");
        }
        super::reserved::is_reserved_for(data, device, |bridge| data.get(usize::from(bridge.devfn())).copied());
    }
}
