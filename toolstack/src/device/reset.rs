//! Resets a device between two owners.

use xen_types::Sbdf;

use crate::device::state;
use crate::error::{Error, HostError};
use crate::host::Host;
use crate::records::reset_note;
use crate::sysfs::{ConfigWalk as _, Decode};

/// How a reset ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    Done,
    /// Linux knows no way to reset this function alone.
    NoMethod,
    /// The device is gone, or did not come back. That was told.
    Failed,
}

/// A reset under way: nearly all of it is time that the device is given, a tenth of a second (PCIe 5.0 §6.6.2).
pub(crate) struct Resetting {
    device: Sbdf,
    decode: Decode,
    end: End,
}

enum End {
    Known(Reset),
    Awaited(Box<dyn FnOnce() -> Result<(), Error>>),
}

/// Resets a device if that is possible, and leaves it quiesced. That it is not possible is not rare and no reason to stop (libxl
/// does not even tell).
pub(crate) fn reset(host: &Host, device: Sbdf, decode: Decode) -> Result<Reset, Error> {
    Resetting::begin(host, device, decode)?.finish(host)
}

/// As [`reset`], where the device has not been reset since somebody had it. True where that was so: it is quiesced already, and
/// its registers say that nobody has touched it.
pub(crate) fn is_fresh(host: &Host, device: Sbdf, decode: Decode) -> Result<bool, Error> {
    Ok(reset_note::was_reset(host, device)? && state::is_quiesced(&host.sysfs.config(device)?, decode)?)
}

impl Resetting {
    pub(crate) fn begin(host: &Host, device: Sbdf, decode: Decode) -> Result<Self, Error> {
        // Linux waits more than a minute for a device to come back from its reset, and nothing can interrupt it.
        let end = if state::is_gone(&host.sysfs.config(device)?)? {
            host.note(&format!("{device} is gone and was not reset"));
            End::Known(Reset::Failed)
        } else {
            match host.sysfs.begin_reset(device) {
                Some(wait) => End::Awaited(Box::new(wait)),
                None => End::Known(Reset::NoMethod),
            }
        };
        Ok(Self { device, decode, end })
    }

    /// Waits for its end, and quiesces the device.
    ///
    /// # Errors
    /// [`HostError::ResetHangs`] where the end does not come.
    pub(crate) fn finish(self, host: &Host) -> Result<Reset, Error> {
        let Self { device, decode, end } = self;
        let reset = match end {
            End::Known(reset) => reset,
            End::Awaited(wait) => match wait() {
                Ok(()) => Reset::Done,
                // Its registers are out of reach.
                Err(error @ Error::Host(HostError::ResetHangs(_))) => return Err(error),
                Err(error) => {
                    host.note(&format!("{device} was not reset: {error}"));
                    Reset::Failed
                }
            },
        };
        // It may have been pulled out meanwhile.
        if !host.sysfs.exists(device) {
            return Ok(Reset::Failed);
        }
        host.sysfs.config(device)?.walk_and_quiesce(decode)?;
        Ok(reset)
    }
}
