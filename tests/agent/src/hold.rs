//! Leaking guest: maps a device's registers and keeps them mapped after the device is taken.
//!
//! `/dev/mem` maps machine addresses, as the guest was created with `e820_host=1`: what lies outside of its memory is where the host has
//! it. The kernel asks Xen for the mapping, and Xen grants it while the guest has the right.

use std::{cell::RefCell, fs::File, ptr::NonNull};

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Registers that are mapped.
struct Held {
    base: NonNull<u32>,
    bytes: usize,
}

thread_local! {
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

impl Held {
    fn new(address: u64, bytes: usize) -> Result<Self> {
        let memory = File::options().read(true).write(true).open("/dev/mem")?;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &memory, address)
        };
        let base = base.with_context(|| format!("mapping {address:#x}"))?;
        Ok(Self { base: NonNull::new(base.cast()).context("mapped at nowhere")?, bytes })
    }

    /// The first register.
    fn read(&self) -> u32 {
        // SAFETY: mapped until `Drop`, a page at least, and aligned to one. A device answers, so the read is volatile.
        unsafe { self.base.read_volatile() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; nothing else refers to it.
        let done = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        if let Err(error) = done {
            println!("agent: unmapping: {error}");
        }
    }
}

/// `hold ADDRESS BYTES`: maps registers until [`let_go`], and touches each page, as only then it is really mapped.
pub(crate) fn hold(address: &str, bytes: &str) -> Result<Vec<u8>> {
    let address = u64::from_str_radix(address.trim_start_matches("0x"), 16).context("not an address")?;
    HELD.with_borrow_mut(|held| {
        held.push(Held::new(address, bytes.parse()?)?);
        Ok(())
    })
    .and_then(|()| peek())
}

/// `peek`: what the first register says through each of the mappings, if the device still does as it is told.
pub(crate) fn peek() -> Result<Vec<u8>> {
    let values: Vec<String> = HELD.with_borrow(|held| held.iter().map(|held| format!("{:08x}", held.read())).collect());
    Ok(values.join(" ").into_bytes())
}

/// `let-go`: unmaps all of them.
pub(crate) fn let_go() -> Result<Vec<u8>> {
    HELD.with_borrow_mut(Vec::clear);
    Ok(Vec::new())
}
