//! Result codes of a request.

use core::fmt;

/// `XEN_PCI_ERR_*`, the numbers that every frontend knows. Linux's backend leaks raw errno values beside them; ours never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum ErrorCode {
    /// Done.
    Success = 0,
    /// No such function on the virtual bus. Linux turns this into all-ones, NetBSD and mini-os test for it.
    DevNotFound = -1,
    /// Offset or size is not a register of this configuration space.
    InvalidOffset = -2,
    /// The backend's policy says no, or there is no broker.
    AccessDenied = -3,
    /// Not a command that this backend knows.
    NotImplemented = -4,
    /// Tried and failed.
    OpFailed = -5,
}

impl ErrorCode {
    /// Every code, from success downwards.
    pub const ALL: [Self; 6] = [
        Self::Success,
        Self::DevNotFound,
        Self::InvalidOffset,
        Self::AccessDenied,
        Self::NotImplemented,
        Self::OpFailed,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self as i32
    }

    /// The code with this number on the wire; `None` for numbers that `pciif.h` does not define.
    #[must_use]
    pub fn from_raw(err: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.raw() == err)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::DevNotFound => "dev_not_found",
            Self::InvalidOffset => "invalid_offset",
            Self::AccessDenied => "access_denied",
            Self::NotImplemented => "not_implemented",
            Self::OpFailed => "op_failed",
        })
    }
}
