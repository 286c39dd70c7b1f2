//! Reads `struct start_info` (`xen/include/public/xen.h`), once.

use crate::layout::{PAGE_SIZE, VIRT_BASE};
use core::ptr::NonNull;
use spin::Once;
use xen_types::{Mfn, Port};

const _: () = assert!(size_of::<xen_sys::start_info>() == 1168);
const _: () = assert!(core::mem::offset_of!(xen_sys::start_info, cmd_line) == 128);

static BOOT_INFO: Once<BootInfo> = Once::new();

/// The fields of `start_info`, with frames and ports as types.
#[derive(Debug)]
pub struct BootInfo {
    /// Pages the domain was built with.
    pub nr_pages: usize,
    /// Machine address of the `shared_info` page.
    pub(crate) shared_info_address: u64,
    /// True when this is the initial domain (the self-test image): console output goes through `CONSOLEIO_write`, there is no ring.
    pub is_initial_domain: bool,
    /// The xenstore ring's frame and port; `None` for the initial domain.
    pub(crate) store: Option<(Mfn, Port)>,
    /// The console ring's frame and port; `None` for the initial domain.
    pub(crate) console: Option<(Mfn, Port)>,
    /// Virtual address of the top page table.
    pub(crate) page_table_base: usize,
    /// Page-table pages that the builder made.
    pub(crate) page_table_pages: usize,
    /// Virtual address of the frame list: machine frame numbers by page frame number.
    pub(crate) frame_list: usize,
    command_line: [u8; 1024],
    command_line_len: usize,
}

impl BootInfo {
    /// The `extra=` of the domain's configuration. Anything that is not UTF-8 ends it.
    #[must_use]
    pub fn command_line(&self) -> &str {
        let bytes = self.command_line.get(..self.command_line_len).unwrap_or_default();
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                core::str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
            }
        }
    }

    /// First byte behind the builder's page tables: everything from there on (its boot stack included, which we left) is free.
    pub(crate) fn first_free_address(&self) -> usize {
        self.page_table_base + self.page_table_pages * PAGE_SIZE
    }

    /// First virtual address behind the domain's memory.
    pub(crate) fn memory_end(&self) -> usize {
        VIRT_BASE + self.nr_pages * PAGE_SIZE
    }
}

/// Reads `start_info` into the static copy; later calls of [`get`] give it.
///
/// # Safety
/// `pointer` is what Xen passed in `rsi` at entry: the builder's `start_info` page, mapped, and nobody writes to it.
pub(crate) unsafe fn init(pointer: NonNull<xen_sys::start_info>) -> &'static BootInfo {
    // SAFETY: see this function's contract; the page is in the builder's initial mapping and never handed to the heap, which starts
    // behind the page tables.
    let info = unsafe { pointer.as_ref() };
    BOOT_INFO.call_once(|| parse(info))
}

fn parse(info: &xen_sys::start_info) -> BootInfo {
    let is_initial_domain = info.flags & xen_sys::SIF_INITDOMAIN != 0;
    // SAFETY: every bit pattern is a valid value of either member; which one is meant is told by SIF_INITDOMAIN.
    let console = unsafe { info.console.domU };
    let ring = |mfn: u64, port: u32| (!is_initial_domain && mfn != 0).then_some((Mfn(mfn), Port(port)));
    let command_line = info.cmd_line.map(i8::cast_unsigned);
    let as_usize = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    BootInfo {
        nr_pages: as_usize(info.nr_pages),
        shared_info_address: info.shared_info,
        is_initial_domain,
        store: ring(info.store_mfn, info.store_evtchn),
        console: ring(console.mfn, console.evtchn),
        page_table_base: as_usize(info.pt_base),
        page_table_pages: as_usize(info.nr_pt_frames),
        frame_list: as_usize(info.mfn_list),
        command_line_len: command_line.iter().position(|&byte| byte == 0).unwrap_or(command_line.len()),
        command_line,
    }
}

/// The boot information, once [`crate::init`] has run.
///
/// # Panics
/// Before that: a bug of the image, not of anybody outside.
#[must_use]
pub fn get() -> &'static BootInfo {
    #[expect(clippy::expect_used, reason = "documented: order of initialisation is fixed in entry.rs")]
    BOOT_INFO.get().expect("start_info is read first")
}
