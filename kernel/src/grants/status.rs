//! Why a grant operation failed.

use core::fmt;
use xen_types::Errno;

/// A failed grant operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// Xen refused this entry: a negative `GNTST_*` status (`grant_table.h`).
    Status(i16),
    /// The whole hypercall failed, or there was no room to map.
    Call(Errno),
}

impl GrantError {
    pub(super) fn check(status: i16) -> Result<(), Self> {
        if status == 0 { Ok(()) } else { Err(Self::Status(status)) }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Status(-2) => "bad domain",
            Self::Status(-3) => "bad grant reference",
            Self::Status(-4) => "bad handle",
            Self::Status(-5) => "bad virtual address",
            Self::Status(-7) => "no space",
            Self::Status(-8) => "permission denied",
            Self::Status(-9) => "bad page",
            Self::Status(-12) => "try again",
            _ => "general error",
        }
    }
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{} (GNTST {status})", self.text()),
            Self::Call(errno) => fmt::Display::fmt(errno, f),
        }
    }
}

impl From<GrantError> for Errno {
    /// The nearest errno, for callers that know no grant statuses.
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::Call(errno) => errno,
            GrantError::Status(-2) => Self::ENODEV,
            GrantError::Status(-7) => Self::ENOSPC,
            GrantError::Status(-8) => Self::EPERM,
            GrantError::Status(-12) => Self::EAGAIN,
            GrantError::Status(_) => Self::EINVAL,
        }
    }
}
