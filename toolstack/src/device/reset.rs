//! Resets a device between two owners, and writes back what it had before any of them.

use std::time::Duration;

use xen_types::{Errno, Sbdf};

use crate::device::{pristine, state};
use crate::error::{Error, HostError};
use crate::host::Host;
use crate::records::reset_note::{self, ResetNote};
use crate::sysfs::{ConfigWalk as _, Decode};

/// When a device that reads as ones after its reset is looked at again. Linux has waited before, but for some kinds of devices (PCIe 5.0 §6.6.1 gives
/// them a second).
const LOOK_AGAIN: [Duration; 3] = [Duration::from_millis(10), Duration::from_millis(100), Duration::from_secs(1)];

/// How a reset ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    /// With these methods, as Linux calls them: the one that it was, or several where Linux chose. Empty where it does not tell.
    Done(String),
    /// Linux knows no way to reset this function alone.
    NoMethod,
    /// No method succeeded, or the device was not there. That was told.
    Failed,
    /// Linux says that the device was reset, and it answers with ones. That was told.
    Lost,
}

impl Reset {
    /// As it is noted.
    pub(crate) fn note(&self) -> ResetNote {
        match self {
            Self::Done(methods) => ResetNote::done(methods),
            Self::NoMethod => ResetNote::NO_METHOD,
            Self::Failed => ResetNote::FAILED,
            Self::Lost => ResetNote::LOST,
        }
    }
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
        // Its guest may have reset it just now.
        let end = if !answers(host, device)? {
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

    /// Waits for its end, writes back what the device had when it came into its pool, and quiesces it.
    ///
    /// # Errors
    /// [`HostError::ResetHangs`] where the end does not come.
    pub(crate) fn finish(self, host: &Host) -> Result<Reset, Error> {
        let Self { device, decode, end } = self;
        let reset = match end {
            End::Known(reset) => reset,
            End::Awaited(wait) => in_turn(host, device, wait())?,
        };
        // It may have been pulled out meanwhile.
        if !host.sysfs.exists(device) {
            return Ok(Reset::Failed);
        }
        let config = host.sysfs.config(device)?;
        pristine::restore(host, device, &config, matches!(reset, Reset::Done(_)))?;
        config.walk_and_quiesce(decode)?;
        Ok(reset)
    }
}

/// What one method came to.
enum Outcome {
    Reset,
    /// There is no such method after all, or it cannot be had now. Told by the kernel; `pci_reset_function` says both.
    Unusable,
    Failed(Error),
    Lost,
}

fn outcome(host: &Host, device: Sbdf, end: Result<(), Error>) -> Result<Outcome, Error> {
    const ENOTTY: Errno = Errno(25);
    match end {
        Ok(()) if !host.sysfs.exists(device) || answers(host, device)? => Ok(Outcome::Reset),
        Ok(()) => Ok(Outcome::Lost),
        // Its registers are out of reach.
        Err(error @ Error::Host(HostError::ResetHangs(_))) => Err(error),
        Err(Error::Host(HostError::File { source, .. }))
            if [ENOTTY, Errno::EAGAIN].iter().any(|errno| source.raw_os_error() == Some(errno.0)) =>
        {
            Ok(Outcome::Unusable)
        }
        Err(error) => Ok(Outcome::Failed(error)),
    }
}

/// Looks what came of the reset as Linux does it by itself; if that is nothing, tries the methods that Linux knows one by one.
fn in_turn(host: &Host, device: Sbdf, end: Result<(), Error>) -> Result<Reset, Error> {
    let methods = host.sysfs.reset_methods_in_turn(device);
    let mut last = outcome(host, device, end)?;
    if matches!(last, Outcome::Reset) {
        return Ok(Reset::Done(methods.join(",")));
    }
    // With one there is nothing else to try.
    let others = if methods.len() > 1 { methods.as_slice() } else { &[] };
    let order = methods.join(" ");
    for method in others {
        let tried = host.sysfs.set_reset_methods(device, method).and_then(|()| match host.sysfs.begin_reset(device) {
            Some(wait) => outcome(host, device, wait()),
            None => Ok(Outcome::Unusable),
        });
        host.sysfs.set_reset_methods(device, &order)?;
        match tried? {
            Outcome::Reset => return Ok(Reset::Done(method.clone())),
            // That it does not answer counts more than that another method cannot be had.
            Outcome::Unusable => {}
            outcome => last = outcome,
        }
    }
    Ok(match last {
        Outcome::Unusable | Outcome::Reset => Reset::NoMethod,
        Outcome::Failed(error) => {
            host.note(&format!("{device} was not reset: {error}"));
            Reset::Failed
        }
        Outcome::Lost => {
            host.note(&format!("{device} answers with ones since its reset: a power cycle may bring it back"));
            Reset::Lost
        }
    })
}

/// Whether the device answers, or comes to it within a second.
pub(crate) fn answers(host: &Host, device: Sbdf) -> Result<bool, Error> {
    let is_there = || Ok::<_, Error>(!state::is_gone(&host.sysfs.config(device)?)?);
    for pause in LOOK_AGAIN {
        if is_there()? {
            return Ok(true);
        }
        host.pause(pause);
    }
    is_there()
}
