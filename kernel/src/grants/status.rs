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
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "GNTST {}", i32::from(*status)), // the names are in grant_table.h
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
