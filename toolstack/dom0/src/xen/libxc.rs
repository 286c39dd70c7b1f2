//! What the broker asks libxenctrl for, and the commands too. It is loaded in the release of the running Xen.
//!
//! Domctls are a private interface between one Xen and its own libraries, so the library is not linked: one binary serves
//! every release. The functions used have kept their shape since 4.13.

use core::ffi::{c_int, c_uint, c_void};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::time::Duration;

use libloading::Library;
use xen_types::{DomId, Errno, Pirq, Sbdf};

use super::library::{check, last_errno, load, silent};
use super::{DomainInfo, HypercallError, Hypervisor, OpenError, XenVersion};
use crate::library_symbol;

/// `xc_interface *`.
pub type Handle = NonNull<c_void>;
/// Room for one `xc_domaininfo_t` (112 bytes in 4.17), whatever later releases add.
type Scratch = [u32; 1024];

/// `XEN_DOMINF_*` (`xen/include/public/domctl.h`).
const DYING: u32 = 1 << 0;
const HVM_GUEST: u32 = 1 << 1;
const SHUTDOWN: u32 = 1 << 2;
const PAUSED: u32 = 1 << 3;

/// `domid_t domain` is the low half of the first word of `struct xen_domctl_getdomaininfo`, `flags` the second word.
const DOMAININFO_DOMAIN: usize = 0;
const DOMAININFO_FLAGS: usize = 1;
/// `uint64_aligned_t cpu_time`, in nanoseconds: byte 56, behind six numbers of 64 bits (from 4.12 to 4.20).
const DOMAININFO_CPU_TIME: usize = 14;

/// The functions, looked up once.
struct Functions {
    close: unsafe extern "C" fn(Handle) -> c_int,
    getinfolist: unsafe extern "C" fn(Handle, u32, c_uint, *mut Scratch) -> c_int,
    unmap_pirq: unsafe extern "C" fn(Handle, u32, c_int) -> c_int,
    test_assign: unsafe extern "C" fn(Handle, u32, u32) -> c_int,
    send_trigger: unsafe extern "C" fn(Handle, u32, u32, u32) -> c_int,
}

/// An open hypervisor interface.
pub struct Libxc {
    handle: Handle,
    functions: Functions,
    version: XenVersion,
    /// Keeps the code behind `functions` mapped. Dropped last, as the last field.
    library: Library,
}

impl Libxc {
    /// Names a libxenctrl to load instead of the one that is found.
    const VARIABLE: &str = "PCIDOM_LIBXENCTRL";

    /// Loads the library (that of `PCIDOM_LIBXENCTRL` alone when that is set, for odd installations) and opens the interface.
    ///
    /// # Errors
    /// No library of that release, a library that lacks a function, or a kernel that refuses (no dom0, no root).
    pub fn open(version: XenVersion) -> Result<Self, OpenError> {
        let only = std::env::var_os(Self::VARIABLE).map(PathBuf::from);
        let candidates =
            only.map_or_else(|| version.candidates(&format!("libxenctrl.so.{version}")), |path| vec![path]);
        let library = load("libxenctrl", version, &candidates)?;
        type Open = unsafe extern "C" fn(*mut c_void, *mut c_void, c_uint) -> *mut c_void;
        let open: Open = library_symbol!(library, "xc_interface_open");
        let functions = Functions {
            close: library_symbol!(library, "xc_interface_close"),
            getinfolist: library_symbol!(library, "xc_domain_getinfolist"),
            unmap_pirq: library_symbol!(library, "xc_physdev_unmap_pirq"),
            test_assign: library_symbol!(library, "xc_test_assign_device"),
            send_trigger: library_symbol!(library, "xc_domain_send_trigger"),
        };
        // SAFETY: a logger that lives for ever (`silent`), no flags.
        let handle = unsafe { open(silent(), silent(), 0) };
        let handle = Handle::new(handle).ok_or_else(|| OpenError::Refused("xc_interface_open", last_errno()))?;
        Ok(Self { handle, functions, version, library })
    }

    /// The open interface, for more of its functions: it is closed with this.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// The library, to look them up; what is found lives as long as this.
    #[must_use]
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// The release that it is of.
    #[must_use]
    pub fn version(&self) -> XenVersion {
        self.version
    }

    /// The first domain at or after a number, with what Xen says about it and how long its processors have run in all.
    ///
    /// # Errors
    /// Xen's.
    pub fn first_domain(&self, from: DomId) -> Result<Option<(DomId, DomainInfo, Duration)>, HypercallError> {
        let mut info_words: Scratch = [0; 1024];
        // SAFETY: one entry is asked for and `info_words` has room for one of any release.
        let found = unsafe { (self.functions.getinfolist)(self.handle, from.0.into(), 1, &raw mut info_words) };
        check("xc_domain_getinfolist", found)?;
        let flags = info_words[DOMAININFO_FLAGS];
        let id = u16::try_from(info_words[DOMAININFO_DOMAIN] & 0xffff).map(DomId);
        Ok(id.ok().filter(|_| found == 1).map(|id| {
            let info = DomainInfo {
                dying: flags & DYING != 0,
                hvm: flags & HVM_GUEST != 0,
                shutdown: flags & SHUTDOWN != 0,
                paused: flags & PAUSED != 0,
            };
            let [low, high] = [info_words[DOMAININFO_CPU_TIME], info_words[DOMAININFO_CPU_TIME + 1]];
            (id, info, Duration::from_nanos(u64::from(high) << 32 | u64::from(low)))
        }))
    }
}

impl Drop for Libxc {
    fn drop(&mut self) {
        // SAFETY: `handle` came from xc_interface_open and is used nowhere after this.
        unsafe { (self.functions.close)(self.handle) };
    }
}

// In every call below the handle is open until `Drop`, and numbers are passed by value; what else matters is said there.
impl Hypervisor for Libxc {
    fn domain(&self, id: DomId) -> Result<Option<DomainInfo>, HypercallError> {
        // The call answers with the first domain at or after the number asked for.
        Ok(self.first_domain(id)?.filter(|(found, ..)| *found == id).map(|(_, info, _)| info))
    }

    fn unmap_pirq(&self, domain: DomId, pirq: Pirq) -> Result<(), HypercallError> {
        let call = "xc_physdev_unmap_pirq";
        let pirq = c_int::try_from(pirq.0).map_err(|_| HypercallError { call, errno: Errno::EINVAL })?;
        // SAFETY: numbers only.
        check(call, unsafe { (self.functions.unmap_pirq)(self.handle, domain.0.into(), pirq) })
    }

    fn run_time(&self, domain: DomId) -> Result<Option<Duration>, HypercallError> {
        Ok(self.first_domain(domain)?.filter(|(id, ..)| *id == domain).map(|(.., ran)| ran))
    }

    fn send_nmi(&self, domain: DomId) -> Result<(), HypercallError> {
        /// `XEN_DOMCTL_SENDTRIGGER_NMI` (`xen/include/public/domctl.h`).
        const NMI: u32 = 0;
        // SAFETY: numbers only.
        check("xc_domain_send_trigger", unsafe { (self.functions.send_trigger)(self.handle, domain.0.into(), NMI, 0) })
    }

    fn test_assign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError> {
        // SAFETY: numbers only.
        check("xc_test_assign_device", unsafe {
            (self.functions.test_assign)(self.handle, domain.0.into(), device.machine_sbdf())
        })
    }
}
