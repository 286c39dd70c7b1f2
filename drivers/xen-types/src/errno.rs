//! Xen's error numbers (`xen/include/public/errno.h`), which are Linux's on x86.

use core::fmt;

/// A positive errno value as a hypercall returned it (negated) or a grant or xenstore operation reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Self = Self($number);)*
        }

        /// Each number that has a name here, with the name.
        const NAMES: &[(i32, &str)] = &[$(($number, stringify!($name))),*];
    };
}

errnos! {
    /// Operation not permitted.
    EPERM = 1;
    /// No such entry.
    ENOENT = 2;
    /// I/O error.
    EIO = 5;
    /// No such device or address.
    ENXIO = 6;
    /// Too big.
    E2BIG = 7;
    /// Try again.
    EAGAIN = 11;
    /// Out of memory.
    ENOMEM = 12;
    /// Permission denied.
    EACCES = 13;
    /// Bad address.
    EFAULT = 14;
    /// Device or resource busy.
    EBUSY = 16;
    /// Already exists.
    EEXIST = 17;
    /// No such device.
    ENODEV = 19;
    /// Is a directory.
    EISDIR = 21;
    /// Invalid argument.
    EINVAL = 22;
    /// No space left.
    ENOSPC = 28;
    /// Read-only.
    EROFS = 30;
    /// Function not implemented.
    ENOSYS = 38;
    /// Not empty.
    ENOTEMPTY = 39;
    /// No data available.
    ENODATA = 61;
    /// Operation not supported.
    EOPNOTSUPP = 95;
    /// Already connected.
    EISCONN = 106;
}

impl Errno {
    /// The symbolic name where it is one of the numbers that Xen or xenstored return.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
    }

    /// The number of this name, as xenstored answers; `None` where the name is not one of [`Errno::name`].
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        NAMES.iter().find(|(_, known)| known.as_bytes() == name).map(|(number, _)| Self(*number))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_read_back() {
        for (number, name) in NAMES {
            assert_eq!(Errno(*number).name(), Some(*name));
            assert_eq!(Errno::from_name(name.as_bytes()), Some(Errno(*number)));
        }
        assert_eq!((Errno::EISCONN.0, Errno::EISCONN.name()), (106, Some("EISCONN")));
        assert_eq!((Errno(0).name(), Errno::from_name(b"EOK")), (None, None));
    }
}
