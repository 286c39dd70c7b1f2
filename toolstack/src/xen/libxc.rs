//! The real [`Domctls`]: more functions of libxenctrl than [`dom0::xen::Libxc`] has.
//!
//! They have kept their shape since Xen 4.13; where a parameter changed its width (`bool`, `uint8_t`, `uint32_t`) it is 0 or 1 and
//! passed in a register, so the widest form suits all of them.

use core::ffi::{c_int, c_ulong};
use std::cell::OnceCell;
use std::time::Duration;

use ::dom0::library_symbol;
use ::dom0::xen::library::check;
use ::dom0::xen::{Handle, Hypervisor};
use xen_types::{DomId, Errno, Pirq, Sbdf};

use super::inspector::Inspector;
use super::{DomainInfo, Domctls, Frames, HypercallError, Images, Inspect, OpenError, Permission, Ports, XenVersion};

/// Room for one `xc_physinfo_t` (112 bytes in 4.17), whatever later releases add.
type Scratch = [u32; 1024];
/// `capabilities` in `struct xen_sysctl_physinfo` (`sysctl.h`): byte 28 from 4.13 to 4.20, in 4.17 checked with the compiler.
const PHYSINFO_CAPABILITIES: usize = 7;
/// `XEN_SYSCTL_PHYSCAP_directio`.
const DIRECTIO: u32 = 1 << 2;

/// `XEN_DOMCTL_DEV_RDM_RELAXED`.
const RDM_RELAXED: u32 = 1;

/// The functions, looked up once.
struct Functions {
    physinfo: unsafe extern "C" fn(Handle, *mut Scratch) -> c_int,
    ioport_permission: unsafe extern "C" fn(Handle, u32, u32, u32, u32) -> c_int,
    iomem_permission: unsafe extern "C" fn(Handle, u32, c_ulong, c_ulong, u32) -> c_int,
    irq_permission: unsafe extern "C" fn(Handle, u32, u32, u32) -> c_int,
    map_pirq: unsafe extern "C" fn(Handle, u32, c_int, *mut c_int) -> c_int,
    assign: unsafe extern "C" fn(Handle, u32, u32, u32) -> c_int,
    deassign: unsafe extern "C" fn(Handle, u32, u32) -> c_int,
}

/// An open hypervisor interface.
pub(crate) struct Libxc {
    functions: Functions,
    inspector: OnceCell<Inspector>,
    /// Keeps the code behind `functions` and `inspector` mapped. Dropped last, as the last field.
    pub(super) base: ::dom0::xen::Libxc,
}

impl Permission {
    fn flag(self) -> u32 {
        u32::from(self == Self::Allow)
    }
}

impl Libxc {
    /// Looks the functions up in an open library.
    ///
    /// # Errors
    /// A library that lacks one.
    pub(crate) fn open(version: XenVersion) -> Result<Self, OpenError> {
        let base = ::dom0::xen::Libxc::open(version)?;
        let library = base.library();
        let functions = Functions {
            physinfo: library_symbol!(library, "xc_physinfo"),
            ioport_permission: library_symbol!(library, "xc_domain_ioport_permission"),
            iomem_permission: library_symbol!(library, "xc_domain_iomem_permission"),
            irq_permission: library_symbol!(library, "xc_domain_irq_permission"),
            map_pirq: library_symbol!(library, "xc_physdev_map_pirq"),
            assign: library_symbol!(library, "xc_assign_device"),
            deassign: library_symbol!(library, "xc_deassign_device"),
        };
        Ok(Self { functions, inspector: OnceCell::new(), base })
    }

    pub(super) fn handle(&self) -> Handle {
        self.base.handle()
    }

    /// Functions that few commands need, looked up on first use. A library without them counts as a Xen without them.
    pub(super) fn inspector(&self) -> Result<&Inspector, HypercallError> {
        if self.inspector.get().is_none() {
            let opened = Inspector::open(self.base.library(), self.base.version()).map_err(|error| match error {
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
}

impl Hypervisor for Libxc {
    fn domain(&self, id: DomId) -> Result<Option<DomainInfo>, HypercallError> {
        self.base.domain(id)
    }

    fn unmap_pirq(&self, domain: DomId, pirq: Pirq) -> Result<(), HypercallError> {
        self.base.unmap_pirq(domain, pirq)
    }

    fn run_time(&self, domain: DomId) -> Result<Option<Duration>, HypercallError> {
        self.base.run_time(domain)
    }

    fn send_nmi(&self, domain: DomId) -> Result<(), HypercallError> {
        self.base.send_nmi(domain)
    }

    fn test_assign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError> {
        self.base.test_assign(domain, device)
    }
}

// In every call below the handle is open until `base` is dropped, and numbers are passed by value; what else matters is said there.
impl Domctls for Libxc {
    fn inspect(&self) -> &dyn Inspect {
        self
    }

    fn images(&self) -> &dyn Images {
        self
    }

    fn has_iommu(&self) -> Result<bool, HypercallError> {
        let mut info: Scratch = [0; 1024];
        // SAFETY: `info` has room for the structure of any release.
        check("xc_physinfo", unsafe { (self.functions.physinfo)(self.handle(), &raw mut info) })?;
        Ok(info[PHYSINFO_CAPABILITIES] & DIRECTIO != 0)
    }

    fn set_iomem(&self, domain: DomId, frames: Frames, permission: Permission) -> Result<(), HypercallError> {
        let Frames { first, count } = frames;
        // SAFETY: numbers only.
        check("xc_domain_iomem_permission", unsafe {
            (self.functions.iomem_permission)(self.handle(), domain.0.into(), first.0, count, permission.flag())
        })
    }

    fn set_ioports(&self, domain: DomId, ports: Ports, permission: Permission) -> Result<(), HypercallError> {
        let Ports { first, count } = ports;
        // SAFETY: numbers only.
        check("xc_domain_ioport_permission", unsafe {
            (self.functions.ioport_permission)(self.handle(), domain.0.into(), first, count, permission.flag())
        })
    }

    fn set_irq(&self, domain: DomId, pirq: Pirq, permission: Permission) -> Result<(), HypercallError> {
        // SAFETY: numbers only.
        check("xc_domain_irq_permission", unsafe {
            (self.functions.irq_permission)(self.handle(), domain.0.into(), pirq.0, permission.flag())
        })
    }

    fn map_gsi(&self, domain: DomId, gsi: u32) -> Result<Pirq, HypercallError> {
        let invalid = HypercallError { call: "xc_physdev_map_pirq", errno: Errno::EINVAL };
        let index = c_int::try_from(gsi).map_err(|_| invalid)?;
        let mut pirq = index;
        // SAFETY: `pirq` is read and written during the call only.
        check(invalid.call, unsafe {
            (self.functions.map_pirq)(self.handle(), domain.0.into(), index, &raw mut pirq)
        })?;
        u32::try_from(pirq).map(Pirq).map_err(|_| invalid)
    }

    fn assign(&self, domain: DomId, device: Sbdf, relaxed_rdm: bool) -> Result<(), HypercallError> {
        let flags = if relaxed_rdm { RDM_RELAXED } else { 0 };
        // SAFETY: numbers only.
        check("xc_assign_device", unsafe {
            (self.functions.assign)(self.handle(), domain.0.into(), device.machine_sbdf(), flags)
        })
    }

    fn deassign(&self, domain: DomId, device: Sbdf) -> Result<(), HypercallError> {
        // SAFETY: numbers only.
        check("xc_deassign_device", unsafe {
            (self.functions.deassign)(self.handle(), domain.0.into(), device.machine_sbdf())
        })
    }
}
