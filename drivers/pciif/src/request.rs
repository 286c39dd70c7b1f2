//! The private copy of a request, and the answer to it.

use core::fmt;

use xen_types::Sbdf;

use crate::layout::{MAX_VECTORS, MsixEntry};
use crate::{Command, ErrorCode};

/// A request as it was in the page at the moment of the copy. Every field is the frontend's word: nothing is checked yet.
///
/// The MSI-X entries are no part of it, because copying 512 bytes would cost every configuration read more than the read
/// itself; [`BackendPage::take_entries`](crate::BackendPage::take_entries) copies them for the one command that has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// `XEN_PCI_OP_*`; see [`Request::command`].
    pub cmd: u32,
    /// Virtual PCI segment.
    pub domain: u32,
    /// Virtual bus.
    pub bus: u32,
    /// Virtual device in bits 7:3, function in bits 2:0; more bits may be set.
    pub devfn: u32,
    /// Byte offset into the configuration space; may be negative.
    pub offset: i32,
    /// Bytes to read or write; may be anything.
    pub size: i32,
    /// Value to write, or number of MSI-X entries.
    pub value: u32,
    /// Something more for some commands.
    pub info: u32,
}

impl Request {
    /// A request about the function `address` with everything else zero.
    #[must_use]
    pub fn new(command: Command, address: Sbdf) -> Self {
        Self {
            cmd: command.raw(),
            domain: address.segment().into(),
            bus: address.bus().into(),
            devfn: address.devfn().into(),
            offset: 0,
            size: 0,
            value: 0,
            info: 0,
        }
    }

    /// A read of `size` bytes at `offset`.
    #[must_use]
    pub fn conf_read(address: Sbdf, offset: i32, size: i32) -> Self {
        Self { offset, size, ..Self::new(Command::ConfRead, address) }
    }

    /// A write of the low `size` bytes of `value` to `offset`.
    #[must_use]
    pub fn conf_write(address: Sbdf, offset: i32, size: i32, value: u32) -> Self {
        Self { offset, size, value, ..Self::new(Command::ConfWrite, address) }
    }

    /// The command, if the number is a known one.
    #[must_use]
    pub fn command(&self) -> Option<Command> {
        Command::from_raw(self.cmd)
    }
}

/// As much of a request as a read of configuration space has. Nothing of it is checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Virtual PCI segment.
    pub domain: u32,
    /// Virtual bus.
    pub bus: u32,
    /// Virtual device and function, as in [`Request`].
    pub devfn: u32,
    /// Byte offset into the configuration space.
    pub offset: i32,
    /// Bytes to read.
    pub size: i32,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command() {
            Some(command) => write!(f, "{command}")?,
            None => write!(f, "command {}", self.cmd)?,
        }
        // The packed form where it does not split into device and function.
        write!(f, " {:04x}:{:02x}", self.domain, self.bus)?;
        match self.devfn {
            0..=0xff => write!(f, ":{:02x}.{:x}", self.devfn >> 3, self.devfn & 7)?,
            _ => write!(f, " devfn {:#x}", self.devfn)?,
        }
        let command = self.command();
        if let Some(Command::ConfRead | Command::ConfWrite) = command {
            write!(f, " offset {:#x} size {}", self.offset, self.size)?;
        }
        match command {
            Some(Command::ConfWrite) => write!(f, " value {:#x}", self.value),
            Some(Command::EnableMsix) => write!(f, " entries {}", self.value),
            _ => Ok(()),
        }
    }
}

/// The private copy of a request's MSI-X entries.
#[derive(Clone, Copy, Debug)]
pub struct MsixEntries {
    pub(crate) entries: [MsixEntry; MAX_VECTORS],
    pub(crate) len: usize,
}

impl MsixEntries {
    /// The entries that the request counts.
    #[must_use]
    pub fn as_slice(&self) -> &[MsixEntry] {
        self.entries.get(..self.len).unwrap_or(&self.entries)
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// How it ended.
    pub err: ErrorCode,
    /// The value read, or the pirq.
    pub value: u32,
    /// For the first MSI-X entries in the request's order: the pirqs. Empty for every other command.
    pub vectors: &'a [u16],
}

impl Reply<'static> {
    /// Done, with the value read, the pirq, or 0 where there is nothing to tell.
    #[must_use]
    pub const fn success(value: u32) -> Self {
        Self { err: ErrorCode::Success, value, vectors: &[] }
    }

    /// Not done. `value` is what a frontend sees that looks at it nevertheless.
    #[must_use]
    pub const fn error(err: ErrorCode, value: u32) -> Self {
        Self { err, value, vectors: &[] }
    }

    /// The answer about a function that is not there. All ones, as real hardware answers, for frontends that look at the
    /// value and not at the code (Linux: `pcifront_bus_read`, `drivers/pci/xen-pcifront.c`).
    pub const NO_DEVICE: Self = Self::error(ErrorCode::DevNotFound, u32::MAX);
}
