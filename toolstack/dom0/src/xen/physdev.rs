//! Vectors for guests through libxencall.
//!
//! libxenctrl's own `xc_physdev_map_pirq_msi` knows segment 0 and single vectors only. `PHYSDEVOP_*` are a stable interface, unlike
//! domctls, so the structs are written here.

use core::ffi::{c_int, c_uint, c_void};
use std::mem::{offset_of, size_of};
use std::ptr::NonNull;

use libloading::Library;
use xen_types::{DomId, Errno, Pirq, Sbdf};

use super::library::{check, last_errno, load, silent};
use super::{HypercallError, OpenError, Physdev, Vector, XenVersion};
use crate::library_symbol;

/// `__HYPERVISOR_physdev_op` (`xen/include/public/xen.h`).
const PHYSDEV_OP: c_uint = 33;
/// `PHYSDEVOP_map_pirq`, `PHYSDEVOP_restore_msi_ext`.
const MAP_PIRQ: u64 = 13;
const RESTORE_MSI_EXT: u64 = 27;
/// `MAP_PIRQ_TYPE_*`.
const MSI_SEG: c_int = 3;
const MULTI_MSI: c_int = 4;
/// "Xen chooses", for index and pirq.
const ANY: c_int = -1;

/// `struct physdev_map_pirq` (`xen/include/public/physdev.h`, 4.17).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MapPirq {
    domid: u16,
    kind: c_int,
    index: c_int,
    pirq: c_int,
    bus: c_int,
    devfn: c_int,
    entry_nr: c_int,
    table_base: u64,
}

const _: () = assert!(size_of::<MapPirq>() == 40);
const _: () = assert!(offset_of!(MapPirq, kind) == 4);
const _: () = assert!(offset_of!(MapPirq, index) == 8);
const _: () = assert!(offset_of!(MapPirq, pirq) == 12);
const _: () = assert!(offset_of!(MapPirq, bus) == 16);
const _: () = assert!(offset_of!(MapPirq, devfn) == 20);
const _: () = assert!(offset_of!(MapPirq, entry_nr) == 24);
const _: () = assert!(offset_of!(MapPirq, table_base) == 32);

/// `struct physdev_pci_device`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PciDevice {
    seg: u16,
    bus: u8,
    devfn: u8,
}

const _: () = assert!(size_of::<PciDevice>() == 4);
const _: () = assert!(offset_of!(PciDevice, bus) == 2);
const _: () = assert!(offset_of!(PciDevice, devfn) == 3);

impl MapPirq {
    fn new(domain: DomId, device: Sbdf, vector: Vector) -> Option<Self> {
        let (kind, entry_nr, table_base) = match vector {
            Vector::Msi { count: 1 } => (MSI_SEG, 1, 0),
            Vector::Msi { count } => (MULTI_MSI, c_int::try_from(count).ok()?, 0),
            Vector::Msix { entry, table_bar } => (MSI_SEG, c_int::from(entry), table_bar),
        };
        let bus = (u32::from(device.segment()) << 16 | u32::from(device.bus())).cast_signed();
        let devfn = c_int::from(device.devfn());
        Some(Self { domid: domain.0, kind, index: ANY, pirq: ANY, bus, devfn, entry_nr, table_base })
    }
}

/// The functions, looked up once.
struct Functions {
    close: unsafe extern "C" fn(NonNull<c_void>) -> c_int,
    call2: unsafe extern "C" fn(NonNull<c_void>, c_uint, u64, u64) -> c_int,
    free_buffer: unsafe extern "C" fn(NonNull<c_void>, NonNull<c_void>),
}

/// An open hypercall interface with room for one argument.
pub struct Libxencall {
    handle: NonNull<c_void>,
    /// Memory that a hypercall may use; `xencall_alloc_buffer` aligns it to a page.
    buffer: NonNull<c_void>,
    functions: Functions,
    /// Keeps the code behind `functions` mapped. Dropped last, as the last field.
    _library: Library,
}

/// Room for any of the structs.
const BUFFER_BYTES: usize = size_of::<MapPirq>();

