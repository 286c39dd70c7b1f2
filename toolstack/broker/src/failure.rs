//! Failures of requests, with the codes for the stub and the lines for the log.

use pciif::ErrorCode;
use xen_types::Errno;

use dom0::Error;
use dom0::xen::HypercallError;

/// A request that failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The device is not this stub's, or no guest has it.
    NotYours,
    /// Offset or size is no register.
    BadAccess,
    /// A write that is not on the list.
    NotAllowed(&'static str),
    /// What may be done with the device is not known.
    NoList,
    /// Another card is in the device's slot.
    Replaced,
    /// Not a command.
    UnknownCommand,
    /// Makes no sense for this device.
    Refused(&'static str),
    /// A clean-up of stale vectors is under way.
    Swept,
    /// Xen did not do it.
    Xen(HypercallError),
    /// dom0 did not do it.
    Host(Error),
}

impl Failure {
    /// The number of `pciif.h`.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NotYours | Self::Replaced => ErrorCode::DevNotFound,
            Self::BadAccess => ErrorCode::InvalidOffset,
            Self::NotAllowed(_) => ErrorCode::AccessDenied,
            Self::UnknownCommand => ErrorCode::NotImplemented,
            Self::Refused(_) | Self::NoList | Self::Swept | Self::Xen(_) | Self::Host(_) => ErrorCode::OpFailed,
        }
    }

    /// The number behind it.
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Xen(error) => error.errno,
            Self::Host(Error::Hypercall { source, .. }) => source.errno,
            Self::Host(_) => Errno::EIO,
            Self::Swept => Errno::EBUSY,
            _ => Errno::EPERM,
        }
    }

    /// The reason by which the log groups failures.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotYours => "asked for a device that it does not hold for a guest",
            Self::BadAccess => "asked for a write to no register",
            Self::NotAllowed(what) | Self::Refused(what) => what,
            Self::NoList => {
                "asked for a device whose permitted-writes node is missing or of another version: detach and attach it"
            }
            Self::Replaced => "asked for a device in whose place there is another card: detach and attach it",
            Self::UnknownCommand => "sent an unknown command",
            Self::Swept => "asked for vectors while those of a dead broker were cleared away",
            Self::Xen(error) if error.errno == Errno::ENOSPC => "asked for more vectors than its guest may have",
            Self::Xen(_) => "was refused by Xen",
            Self::Host(_) => "was failed by dom0",
        }
    }

    /// More than the reason, where there is more.
    pub(crate) fn detail(&self) -> Option<String> {
        const HINT: &str = "extra_guest_irqs= on Xen's command line raises the limit";
        match self {
            Self::Xen(error) if error.errno == Errno::ENOSPC => Some(format!("{error}: {HINT}")),
            Self::Xen(error) => Some(error.to_string()),
            Self::Host(error) => Some(error.to_string()),
            _ => None,
        }
    }
}

impl From<HypercallError> for Failure {
    fn from(error: HypercallError) -> Self {
        Self::Xen(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Host(error)
    }
}
