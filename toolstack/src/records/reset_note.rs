//! The note that a device was reset and quiesced since somebody had it, so that the next guest gets it without another reset.

use pcidom_abi::DeviceNode;
use xen_types::Sbdf;

use crate::error::Error;
use crate::host::Host;
use crate::store::Change;

fn reset_node(device: Sbdf) -> String {
    DeviceNode::Reset.of(device)
}

/// Notes that a device which nobody has any more was reset and quiesced, or that it could not be. [`crate::records::device_table::reserve`] forgets it: from then on
/// somebody may have used the device.
pub(crate) fn note_reset(device: Sbdf, is_done: bool) -> Change {
    if is_done { Change::write(reset_node(device), DeviceNode::RESET_DONE) } else { forget_reset(device) }
}

/// Somebody may have used the device since its reset.
pub(crate) fn forget_reset(device: Sbdf) -> Change {
    Change::remove(reset_node(device))
}

/// Whether the device was reset since it came into the pool, and is there still.
pub(crate) fn was_reset(host: &Host, device: Sbdf) -> Result<bool, Error> {
    host.exists(&reset_node(device))
}
