//! Where things are in the virtual address space. `linker.ld` and the ELF notes use the same base.

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// Virtual address of page frame 0: `VIRT_BASE` and `PADDR_OFFSET` of the ELF notes and the link address of the image.
///
/// 1 MiB below a 4 MiB boundary: the domain builder maps up to the next such boundary, and it refuses to start a domain with less
/// memory than it maps, so this base is what lets the stub boot with `memory=1`.
pub const VIRT_BASE: usize = 0x30_0000;

/// First fixmap entry. The page table that maps the image also covers 0x200000-0x2fffff: 256 entries without further memory.
pub(crate) const FIXMAP_BASE: usize = 0x20_0000;

/// Entries in the page table that is there from the start.
pub(crate) const FIXMAP_SLOTS: usize = (VIRT_BASE - FIXMAP_BASE) / PAGE_SIZE;

/// Further entries, in page tables made when they are needed. Far above any memory this domain may have, below 1 GiB so that the existing
/// L2 table covers them.
pub(crate) const FIXMAP_GROWTH_BASE: usize = 0x1000_0000;

/// Most page tables that the growth area may take: 32 × 512 slots.
pub(crate) const FIXMAP_GROWTH_TABLES: usize = 32;

/// Segments of a 64-bit PV guest's kernel (`FLAT_KERNEL_CS64`, `FLAT_KERNEL_SS64`, `arch-x86/xen-x86_64.h`).
pub(crate) const KERNEL_CS: u16 = 0xe033;
#[cfg(not(test))]
pub(crate) const KERNEL_SS: u16 = 0xe02b;
