//! libxenctrl, loaded at run time in the release of the running Xen.
//!
//! Domctls are a private interface between one Xen and its own libraries, so the library is not linked: one binary serves
//! every release. The functions used here have kept their shape since 4.13; where a parameter changed its width (`bool`,
//! `uint8_t`, `uint32_t`) it is 0 or 1 and passed in a register, so the widest form suits all of them.

use core::ffi::{c_int, c_uint, c_ulong, c_void};
use std::cell::OnceCell;
use std::path::PathBuf;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use libloading::Library;
use xen_types::{DomId, Errno, Pirq, Sbdf};

use super::inspector::Inspector;
use super::{DomainInfo, Frames, HypercallError, Hypervisor, Inspect, Permission, Ports, XenVersion};

/// `xc_interface *`.
pub(super) type Handle = NonNull<c_void>;

/// Room for one `xc_domaininfo_t` (112 bytes in 4.17) or `xc_physinfo_t` (112 bytes in 4.17), whatever later releases add.
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

/// `capabilities` in `struct xen_sysctl_physinfo` (`sysctl.h`): byte 28 from 4.13 to 4.20, in 4.17 checked with the compiler.
const PHYSINFO_CAPABILITIES: usize = 7;
/// `XEN_SYSCTL_PHYSCAP_directio`.
const DIRECTIO: u32 = 1 << 2;

/// `XEN_DOMCTL_DEV_RDM_RELAXED`.
const RDM_RELAXED: u32 = 1;

/// Why there is no hypervisor to talk to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("no {name} of Xen {version} found (tried {tried}; last: {last})")]
    NoLibrary { name: &'static str, version: XenVersion, tried: String, last: String },
    #[error("Xen's library has no {0}")]
    NoSymbol(&'static str),
    #[error("{0}: {1}")]
    Refused(&'static str, Errno),
}

/// The functions, looked up once.
struct Functions {
    close: unsafe extern "C" fn(Handle) -> c_int,
    getinfolist: unsafe extern "C" fn(Handle, u32, c_uint, *mut Scratch) -> c_int,
    physinfo: unsafe extern "C" fn(Handle, *mut Scratch) -> c_int,
    ioport_permission: unsafe extern "C" fn(Handle, u32, u32, u32, u32) -> c_int,
    iomem_permission: unsafe extern "C" fn(Handle, u32, c_ulong, c_ulong, u32) -> c_int,
    irq_permission: unsafe extern "C" fn(Handle, u32, u32, u32) -> c_int,
    map_pirq: unsafe extern "C" fn(Handle, u32, c_int, *mut c_int) -> c_int,
    unmap_pirq: unsafe extern "C" fn(Handle, u32, c_int) -> c_int,
    assign: unsafe extern "C" fn(Handle, u32, u32, u32) -> c_int,
    test_assign: unsafe extern "C" fn(Handle, u32, u32) -> c_int,
    deassign: unsafe extern "C" fn(Handle, u32, u32) -> c_int,
}

/// An open hypervisor interface.
pub(crate) struct Libxc {
    pub(super) handle: Handle,
    functions: Functions,
    version: XenVersion,
    inspector: OnceCell<Inspector>,
    /// Keeps the code behind `functions` and `inspector` mapped. Dropped last, as the last field.
    library: Library,
}

/// Looks a function up; the type comes from the place that takes it.
macro_rules! symbol {
    ($library:expr, $name:literal) => {{
        // SAFETY: the type at the receiving field is the prototype in the library's header (4.17; xenctrl.h widened as the
        // module's text says); the pointer lives beside the `Library`, which keeps the code loaded.
        *unsafe { $library.get(concat!($name, "\0").as_bytes()) }.map_err(|_| $crate::xen::OpenError::NoSymbol($name))?
    }};
}

pub(super) use symbol;

/// The errno that the C library left behind.
pub(super) fn last_errno() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(Errno::EIO.0))
}

