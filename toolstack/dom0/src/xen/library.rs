//! Xen's libraries, loaded at run time.

use core::ffi::{c_int, c_void};
use std::path::PathBuf;

use libloading::Library;
use xen_types::Errno;

use super::{HypercallError, XenVersion};

/// Why there is no hypervisor to talk to.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such file, or none that can be loaded.
    #[error("no {name} of Xen {version} found (tried {tried}; last: {last})")]
    NoLibrary {
        /// The library.
        name: &'static str,
        /// The release that it was looked for in.
        version: XenVersion,
        /// Where it was looked for.
        tried: String,
        /// What the loader said at last.
        last: String,
    },
    /// The library lacks a function.
    #[error("Xen's library has no {0}")]
    NoSymbol(&'static str),
    /// A call that opens something was refused.
    #[error("{0}: {1}")]
    Refused(&'static str, Errno),
}

/// Looks a function up; the type comes from the place that takes it.
#[macro_export]
macro_rules! library_symbol {
    ($library:expr, $name:literal) => {{
        let (library, name) = (&$library, concat!($name, "\0").as_bytes());
        // SAFETY: the type at the receiving field is the prototype in the library's header (4.17; xenctrl.h widened as the
        // module's text says); the pointer lives beside the `Library`, which keeps the code loaded.
        *unsafe { library.get(name) }.map_err(|_| $crate::xen::OpenError::NoSymbol($name))?
    }};
}

/// `struct xentoollog_logger` (`xentoollog.h`): three functions that return nothing. One that takes no arguments may stand for each of
/// them, because on x86-64 the caller cleans up (System V ABI §3.2.3).
static SILENT: [extern "C" fn(); 3] = [nothing; 3];

extern "C" fn nothing() {}

/// The logger for a library's `open`: it writes nothing. What fails is told by errno, and our own log counts what comes again; by
/// themselves the libraries write a line to stderr for each call that fails, as often as a stub can have one fail.
pub(super) fn silent() -> *mut c_void {
    // The libraries keep the pointer and call through it; they write nothing to what it points at.
    (&raw const SILENT).cast_mut().cast()
}

/// The errno that the C library left behind.
#[must_use]
pub fn last_errno() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(Errno::EIO.0))
}

/// Turns "negative means errno is set" into a result.
///
/// # Errors
/// With that errno.
pub fn check(call: &'static str, result: c_int) -> Result<(), HypercallError> {
    if result < 0 { Err(HypercallError { call, errno: last_errno() }) } else { Ok(()) }
}

/// Loads the first library of these that is there.
///
/// # Errors
/// [`OpenError::NoLibrary`] when none is.
pub fn load(name: &'static str, version: XenVersion, candidates: &[PathBuf]) -> Result<Library, OpenError> {
    let mut last = String::new();
    for path in candidates {
        // SAFETY: loading runs the library's initialisers; Xen's libraries and what they need have none that depend on us.
        match unsafe { Library::new(path) } {
            Ok(library) => return Ok(library),
            Err(error) => last = error.to_string(),
        }
    }
    let tried = candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    Err(OpenError::NoLibrary { name, version, tried, last })
}
