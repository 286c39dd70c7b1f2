//! What the image tells the domain builder: ELF notes (`xen/include/public/elfnote.h`, types in xen-sys).
//!
//! No HYPERCALL_PAGE: a 64-bit PV guest may use `syscall` directly (see `hypercall.rs`), and the page would cost 4 KiB of image and memory.

#![cfg(not(test))]

use core::arch::global_asm;

/// One note: name "Xen", a type and a descriptor in assembler.
macro_rules! note {
    ($type:expr, $descriptor:literal) => {
        global_asm!(
            ".pushsection .note.Xen, \"a\", @note",
            ".balign 4",
            ".long 4, 3f - 2f, {ty}",
            ".asciz \"Xen\"",
            "2:",
            $descriptor,
            "3:",
            ".balign 4",
            ".popsection",
            ty = const $type,
        );
    };
}

note!(xen_sys::XEN_ELFNOTE_GUEST_OS, ".asciz \"pcidom\"");
note!(xen_sys::XEN_ELFNOTE_XEN_VERSION, ".asciz \"xen-3.0\"");
note!(xen_sys::XEN_ELFNOTE_LOADER, ".asciz \"generic\"");
note!(xen_sys::XEN_ELFNOTE_PAE_MODE, ".asciz \"yes\"");
note!(xen_sys::XEN_ELFNOTE_FEATURES, ".asciz \"!writable_page_tables|pae_pgdir_above_4gb\"");
note!(xen_sys::XEN_ELFNOTE_ENTRY, ".quad _start");
note!(xen_sys::XEN_ELFNOTE_VIRT_BASE, ".quad 0x300000");
note!(xen_sys::XEN_ELFNOTE_PADDR_OFFSET, ".quad 0x300000");

// The literals above are those of the layout.
const _: () = assert!(crate::layout::VIRT_BASE == 0x30_0000);

global_asm!(
    ".pushsection .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4, 3f - 2f, {ty}",
    ".asciz \"Xen\"",
    concat!("2: .asciz \"", env!("CARGO_PKG_VERSION"), "\""),
    "3:",
    ".balign 4",
    ".popsection",
    ty = const xen_sys::XEN_ELFNOTE_GUEST_VERSION,
);
