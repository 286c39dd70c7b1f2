//! Start-up: from Xen's entry point to the image's `main`.

use crate::control::{ShutdownReason, shutdown};
use crate::{
    BootInfo, clock, console, events, fixmap, heap, hypercall, memory, shared_info, start_info, survivor, timer, traps,
};
use core::ptr::NonNull;

/// Bytes of the stack, in pages above a guard page (`linker.ld` reserves both).
#[cfg(not(test))]
const STACK_SIZE: usize = 32 * 1024;

#[cfg(not(test))]
mod start {
    use core::arch::global_asm;

    // At entry rsi points at start_info and rsp at the builder's boot stack of one page, which we leave (xen-x86_64.h, "start-of-day").
    // `_restart` is the first thing of every image, so that dom0 knows where it is (`pcidom_abi::image`).
    global_asm!(
        ".pushsection .bss.stack, \"aw\", @nobits", // at the beginning of a page (linker.ld)
        ".globl __stack_guard",
        "__stack_guard:",
        ".skip 4096",
        ".skip {size}",
        "__stack_top:",
        ".popsection",
        ".pushsection .text.start, \"ax\", @progbits",
        // A restart in place: all data as in the file.
        ".globl _restart",
        "_restart:",
        "cld",
        "lea rdi, [rip + __bss_start]",
        "lea rcx, [rip + __bss_end]",
        "sub rcx, rdi",
        "xor eax, eax",
        "rep stosb",
        "lea rsp, [rip + __stack_top]",
        // Xen holds further NMIs back until the one that led here is returned from: HYPERVISOR_iret to the next line, with the frame of struct
        // iret_context (arch-x86/xen-x86_64.h). Privilege level 0 in the code segment says that it goes back to the kernel (`do_iret`,
        // xen/arch/x86/pv/iret.c); no interrupt flag: upcalls stay masked.
        "mov rax, rsp",
        "push {ss}",
        "push rax",
        "push 2",
        "push {cs}",
        "lea rax, [rip + 3f]",
        "push rax",
        "push 0",
        "push 0",
        "push 0",
        "push 0",
        "mov eax, {iret}",
        "syscall",
        "3:",
        "lea rsi, [rip + __data_copy]",
        "lea rdi, [rip + __data_start]",
        "2:",
        "lea rcx, [rip + __data_end]",
        "lea rax, [rip + __data_start]",
        "sub rcx, rax",
        "rep movsb",
        "lea rsp, [rip + __stack_top]",
        "xor ebp, ebp",
        "mov rdi, [rip + __start_info]",
        "call pcidom_main", // the image's; see `image!`
        "ud2",
        ".globl _start",
        "_start:",
        "cld",
        "mov [rip + __start_info], rsi",
        "lea rsi, [rip + __data_start]",
        "lea rdi, [rip + __data_copy]", // all is writable yet
        "jmp 2b",
        ".popsection",
        ".pushsection .kept.start, \"aw\", @nobits",
        ".balign 8",
        "__start_info:",
        ".skip 8",
        ".popsection",
        size = const super::STACK_SIZE,
        cs = const crate::layout::KERNEL_CS & !3,
        ss = const crate::layout::KERNEL_SS,
        iret = const xen_sys::__HYPERVISOR_iret,
    );
}

/// Declares the image's main function, `fn(&'static BootInfo) -> !`: Xen's entry calls it with everything initialised.
#[macro_export]
macro_rules! image {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn pcidom_main(start_info: *mut ::core::ffi::c_void) -> ! {
            // SAFETY: called once in each life, by the entry code, with Xen's pointer.
            let info = unsafe { $crate::init(start_info) };
            $main(info)
        }
    };
}

/// Brings up the platform in the order that its parts need. What fails without being vital is logged.
///
/// # Safety
/// Called once in each life of the image, first thing, on the image's own stack, with the pointer that Xen passed at entry.
///
/// # Panics
/// When Xen refuses something without which nothing works (mapping `shared_info`).
pub unsafe fn init(start_info: *mut core::ffi::c_void) -> &'static BootInfo {
    let tsc = clock::ticks();
    #[expect(clippy::expect_used, reason = "without it there is nothing to run on, nor a console to say so")]
    let pointer = NonNull::new(start_info).expect("Xen passes start_info").cast();
    // SAFETY: the caller's promise.
    let info = unsafe { start_info::init(pointer) };
    // SAFETY: nothing was allocated yet in this life, nothing of a life before it is used any more, and the boot stack was left by the entry code.
    let heap = unsafe { heap::init() };
    let is_sound = survivor::restarts() == 0 || survivor::is_sound() && fixmap::restore();
    if let Err(error) = shared_info::init() {
        panic!("mapping shared_info: {error}");
    }
    clock::set_start(tsc);
    events::init();
    console::init();
    if !is_sound {
        plain_log::error!("damaged facts");
        shutdown(ShutdownReason::Crash);
    }
    for (what, result) in [
        ("trap table", traps::init()),
        ("page protection", memory::protect_image()),
        ("mapping all memory", heap),
        ("periodic timer", timer::stop_periodic()),
    ] {
        if let Err(error) = result {
            plain_log::warning!("{what}: {error}");
        }
    }
    info
}

/// The running Xen's version, major and minor.
#[must_use]
pub fn xen_version() -> (u16, u16) {
    hypercall::xen_version()
}
