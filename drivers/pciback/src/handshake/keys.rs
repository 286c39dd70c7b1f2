//! The three keys that a frontend publishes before it goes to Initialised.

use xen_types::{Errno, GrantRef, Port};
use xenstore::{number, text};

/// The frontend's keys, read once. Two readings compare equal when they ask for the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// `pci-op-ref`: the grant of the shared page.
    pub(crate) gref: GrantRef,
    /// `event-channel`: the frontend's unbound port.
    pub(crate) port: Port,
}

/// Why the keys cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidKey {
    /// A key is not there.
    #[error("the frontend has not written {0}")]
    Missing(&'static str),
    /// A key is not the decimal number it must be.
    #[error("{0} is not a number")]
    NotANumber(&'static str),
    /// `magic` names another layout of the page.
    #[error("magic is not {}", pciif::MAGIC)]
    Magic,
}

impl InvalidKey {
    /// The errno for the error node; the same that Linux's backend gives.
    #[must_use]
    pub(crate) const fn errno(self) -> Errno {
        match self {
            Self::Missing(_) => Errno::ENOENT,
            Self::NotANumber(_) => Errno::EINVAL,
            Self::Magic => Errno::EFAULT,
        }
    }
}

impl Keys {
    /// Reads the three values, each `None` where there is no node.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub(crate) fn read(gref: Option<&[u8]>, port: Option<&[u8]>, magic: Option<&[u8]>) -> Result<Self, InvalidKey> {
        let number = |name, value: Option<&[u8]>| {
            let value = value.ok_or(InvalidKey::Missing(name))?;
            number::decimal(value).map_err(|_| InvalidKey::NotANumber(name))
        };
        let gref = GrantRef(number("pci-op-ref", gref)?);
        let port = Port(number("event-channel", port)?);
        let magic = magic.ok_or(InvalidKey::Missing("magic"))?;
        if text(magic) != Ok(pciif::MAGIC) {
            return Err(InvalidKey::Magic);
        }
        Ok(Self { gref, port })
    }
}
