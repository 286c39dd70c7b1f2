//! Start-up: from Xen's entry point to the image's `main`.

use crate::{BootInfo, clock, console, events, heap, hypercall, memory, shared_info, start_info, timer, traps};
use core::ptr::NonNull;

/// Bytes of the stack, in pages above a guard page (`linker.ld` reserves both).
#[cfg(not(test))]
const STACK_SIZE: usize = 32 * 1024;

#[cfg(not(test))]
mod start {
    use core::arch::global_asm;

    // At entry rsi points at start_info and rsp at the builder's boot stack of one page, which we leave (xen-x86_64.h, "start-of-day").
    global_asm!(
        ".pushsection .bss.stack, \"aw\", @nobits",
        ".balign 4096",
        ".globl __stack_guard",
        "__stack_guard:",
        ".skip 4096",
        ".skip {size}",
        "__stack_top:",
        ".popsection",
        ".pushsection .text.start, \"ax\", @progbits",
        ".globl _start",
        "_start:",
        "cld",
        "lea rsp, [rip + __stack_top]",
        "xor ebp, ebp",
        "mov rdi, rsi",
        "call pcidom_main", // the image's; see `image!`
        "ud2",
        ".popsection",
        size = const super::STACK_SIZE,
    );
}

/// Declares the image's main function, `fn(&'static BootInfo) -> !`: Xen's entry calls it with everything initialised.
#[macro_export]
macro_rules! image {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn pcidom_main(start_info: *mut ::core::ffi::c_void) -> ! {
            // SAFETY: called once, by the entry code, with Xen's pointer.
            let info = unsafe { $crate::init(start_info) };
            $main(info)
        }
    };
}

/// Brings up the platform in the order that its parts need. What fails without being vital is logged.
///
/// # Safety
/// Called once, first thing, on the image's own stack, with the pointer that Xen passed at entry.
///
/// # Panics
/// When Xen refuses something without which nothing works (mapping `shared_info`).
pub unsafe fn init(start_info: *mut core::ffi::c_void) -> &'static BootInfo {
    let tsc = clock::ticks();
    #[expect(clippy::expect_used, reason = "without it there is nothing to run on, nor a console to say so")]
    let pointer = NonNull::new(start_info).expect("Xen passes start_info").cast();
    // SAFETY: the caller's promise.
    let info = unsafe { start_info::init(pointer) };
    // SAFETY: nothing was allocated yet, and the boot stack was left by the entry code.
    let heap = unsafe { heap::init() };
    if let Err(error) = shared_info::init() {
        panic!("mapping shared_info: {error}");
    }
    clock::set_start(tsc);
    events::init();
    console::init();
    for (what, result) in [
        ("trap table", traps::init()),
        ("page protection", memory::protect_image()),
        ("mapping all memory", heap),
        ("periodic timer", timer::stop_periodic()),
    ] {
        if let Err(error) = result {
            log::warn!("{what}: {error}");
        }
    }
    info
}

/// The running Xen's version, major and minor.
#[must_use]
pub fn xen_version() -> (u16, u16) {
    hypercall::xen_version()
}
