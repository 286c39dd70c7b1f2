//! The note of a free device's last reset: whether the next guest gets it without another one, and what people see of it in `list`.

use std::borrow::Cow;
use std::fmt;

use pcidom_abi::DeviceNode;
use xen_types::Sbdf;

use crate::error::Error;
use crate::host::Host;
use crate::store::Change;

/// What the node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResetNote(Cow<'static, str>);

impl ResetNote {
    pub(crate) const NO_METHOD: Self = Self(Cow::Borrowed(DeviceNode::RESET_NO_METHOD));
    pub(crate) const FAILED: Self = Self(Cow::Borrowed(DeviceNode::RESET_FAILED));
    pub(crate) const LOST: Self = Self(Cow::Borrowed(DeviceNode::RESET_LOST));

    /// By these methods, as Linux calls them; an empty text where that is not known.
    pub(crate) fn done(methods: &str) -> Self {
        Self(format!("{} {methods}", DeviceNode::RESET_DONE).trim().to_owned().into())
    }

    fn is_done(&self) -> bool {
        self.0.split(' ').next() == Some(DeviceNode::RESET_DONE)
    }
}

impl fmt::Display for ResetNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn reset_node(device: Sbdf) -> String {
    DeviceNode::Reset.of(device)
}

/// What is noted of a device.
pub(crate) fn load(host: &Host, device: Sbdf) -> Result<Option<ResetNote>, Error> {
    Ok(host.read(&reset_node(device))?.map(|text| ResetNote(text.into())))
}

/// Notes what the reset of a device came to that nobody has any more; `None` where somebody may have used it since.
/// [`crate::records::device_table::reserve`] forgets it: from then on somebody may have used the device.
pub(crate) fn note_reset(device: Sbdf, note: Option<&ResetNote>) -> Change {
    note.map_or_else(|| forget_reset(device), |note| Change::write(reset_node(device), note))
}

/// Somebody may have used the device since its reset.
pub(crate) fn forget_reset(device: Sbdf) -> Change {
    Change::remove(reset_node(device))
}

/// Whether the device was reset since it came into the pool, and is there still.
pub(crate) fn was_reset(host: &Host, device: Sbdf) -> Result<bool, Error> {
    Ok(load(host, device)?.is_some_and(|note| note.is_done()))
}