impl Libxencall {
    /// Loads the library and opens the interface.
    ///
    /// # Errors
    /// No library, a library that lacks a function, or a kernel that refuses.
    pub fn open(version: XenVersion) -> Result<Self, OpenError> {
        let library = load("libxencall", version, &version.candidates("libxencall.so.1"))?;
        type Open = unsafe extern "C" fn(*mut c_void, c_uint) -> *mut c_void;
        type Alloc = unsafe extern "C" fn(NonNull<c_void>, usize) -> *mut c_void;
        let open: Open = library_symbol!(library, "xencall_open");
        let alloc: Alloc = library_symbol!(library, "xencall_alloc_buffer");
        let functions = Functions {
            close: library_symbol!(library, "xencall_close"),
            call2: library_symbol!(library, "xencall2"),
            free_buffer: library_symbol!(library, "xencall_free_buffer"),
        };
        // SAFETY: a logger that lives for ever (`silent`), no flags.
        let handle = NonNull::new(unsafe { open(silent(), 0) });
        let handle = handle.ok_or_else(|| OpenError::Refused("xencall_open", last_errno()))?;
        // SAFETY: `handle` was just opened.
        let Some(buffer) = NonNull::new(unsafe { alloc(handle, BUFFER_BYTES) }) else {
            let error = OpenError::Refused("xencall_alloc_buffer", last_errno());
            // SAFETY: `handle` is open and used nowhere after this.
            unsafe { (functions.close)(handle) };
            return Err(error);
        };
        Ok(Self { handle, buffer, functions, _library: library })
    }

    /// Makes one call with a copy of `argument`, and says what Xen left in it.
    fn physdev<T: Copy>(&self, call: &'static str, op: u64, argument: T) -> Result<T, HypercallError> {
        const { assert!(size_of::<T>() <= BUFFER_BYTES) };
        let place = self.buffer.cast::<T>();
        // SAFETY: the buffer is ours until `Drop`, page-aligned and large enough by the assertion; this type is not shared
        // between threads (it holds raw pointers) and nothing here is re-entered, so nobody else uses it now.
        unsafe { place.write(argument) };
        let address = place.as_ptr().expose_provenance() as u64; // pointers are 64 bits wide on x86-64
        // SAFETY: `handle` is open until `Drop`; `op` takes a pointer to a `T` that it may read and write, which `place` is.
        check(call, unsafe { (self.functions.call2)(self.handle, PHYSDEV_OP, op, address) })?;
        // SAFETY: as at the write; any bytes are a valid `T`, both structs consist of integers.
        Ok(unsafe { place.read() })
    }
}

impl Drop for Libxencall {
    fn drop(&mut self) {
        // SAFETY: both came from the library, and this is the last use of the buffer.
        unsafe { (self.functions.free_buffer)(self.handle, self.buffer) };
        // SAFETY: the last use of the handle.
        unsafe { (self.functions.close)(self.handle) };
    }
}

impl Physdev for Libxencall {
    fn map(&self, domain: DomId, device: Sbdf, vector: Vector) -> Result<Pirq, HypercallError> {
        let call = "PHYSDEVOP_map_pirq";
        let invalid = HypercallError { call, errno: Errno::EINVAL };
        let argument = MapPirq::new(domain, device, vector).ok_or(invalid)?;
        let answer = self.physdev(call, MAP_PIRQ, argument)?;
        u32::try_from(answer.pirq).map(Pirq).map_err(|_| invalid)
    }

    fn restore(&self, device: Sbdf) -> Result<(), HypercallError> {
        let argument = PciDevice { seg: device.segment(), bus: device.bus(), devfn: device.devfn() };
        self.physdev("PHYSDEVOP_restore_msi_ext", RESTORE_MSI_EXT, argument).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_asked_for_as_xen_reads_them() {
        let device = Sbdf::from_devfn(0x8001, 0x9e, 0x39);
        let asked = |vector| MapPirq::new(DomId(5), device, vector).unwrap();
        let one = asked(Vector::Msi { count: 1 });
        assert_eq!((one.domid, one.kind, one.index, one.pirq, one.table_base), (5, MSI_SEG, -1, -1, 0));
        assert_eq!((one.bus.cast_unsigned(), one.devfn), (0x8001_009e, 0x39));
        let block = asked(Vector::Msi { count: 8 });
        assert_eq!((block.kind, block.entry_nr, block.table_base), (MULTI_MSI, 8, 0));
        let entry = asked(Vector::Msix { entry: 7, table_bar: 0x8_c000_0000 });
        assert_eq!((entry.kind, entry.entry_nr, entry.table_base), (MSI_SEG, 7, 0x8_c000_0000));
    }
}
