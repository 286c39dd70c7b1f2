//! A PCI frontend that does only what it is told: for what Linux' own never does, as starting again without a word, or ignoring
//! Reconfiguring.

use std::{
    ffi::c_void,
    fs::{File, OpenOptions},
    ptr::{self, NonNull},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use pciif::{FrontendPage, Request, SharedPage};
use rustix::{
    ioctl::{Ioctl, IoctlOutput, Opcode, ioctl},
    mm::{MapFlags, ProtFlags, mmap},
};

use crate::store::Store;

const DIR: &str = "device/pci/0";

/// What Linux waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A page and a port that a backend was offered.
pub(crate) struct Frontend {
    page: FrontendPage<Granted>,
    events: File,
    port: u32,
    /// Holds the grant.
    _grants: File,
}

impl Frontend {
    /// `front-open DOMAIN`: makes a page and a port for this backend and offers them. An earlier one is forgotten without a word, as by a
    /// kernel that starts anew.
    pub(crate) fn open(store: &mut Store, backend: &str) -> Result<Self> {
        let domain: u16 = backend.parse()?;
        let open = |path: &str| OpenOptions::new().read(true).write(true).open(path).context(path.to_owned());
        let (grants, events) = (open("/dev/xen/gntalloc")?, open("/dev/xen/evtchn")?);
        let mut grant = AllocGrant { domain, flags: AllocGrant::WRITABLE, count: 1, index: 0, reference: 0 };
        // SAFETY: the structure is the one that this number stands for (Linux, `include/uapi/xen/gntalloc.h`).
        unsafe { ioctl(&grants, Call::new(b'G', 5, &mut grant)) }.context("granting a page")?;
        // SAFETY: the kernel chooses where; nothing else is mapped there.
        let base = unsafe {
            mmap(ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &grants, grant.index)
        }?;
        let page = FrontendPage::new(Granted(NonNull::new(base.cast()).context("a page at 0")?));
        let mut remote = u32::from(domain);
        // SAFETY: the argument is one word (Linux, `include/uapi/xen/evtchn.h`, IOCTL_EVTCHN_BIND_UNBOUND_PORT).
        let port = unsafe { ioctl(&events, Call::new(b'E', 2, &mut remote)) }.context("making a port")?;
        page.announce_aer();
        for (key, value) in [
            ("pci-op-ref", grant.reference.to_string()),
            ("event-channel", port.to_string()),
            ("magic", pciif::MAGIC.into()),
        ] {
            store.write(&format!("{DIR}/{key}"), value.as_bytes())?;
        }
        Ok(Self { page, events, port, _grants: grants })
    }

    /// `front-read ADDRESS OFFSET`: reads a dword of configuration space.
    pub(crate) fn read(&self, address: &str, offset: &str) -> Result<Vec<u8>> {
        let address = address.parse().map_err(|_| anyhow!("{address} is no address"))?;
        self.page.publish(&Request::conf_read(address, offset.parse()?, 4));
        let mut port = self.port;
        // SAFETY: the argument is one word (IOCTL_EVTCHN_NOTIFY).
        unsafe { ioctl(&self.events, Call::new(b'E', 4, &mut port)) }?;
        let started = Instant::now();
        let response = loop {
            if let Some(response) = self.page.response() {
                break response;
            }
            ensure!(started.elapsed() < PATIENCE, "the backend does not answer");
            thread::sleep(Duration::from_millis(1));
        };
        if response.err != 0 {
            bail!("the backend answers {}", response.err);
        }
        Ok(format!("{:08x}", response.value).into_bytes())
    }

    /// `front-state STATE`: says where we are.
    pub(crate) fn go(store: &mut Store, state: &str) -> Result<Vec<u8>> {
        store.write(&format!("{DIR}/state"), state.as_bytes())?;
        Ok(Vec::new())
    }
}

/// A page that another domain may map. It stays for ever, as who knows when the other end lets go.
struct Granted(NonNull<u8>);

// SAFETY: `mmap` gave a whole page, readable and writable, that is never unmapped and that only `FrontendPage` reaches.
unsafe impl SharedPage for Granted {
    fn base(&self) -> NonNull<u8> {
        self.0
    }
}

/// Linux, `struct ioctl_gntalloc_alloc_gref` for one page.
#[repr(C)]
struct AllocGrant {
    domain: u16,
    flags: u16,
    count: u32,
    index: u64,
    reference: u32,
}

impl AllocGrant {
    const WRITABLE: u16 = 1;
}

/// A call to one of Xen's devices. Their numbers are made with `_IOC_NONE`, though the argument goes both ways.
struct Call<'a, T> {
    opcode: Opcode,
    argument: &'a mut T,
}

impl<'a, T> Call<'a, T> {
    fn new(device: u8, number: u8, argument: &'a mut T) -> Self {
        let size = u32::try_from(size_of::<T>()).unwrap_or_default();
        Self { opcode: Opcode::from(size << 16 | u32::from(device) << 8 | u32::from(number)), argument }
    }
}

// SAFETY: the pointer is to a structure that outlives the call.
unsafe impl<T> Ioctl for Call<'_, T> {
    type Output = u32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        u32::try_from(output).map_err(|_| rustix::io::Errno::INVAL)
    }
}
