//! The state in which a device changes hands.

use xen_types::Sbdf;

use crate::error::Error;
use crate::host::Host;
use crate::sysfs::{Decode, ResetOutcome};

/// Resets a device if that is possible, and leaves it quiet. That it is not possible is not rare and no reason to stop (libxl
/// does not even tell).
pub(crate) fn reset(host: &Host, device: Sbdf, decode: Decode) -> Result<ResetOutcome, Error> {
    // Linux waits more than a minute for a device to come back from its reset, and nothing can interrupt it.
    if host.sysfs.config(device)?.is_gone()? {
        host.note(&format!("{device} is gone and was not reset"));
        return Ok(ResetOutcome::Done);
    }
    let outcome = host.sysfs.reset(device).unwrap_or_else(|error| {
        host.note(&format!("{device} was not reset: {error}"));
        ResetOutcome::Done
    });
    host.sysfs.config(device)?.quiesce(decode)?;
    Ok(outcome)
}