/// Turns libxenctrl's "negative means errno is set" into a result.
pub(super) fn check(call: &'static str, result: c_int) -> Result<(), HypercallError> {
    if result < 0 { Err(HypercallError { call, errno: last_errno() }) } else { Ok(()) }
}

impl Permission {
    fn flag(self) -> u32 {
        u32::from(self == Self::Allow)
    }
}

impl Libxc {
    /// Loads the library (from `library` alone when given, for odd installations) and opens the interface.
    ///
    /// # Errors
    /// No library of that release, a library that lacks a function, or a kernel that refuses (no dom0, no root).
    pub(crate) fn open(version: XenVersion, library: Option<PathBuf>) -> Result<Self, OpenError> {
        let library = Self::load(version, library)?;
        type Open = unsafe extern "C" fn(*mut c_void, *mut c_void, c_uint) -> *mut c_void;
        let open: Open = symbol!(library, "xc_interface_open");
        let functions = Functions {
            close: symbol!(library, "xc_interface_close"),
            getinfolist: symbol!(library, "xc_domain_getinfolist"),
            physinfo: symbol!(library, "xc_physinfo"),
            ioport_permission: symbol!(library, "xc_domain_ioport_permission"),
            iomem_permission: symbol!(library, "xc_domain_iomem_permission"),
            irq_permission: symbol!(library, "xc_domain_irq_permission"),
            map_pirq: symbol!(library, "xc_physdev_map_pirq"),
            unmap_pirq: symbol!(library, "xc_physdev_unmap_pirq"),
            assign: symbol!(library, "xc_assign_device"),
            test_assign: symbol!(library, "xc_test_assign_device"),
            deassign: symbol!(library, "xc_deassign_device"),
        };
        // SAFETY: null loggers mean "to stderr", no flags; both documented at the prototype.
        let handle = unsafe { open(null_mut(), null_mut(), 0) };
        let handle = Handle::new(handle).ok_or_else(|| OpenError::Refused("xc_interface_open", last_errno()))?;
        Ok(Self { handle, functions, version, inspector: OnceCell::new(), library })
    }

    fn load(version: XenVersion, only: Option<PathBuf>) -> Result<Library, OpenError> {
        let candidates = only.map_or_else(|| version.library_candidates(), |path| vec![path]);
        load("libxenctrl", version, &candidates)
    }

    /// What few commands need. A library that lacks it is as a Xen that lacks it.
    pub(super) fn inspector(&self) -> Result<&Inspector, HypercallError> {
        if self.inspector.get().is_none() {
            let opened = Inspector::open(&self.library, self.version).map_err(|error| match error {
                OpenError::NoLibrary { .. } => {
                    HypercallError { call: "libxenforeignmemory.so.1", errno: Errno::ENOENT }
                }
                OpenError::NoSymbol(call) => HypercallError { call, errno: Errno::ENOSYS },
                OpenError::Refused(call, errno) => HypercallError { call, errno },
            })?;
            // It was empty just now, and nothing in between comes here.
            let _ = self.inspector.set(opened);
        }
        self.inspector.get().ok_or(HypercallError { call: "libxenctrl", errno: Errno::EIO })
    }

    /// The first domain at or after a number.
    pub(super) fn first_domain(&self, from: DomId) -> Result<Option<(DomId, DomainInfo)>, HypercallError> {
        Ok(self.first_domain_in_full(from)?.map(|(id, info, _)| (id, info)))
    }

    /// How long a domain has run.
    pub(super) fn cpu_time(&self, domain: DomId) -> Result<Option<Duration>, HypercallError> {
        Ok(self.first_domain_in_full(domain)?.filter(|(id, ..)| *id == domain).map(|(.., ran)| ran))
    }

