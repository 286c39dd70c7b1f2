//! Event channels of stubs through libxenevtchn.

use core::ffi::{c_int, c_uint, c_void};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use libloading::Library;
use rustix::fs::OFlags;
use xen_types::{DomId, Errno, Port};

use super::library::{check, last_errno, load, silent};
use super::{HypercallError, OpenError, XenVersion};
use crate::library_symbol;

/// The functions, looked up once.
struct Functions {
    close: unsafe extern "C" fn(NonNull<c_void>) -> c_int,
    fd: unsafe extern "C" fn(NonNull<c_void>) -> c_int,
    notify: unsafe extern "C" fn(NonNull<c_void>, u32) -> c_int,
    bind_interdomain: unsafe extern "C" fn(NonNull<c_void>, u32, u32) -> c_int,
    unbind: unsafe extern "C" fn(NonNull<c_void>, u32) -> c_int,
    pending: unsafe extern "C" fn(NonNull<c_void>) -> c_int,
    unmask: unsafe extern "C" fn(NonNull<c_void>, u32) -> c_int,
}

/// An open `/dev/xen/evtchn`. What is bound is closed with it.
pub(super) struct Events {
    handle: NonNull<c_void>,
    functions: Functions,
    /// Keeps the code behind `functions` mapped. Dropped last, as the last field.
    _library: Library,
}

/// A port out of an answer where negative means that errno is set.
fn port(call: &'static str, result: c_int) -> Result<Port, HypercallError> {
    check(call, result)?;
    u32::try_from(result).map(Port).map_err(|_| HypercallError { call, errno: Errno::EINVAL })
}

// In every call below the handle is open until `Drop`; the rest are numbers.
impl Events {
    pub(super) fn open(version: XenVersion) -> Result<Self, OpenError> {
        let library = load("libxenevtchn", version, &version.candidates("libxenevtchn.so.1"))?;
        type Open = unsafe extern "C" fn(*mut c_void, c_uint) -> *mut c_void;
        let open: Open = library_symbol!(library, "xenevtchn_open");
        let functions = Functions {
            close: library_symbol!(library, "xenevtchn_close"),
            fd: library_symbol!(library, "xenevtchn_fd"),
            notify: library_symbol!(library, "xenevtchn_notify"),
            bind_interdomain: library_symbol!(library, "xenevtchn_bind_interdomain"),
            unbind: library_symbol!(library, "xenevtchn_unbind"),
            pending: library_symbol!(library, "xenevtchn_pending"),
            unmask: library_symbol!(library, "xenevtchn_unmask"),
        };
        // SAFETY: a logger that lives for ever (`silent`), no flags.
        let handle = NonNull::new(unsafe { open(silent(), 0) });
        let handle = handle.ok_or_else(|| OpenError::Refused("xenevtchn_open", last_errno()))?;
        let events = Self { handle, functions, _library: library };
        // `xenevtchn_pending` reads from the descriptor, and would wait there (xenevtchn.h).
        rustix::fs::fcntl_setfl(events.as_fd(), OFlags::NONBLOCK)
            .map_err(|error| OpenError::Refused("fcntl", Errno(error.raw_os_error())))?;
        Ok(events)
    }

    pub(super) fn bind(&self, domain: DomId, remote: Port) -> Result<Port, HypercallError> {
        // SAFETY: as above.
        let bound = unsafe { (self.functions.bind_interdomain)(self.handle, domain.0.into(), remote.0) };
        port("xenevtchn_bind_interdomain", bound)
    }

    pub(super) fn notify(&self, local: Port) -> Result<(), HypercallError> {
        // SAFETY: as above.
        check("xenevtchn_notify", unsafe { (self.functions.notify)(self.handle, local.0) })
    }

    pub(super) fn unbind(&self, local: Port) -> Result<(), HypercallError> {
        // SAFETY: as above.
        check("xenevtchn_unbind", unsafe { (self.functions.unbind)(self.handle, local.0) })
    }

    pub(super) fn next(&self) -> Result<Option<Port>, HypercallError> {
        // SAFETY: as above.
        let local = match port("xenevtchn_pending", unsafe { (self.functions.pending)(self.handle) }) {
            Err(HypercallError { errno: Errno::EAGAIN, .. }) => return Ok(None), // nothing is there
            outcome => outcome?,
        };
        // Before the caller looks at the page: what comes after that look raises a new event.
        // SAFETY: as above.
        check("xenevtchn_unmask", unsafe { (self.functions.unmask)(self.handle, local.0) })?;
        Ok(Some(local))
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: as above; only asks for a number.
        let fd = unsafe { (self.functions.fd)(self.handle) };
        // SAFETY: the descriptor belongs to the handle, which stays open as long as the borrow lives.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: `handle` came from xenevtchn_open and is used nowhere after this.
        unsafe { (self.functions.close)(self.handle) };
    }
}
