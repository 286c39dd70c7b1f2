//! Frames of other domains through libxenforeignmemory.

use core::ffi::{c_int, c_uint, c_void};
use std::ptr::{NonNull, null_mut};

use ::dom0::library_symbol;
use ::dom0::xen::library::{last_errno, load};
use libloading::Library;
use xen_types::{DomId, Errno, Mfn};

use super::images::Page;
use super::inspect::Table;
use super::{HypercallError, OpenError, XenVersion};

/// `PROT_READ`, `PROT_WRITE` (`sys/mman.h`).
const READ: c_int = 1;
const WRITE: c_int = 2;
const CALL: &str = "xenforeignmemory_map";

/// The functions, looked up once (`xenforeignmemory.h`, the same in 4.17 and 4.20).
struct Functions {
    close: unsafe extern "C" fn(NonNull<c_void>) -> c_int,
    map: unsafe extern "C" fn(NonNull<c_void>, u32, c_int, usize, *const u64, *mut c_int) -> *mut c_void,
    unmap: unsafe extern "C" fn(NonNull<c_void>, NonNull<c_void>, usize) -> c_int,
}

/// An open `/dev/xen/privcmd`.
pub(super) struct ForeignMemory {
    handle: NonNull<c_void>,
    functions: Functions,
    /// Keeps the code behind `functions` mapped. Dropped last, as the last field.
    _library: Library,
}

impl ForeignMemory {
    pub(super) fn open(version: XenVersion) -> Result<Self, OpenError> {
        let library = load("libxenforeignmemory", version, &version.candidates("libxenforeignmemory.so.1"))?;
        type Open = unsafe extern "C" fn(*mut c_void, c_uint) -> *mut c_void;
        let open: Open = library_symbol!(library, "xenforeignmemory_open");
        let functions = Functions {
            close: library_symbol!(library, "xenforeignmemory_close"),
            map: library_symbol!(library, "xenforeignmemory_map"),
            unmap: library_symbol!(library, "xenforeignmemory_unmap"),
        };
        // SAFETY: a null logger means "to stderr", no flags; both documented in xenforeignmemory.h.
        let handle = NonNull::new(unsafe { open(null_mut(), 0) });
        let handle = handle.ok_or_else(|| OpenError::Refused("xenforeignmemory_open", last_errno()))?;
        Ok(Self { handle, functions, _library: library })
    }

    /// Maps frames for the time of `act`, which gets the first address of as many pages and, for each, 0 or why it is not there.
    fn with_mapped<T>(
        &self,
        domain: DomId,
        rights: c_int,
        frames: &[Mfn],
        act: impl FnOnce(NonNull<Page>, &[c_int]) -> T,
    ) -> Result<T, HypercallError> {
        let numbers: Vec<u64> = frames.iter().map(|frame| frame.0).collect();
        let mut errors: Vec<c_int> = vec![0; frames.len()];
        // SAFETY: the handle is open until `Drop`; both arrays have as many elements as the call is told.
        let window = unsafe {
            (self.functions.map)(
                self.handle,
                domain.0.into(),
                rights,
                frames.len(),
                numbers.as_ptr(),
                errors.as_mut_ptr(),
            )
        };
        let Some(window) = NonNull::new(window) else {
            return Err(HypercallError { call: CALL, errno: last_errno() });
        };
        let done = act(window.cast(), &errors);
        // SAFETY: this window, with its length, of this very handle; nothing points into it any more.
        unsafe { (self.functions.unmap)(self.handle, window, frames.len()) };
        Ok(done)
    }

    /// Shows `look` a copy of each frame that can be mapped, and answers with the others.
    pub(super) fn show(
        &self,
        domain: DomId,
        frames: &[Mfn],
        look: &mut dyn FnMut(&Table),
    ) -> Result<Vec<Mfn>, HypercallError> {
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        self.with_mapped(domain, READ, frames, |window, errors| {
            let mut refused = Vec::new();
            for (index, (frame, error)) in frames.iter().zip(errors).enumerate() {
                if *error != 0 {
                    refused.push(*frame);
                    continue;
                }
                // SAFETY: the window has one page for each frame, in their order.
                let page = unsafe { window.cast::<Table>().add(index) };
                // SAFETY: this page is mapped, as no error was reported for it, until `unmap`; any bytes are a valid table. The read is
                // volatile because the page is another domain's.
                let copy = unsafe { page.read_volatile() };
                look(&copy);
            }
            refused
        })
    }

    /// Copies of frames; all of them can be mapped.
    pub(super) fn read(&self, domain: DomId, frames: &[Mfn]) -> Result<Vec<Page>, HypercallError> {
        self.with_mapped(domain, READ, frames, |window, errors| {
            all_mapped(errors)?;
            let copy = |index| {
                // SAFETY: the window has one page for each frame.
                let page = unsafe { window.add(index) };
                // SAFETY: as in `show`: mapped until `unmap`, and any bytes are a valid page.
                unsafe { page.read_volatile() }
            };
            Ok((0..frames.len()).map(copy).collect())
        })?
    }

    /// Fills frames, all or none.
    pub(super) fn write(&self, domain: DomId, pages: &[(Mfn, &Page)]) -> Result<(), HypercallError> {
        let frames: Vec<Mfn> = pages.iter().map(|(frame, _)| *frame).collect();
        self.with_mapped(domain, READ | WRITE, &frames, |window, errors| {
            all_mapped(errors)?;
            for (index, (_, page)) in pages.iter().enumerate() {
                // SAFETY: the window has one page for each frame, in their order.
                let place = unsafe { window.add(index) };
                // SAFETY: mapped for writing until `unmap`, and nothing of ours lies there. Volatile as in `show`.
                unsafe { place.write_volatile(**page) };
            }
            Ok(())
        })?
    }
}

/// The first error that is one.
fn all_mapped(errors: &[c_int]) -> Result<(), HypercallError> {
    match errors.iter().find(|error| **error != 0) {
        Some(error) => Err(HypercallError { call: CALL, errno: Errno(error.abs()) }),
        None => Ok(()),
    }
}

impl Drop for ForeignMemory {
    fn drop(&mut self) {
        // SAFETY: `handle` came from xenforeignmemory_open; every window was unmapped before `with_mapped` returned.
        unsafe { (self.functions.close)(self.handle) };
    }
}