    fn first_domain_in_full(&self, from: DomId) -> Result<Option<(DomId, DomainInfo, Duration)>, HypercallError> {
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

/// Loads the first library of these that is there.
pub(super) fn load(name: &'static str, version: XenVersion, candidates: &[PathBuf]) -> Result<Library, OpenError> {
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

impl Drop for Libxc {
    fn drop(&mut self) {
        // SAFETY: `handle` came from xc_interface_open and is used nowhere after this.
        unsafe { (self.functions.close)(self.handle) };
    }
}

// In every call below the handle is open until `Drop`, and numbers are passed by value; what else matters is said there.
impl Hypervisor for Libxc {
    fn inspect(&self) -> &dyn Inspect {
        self
    }

    fn domain(&self, id: DomId) -> Result<Option<DomainInfo>, HypercallError> {
        // The call answers with the first domain at or after the number asked for.
        Ok(self.first_domain(id)?.filter(|(found, _)| *found == id).map(|(_, info)| info))
    }

    fn has_iommu(&self) -> Result<bool, HypercallError> {
        let mut info: Scratch = [0; 1024];
        // SAFETY: `info` has room for the structure of any release.
        check("xc_physinfo", unsafe { (self.functions.physinfo)(self.handle, &raw mut info) })?;
        Ok(info[PHYSINFO_CAPABILITIES] & DIRECTIO != 0)
    }

    fn set_iomem(&self, domain: DomId, frames: Frames, permission: Permission) -> Result<(), HypercallError> {
        let Frames { first, count } = frames;
        // SAFETY: numbers only.
        check("xc_domain_iomem_permission", unsafe {
            (self.functions.iomem_permission)(self.handle, domain.0.into(), first.0, count, permission.flag())
        })
    }

    fn set_ioports(&self, domain: DomId, ports: Ports, permission: Permission) -> Result<(), HypercallError> {
        let Ports { first, count } = ports;
        // SAFETY: numbers only.
        check("xc_domain_ioport_permission", unsafe {
            (self.functions.ioport_permission)(self.handle, domain.0.into(), first, count, permission.flag())
        })
    }

    fn set_irq(&self, domain: DomId, pirq: Pirq, permission: Permission) -> Result<(), HypercallError> {
        // SAFETY: numbers only.
        check("xc_domain_irq_permission", unsafe {
            (self.functions.irq_permission)(self.handle, domain.0.into(), pirq.0, permission.flag())
        })
    }

    fn map_gsi(&self, domain: DomId, gsi: u32) -> Result<Pirq, HypercallError> {
        let invalid = HypercallError { call: "xc_physdev_map_pirq", errno: Errno::EINVAL };
        let index = c_int::try_from(gsi).map_err(|_| invalid)?;
        let mut pirq = index;
        // SAFETY: `pirq` is read and written during the call only.
        check(invalid.call, unsafe { (self.functions.map_pirq)(self.handle, domain.0.into(), index, &raw mut pirq) })?;
        u32::try_from(pirq).map(Pirq).map_err(|_| invalid)
    }

    fn unmap_pirq(&self, domain: DomId, pirq: Pirq) -> Result<(), HypercallError> {
        let call = "xc_physdev_unmap_pirq";
        let pirq = c_int::try_from(pirq.0).map_err(|_| HypercallError { call, errno: Errno::EINVAL })?;
        // SAFETY: numbers only.
        check(call, unsafe { (self.functions.unmap_pirq)(self.handle, domain.0.into(), pirq) })
    }

    fn test_assign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError> {
        // SAFETY: numbers only.
        check("xc_test_assign_device", unsafe {
            (self.functions.test_assign)(self.handle, domain.0.into(), device.machine_sbdf())
        })
    }

    fn assign(&self, domain: DomId, device: Sbdf, relaxed_rdm: bool) -> Result<(), HypercallError> {
        let flags = if relaxed_rdm { RDM_RELAXED } else { 0 };
        // SAFETY: numbers only.
        check("xc_assign_device", unsafe {
            (self.functions.assign)(self.handle, domain.0.into(), device.machine_sbdf(), flags)
        })
    }

    fn deassign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError> {
        // SAFETY: numbers only.
        check("xc_deassign_device", unsafe {
            (self.functions.deassign)(self.handle, domain.0.into(), device.machine_sbdf())
        })
    }
}
