//! Pages of stubs through libxengnttab.

use core::ffi::{c_int, c_uint, c_void};
use std::ptr::NonNull;
use std::rc::Rc;

use libloading::Library;
use xen_types::{DomId, GrantRef};

use super::library::{last_errno, load, silent};
use super::{HypercallError, OpenError, XenVersion};
use crate::library_symbol;

/// `PROT_READ | PROT_WRITE` (`sys/mman.h`).
const READ_WRITE: c_int = 1 | 2;

/// The functions, looked up once.
struct Functions {
    close: unsafe extern "C" fn(NonNull<c_void>) -> c_int,
    map: unsafe extern "C" fn(NonNull<c_void>, u32, u32, c_int) -> *mut c_void,
    unmap: unsafe extern "C" fn(NonNull<c_void>, NonNull<c_void>, u32) -> c_int,
}

/// An open `/dev/xen/gntdev`.
struct Gnttab {
    handle: NonNull<c_void>,
    functions: Functions,
    /// Keeps the code behind `functions` mapped. Dropped last, as the last field.
    _library: Library,
}

impl Drop for Gnttab {
    fn drop(&mut self) {
        // SAFETY: `handle` came from xengnttab_open; every mapped page holds the `Rc` around us, so none is left.
        unsafe { (self.functions.close)(self.handle) };
    }
}

/// Maps pages.
pub(super) struct Grants(Rc<Gnttab>);

impl Grants {
    pub(super) fn open(version: XenVersion) -> Result<Self, OpenError> {
        let library = load("libxengnttab", version, &version.candidates("libxengnttab.so.1"))?;
        type Open = unsafe extern "C" fn(*mut c_void, c_uint) -> *mut c_void;
        let open: Open = library_symbol!(library, "xengnttab_open");
        let functions = Functions {
            close: library_symbol!(library, "xengnttab_close"),
            map: library_symbol!(library, "xengnttab_map_grant_ref"),
            unmap: library_symbol!(library, "xengnttab_unmap"),
        };
        // SAFETY: a logger that lives for ever (`silent`), no flags.
        let handle = NonNull::new(unsafe { open(silent(), 0) });
        let handle = handle.ok_or_else(|| OpenError::Refused("xengnttab_open", last_errno()))?;
        Ok(Self(Rc::new(Gnttab { handle, functions, _library: library })))
    }

    pub(super) fn map(&self, domain: DomId, grant: GrantRef) -> Result<MappedPage, HypercallError> {
        let gnttab = Rc::clone(&self.0);
        // SAFETY: `handle` is open while the `Rc` lives; the rest are numbers.
        let page = unsafe { (gnttab.functions.map)(gnttab.handle, domain.0.into(), grant.0, READ_WRITE) };
        match NonNull::new(page) {
            Some(page) => Ok(MappedPage { page, gnttab }),
            None => Err(HypercallError { call: "xengnttab_map_grant_ref", errno: last_errno() }),
        }
    }
}

/// A page of a stub in our address space until it is dropped. When the stub dies the page stays readable and writable; nobody is
/// at the other end any more.
pub struct MappedPage {
    page: NonNull<c_void>,
    gnttab: Rc<Gnttab>,
}

// SAFETY: `page` is one page that libxengnttab mapped readable and writable (mmap aligns it to 4096), stays where it is until
// `Drop`, and is handed out nowhere but through this trait, whose users access it atomically.
unsafe impl pciif::SharedPage for MappedPage {
    fn base(&self) -> NonNull<u8> {
        self.page.cast()
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `Grants::map` with this very handle, as one page, and unmapped only here.
        unsafe { (self.gnttab.functions.unmap)(self.gnttab.handle, self.page, 1) };
    }
}
