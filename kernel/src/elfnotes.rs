//! ELF notes for the domain builder (`xen/include/public/elfnote.h`, types in xen-sys).
//!
//! No HYPERCALL_PAGE: a 64-bit PV guest may use `syscall` directly (see `hypercall.rs`), and the page would cost 4 KiB of image and memory.

use crate::layout::VIRT_BASE;

/// Puts the note into the image by which dom0 knows that it can take the place of another one in a running domain: the numbers of its layout and of its
/// contract with the other parts (`pcidom_abi::image`).
#[macro_export]
macro_rules! replaceable {
    ($layout:expr, $contract:expr) => {
        // SAFETY: `.note.Xen` is a section of notes (linker.ld); this is one, and a whole number of four bytes long.
        #[unsafe(link_section = ".note.Xen")]
        #[used]
        static REPLACEABLE: $crate::Note<[u32; 2], 8> = $crate::Note::named(*b"pcidom\0\0", 7, 1, [$layout, $contract]);
    };
}

unsafe extern "C" {
    /// Xen's entry into the image (`entry.rs`).
    fn _start() -> !;
}

/// One note (System V ABI, "Note Section"): name and descriptor begin at multiples of four, so nothing in it is aligned to more.
#[repr(C, packed(4))]
#[derive(Debug)]
pub struct Note<T, const NAME: usize = 4> {
    name_bytes: u32,
    descriptor_bytes: u32,
    kind: u32,
    name: [u8; NAME],
    descriptor: T,
}

impl<T> Note<T> {
    /// `kind` is one of `XEN_ELFNOTE_*`.
    const fn new(kind: u32, descriptor: T) -> Self {
        Self::named(*b"Xen\0", 4, kind, descriptor)
    }
}

impl<T, const NAME: usize> Note<T, NAME> {
    /// A note of a name with its NUL, `name_bytes` long, padded to a multiple of four.
    #[must_use]
    pub const fn named(name: [u8; NAME], name_bytes: u32, kind: u32, descriptor: T) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "descriptors are a few dozen bytes")]
        let descriptor_bytes = size_of::<T>() as u32;
        Self { name_bytes, descriptor_bytes, kind, name, descriptor }
    }
}

/// A note as a static where the linker script looks for it.
macro_rules! note {
    ($name:ident: $type:ty = $kind:ident, $descriptor:expr) => {
        // SAFETY: `.note.Xen` is a section of notes (linker.ld); this is one, and a whole number of four bytes long.
        #[unsafe(link_section = ".note.Xen")]
        #[used]
        static $name: Note<$type> = Note::new(xen_sys::$kind, $descriptor);
        const _: () = assert!(size_of::<Note<$type>>() % 4 == 0);
    };
}

/// The crate's version with a NUL behind it.
const VERSION: [u8; env!("CARGO_PKG_VERSION").len() + 1] = {
    let (mut text, from) = ([0; _], env!("CARGO_PKG_VERSION").as_bytes());
    let mut at = 0;
    while at < from.len() {
        text[at] = from[at];
        at += 1;
    }
    text
};

note!(GUEST_OS: [u8; 7] = XEN_ELFNOTE_GUEST_OS, *b"pcidom\0");
note!(GUEST_VERSION: [u8; VERSION.len()] = XEN_ELFNOTE_GUEST_VERSION, VERSION);
note!(XEN_VERSION: [u8; 8] = XEN_ELFNOTE_XEN_VERSION, *b"xen-3.0\0");
note!(LOADER: [u8; 8] = XEN_ELFNOTE_LOADER, *b"generic\0");
note!(PAE_MODE: [u8; 4] = XEN_ELFNOTE_PAE_MODE, *b"yes\0");
note!(FEATURES: [u8; 42] = XEN_ELFNOTE_FEATURES, *b"!writable_page_tables|pae_pgdir_above_4gb\0");
note!(ENTRY: unsafe extern "C" fn() -> ! = XEN_ELFNOTE_ENTRY, _start);
note!(VIRTUAL_BASE: usize = XEN_ELFNOTE_VIRT_BASE, VIRT_BASE);
note!(PADDR_OFFSET: usize = XEN_ELFNOTE_PADDR_OFFSET, VIRT_BASE);
