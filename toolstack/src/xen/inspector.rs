//! The functions by which commands look into domains, of libxenctrl and libxenforeignmemory. Few commands need them, so they are
//! looked up when the first does.

use core::ffi::{c_int, c_long, c_uint, c_ulong};
use std::mem::{offset_of, size_of};

use ::dom0::library_symbol;
use ::dom0::xen::Handle;
use libloading::Library;

use super::foreign::ForeignMemory;
use super::{OpenError, XenVersion};

/// Room for a `vcpu_guest_context_any_t`, whatever it is for: 5,168 bytes on x86-64.
pub(super) type Context = [u64; 1024];

/// `struct evtchn_status` (`xen/include/public/event_channel.h`, a stable interface).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EvtchnStatus {
    pub(super) dom: u16,
    pub(super) port: u32,
    pub(super) status: u32,
    pub(super) vcpu: u32,
    /// A union: the pirq where `status` says so, at most a domain and a port.
    pub(super) detail: [u32; 2],
}

const _: () = assert!(size_of::<EvtchnStatus>() == 24);
const _: () = assert!(offset_of!(EvtchnStatus, port) == 4);
const _: () = assert!(offset_of!(EvtchnStatus, status) == 8);
const _: () = assert!(offset_of!(EvtchnStatus, detail) == 16);

/// The functions, looked up once. Prototypes: `xenctrl.h`; `xc_get_pfn_type_batch` stands in `tools/libs/ctrl/xc_private.h`,
/// and is exported because libxenguest needs it. All are the same in 4.17 and 4.20.
pub(super) struct Functions {
    pub(super) pause: unsafe extern "C" fn(Handle, u32) -> c_int,
    pub(super) unpause: unsafe extern "C" fn(Handle, u32) -> c_int,
    pub(super) maximum_ram_page: unsafe extern "C" fn(Handle, *mut c_ulong) -> c_int,
    pub(super) getcontext: unsafe extern "C" fn(Handle, u32, u32, *mut Context) -> c_int,
    pub(super) setcontext: unsafe extern "C" fn(Handle, u32, u32, *const Context) -> c_int,
    pub(super) get_tot_pages: unsafe extern "C" fn(Handle, u32) -> c_long,
    pub(super) get_pfn_type_batch: unsafe extern "C" fn(Handle, u32, c_uint, *mut u64) -> c_int,
    pub(super) evtchn_status: unsafe extern "C" fn(Handle, *mut EvtchnStatus) -> c_int,
}

/// What [`super::Inspect`] needs beside the handle.
pub(super) struct Inspector {
    pub(super) functions: Functions,
    pub(super) memory: ForeignMemory,
}

impl Inspector {
    /// `library` is libxenctrl, which must stay loaded as long as this lives.
    pub(super) fn open(library: &Library, version: XenVersion) -> Result<Self, OpenError> {
        let functions = Functions {
            pause: library_symbol!(library, "xc_domain_pause"),
            unpause: library_symbol!(library, "xc_domain_unpause"),
            maximum_ram_page: library_symbol!(library, "xc_maximum_ram_page"),
            getcontext: library_symbol!(library, "xc_vcpu_getcontext"),
            setcontext: library_symbol!(library, "xc_vcpu_setcontext"),
            get_tot_pages: library_symbol!(library, "xc_get_tot_pages"),
            get_pfn_type_batch: library_symbol!(library, "xc_get_pfn_type_batch"),
            evtchn_status: library_symbol!(library, "xc_evtchn_status"),
        };
        Ok(Self { functions, memory: ForeignMemory::open(version)? })
    }
}
