//! The structs of `xen/include/public/io/pciif.h` (Xen 4.17 and 4.20, the same since 2006), native byte order, no padding.
//!
//! They describe; nothing of this type ever exists, because the page may change under any reference to it. The accessors
//! take their offsets from here with [`offset_of!`]. `tests/header.rs` compares every line with Xen's own header.

use core::mem::{offset_of, size_of};

/// `SH_INFO_MAX_VEC`: MSI-X entries that fit in a request.
pub const MAX_VECTORS: usize = 128;

/// `struct xen_msix_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MsixEntry {
    /// From the backend: the pirq in the frontend's own numbering. Linux puts 0xffff there in its request.
    pub vector: u16,
    /// From the frontend: index into the device's MSI-X table.
    pub entry: u16,
}

/// `struct xen_pci_op`: a request from the frontend and its answer.
#[repr(C)]
#[derive(Debug)]
pub struct Op {
    /// From the frontend: `XEN_PCI_OP_*`, see [`Command`](crate::Command).
    pub cmd: u32,
    /// From the backend: `XEN_PCI_ERR_*`, see [`ErrorCode`](crate::ErrorCode).
    pub err: i32,
    /// From the frontend: virtual PCI segment.
    pub domain: u32,
    /// From the frontend: virtual bus.
    pub bus: u32,
    /// From the frontend: virtual device in bits 7:3, function in bits 2:0.
    pub devfn: u32,
    /// From the frontend: byte offset into the configuration space.
    pub offset: i32,
    /// From the frontend: width of the access in bytes.
    pub size: i32,
    /// Value to write, or number of MSI-X entries; from the backend: value read, or pirq.
    pub value: u32,
    /// Something more for some commands.
    pub info: u32,
    /// MSI-X entries, the first [`value`](Self::value) of them.
    pub msix_entries: [MsixEntry; MAX_VECTORS],
}

/// `struct xen_pcie_aer_op`: a question of the backend to the frontend about a device error.
#[repr(C)]
#[derive(Debug)]
pub struct AerOp {
    /// From the backend: one of the `aer` commands of [`Command`](crate::Command).
    pub cmd: u32,
    /// From the backend the channel's state, from the frontend its answer.
    pub err: i32,
    /// From the backend: virtual PCI segment.
    pub domain: u32,
    /// From the backend: virtual bus.
    pub bus: u32,
    /// From the backend: virtual device and function.
    pub devfn: u32,
}

/// `struct xen_pci_sharedinfo`: the page. What follows these 572 bytes is unused, and not cleared by every frontend.
#[repr(C)]
#[derive(Debug)]
pub struct SharedInfo {
    /// [`Flags`](crate::Flags); both sides change single bits atomically.
    pub flags: u32,
    /// The frontend's request.
    pub op: Op,
    /// The backend's question.
    pub aer_op: AerOp,
}

const _: () = assert!(size_of::<MsixEntry>() == 4);
const _: () = assert!(offset_of!(MsixEntry, vector) == 0);
const _: () = assert!(offset_of!(MsixEntry, entry) == 2);

const _: () = assert!(size_of::<Op>() == 548);
const _: () = assert!(offset_of!(Op, cmd) == 0);
const _: () = assert!(offset_of!(Op, err) == 4);
const _: () = assert!(offset_of!(Op, domain) == 8);
const _: () = assert!(offset_of!(Op, bus) == 12);
const _: () = assert!(offset_of!(Op, devfn) == 16);
const _: () = assert!(offset_of!(Op, offset) == 20);
const _: () = assert!(offset_of!(Op, size) == 24);
const _: () = assert!(offset_of!(Op, value) == 28);
const _: () = assert!(offset_of!(Op, info) == 32);
const _: () = assert!(offset_of!(Op, msix_entries) == 36);

const _: () = assert!(size_of::<AerOp>() == 20);
const _: () = assert!(offset_of!(AerOp, cmd) == 0);
const _: () = assert!(offset_of!(AerOp, err) == 4);
const _: () = assert!(offset_of!(AerOp, domain) == 8);
const _: () = assert!(offset_of!(AerOp, bus) == 12);
const _: () = assert!(offset_of!(AerOp, devfn) == 16);

const _: () = assert!(size_of::<SharedInfo>() == 572);
const _: () = assert!(offset_of!(SharedInfo, flags) == 0);
const _: () = assert!(offset_of!(SharedInfo, op) == 4);
const _: () = assert!(offset_of!(SharedInfo, aer_op) == 552);
