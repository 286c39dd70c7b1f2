//! Page-table entries. Tables are read-only to us; every change goes through Xen, which checks it.

use crate::hypercall::{hypercall5, number};
use crate::layout::PAGE_SIZE;
use crate::{frames, start_info};
use x86_64::structures::paging::PageTableFlags;
use xen_types::{Errno, Mfn};

pub(crate) use x86_64::structures::paging::PageTableFlags as PteFlags;

/// `UVMF_INVLPG | UVMF_LOCAL` (`xen.h`): drop the one TLB entry on this, our only, CPU.
const UVMF_INVLPG_LOCAL: u64 = 2;
/// `MMU_NORMAL_PT_UPDATE` (`xen.h`), in the low bits of the entry's machine address.
const MMU_NORMAL_PT_UPDATE: u64 = 0;
const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;

/// A leaf or table entry for `mfn`.
pub(crate) const fn entry(mfn: Mfn, flags: PageTableFlags) -> u64 {
    mfn.0 << 12 | flags.bits()
}

/// The frame in an entry.
pub(crate) const fn mfn_in(entry: u64) -> Mfn {
    Mfn((entry & FRAME_MASK) >> 12)
}

/// Sets the last-level entry of `address` (`HYPERVISOR_update_va_mapping`); 0 unmaps.
///
/// # Safety
/// Whatever was mapped at `address` is no longer used, or the new entry maps the same frame with the rights its users need; the new
/// frame is ours to map there (aliasing of own memory is the caller's concern).
pub(crate) unsafe fn set_entry(address: usize, value: u64) -> Result<(), Errno> {
    // SAFETY: no pointers are passed; the change of the mapping is the caller's promise.
    unsafe { hypercall5(number::UPDATE_VA_MAPPING, address as u64, value, UVMF_INVLPG_LOCAL, 0, 0) }?;
    Ok(())
}

/// The page tables' levels, from the top.
const SHIFTS: [u32; 4] = [39, 30, 21, 12];

fn index(address: usize, shift: u32) -> usize {
    address >> shift & 0x1ff
}

/// Where the entry of `address` stands in `table`, a table of the level with `shift`.
fn slot_of(table: usize, address: usize, shift: u32) -> *const u64 {
    (table as *const u64).wrapping_add(index(address, shift))
}

/// Address of the table that holds the entry of `address` at the level with `shift`; `None` if a table above is missing.
fn table_at(address: usize, shift: u32) -> Option<usize> {
    let mut table = start_info::get().page_table_base;
    for level in SHIFTS.into_iter().take_while(|&level| level != shift) {
        // SAFETY: `table` is one of our page tables, readable in the linear mapping; the index is below 512.
        let value = unsafe { slot_of(table, address, level).read_volatile() };
        if value & PteFlags::PRESENT.bits() == 0 {
            return None;
        }
        table = frames::address_of_own_mfn(mfn_in(value))?;
    }
    Some(table)
}

/// The last-level entry of `address`, 0 where nothing is mapped. Xen may have added flags of its own.
pub(crate) fn read_entry(address: usize) -> u64 {
    table_at(address, 12).map_or(0, |table| {
        // SAFETY: as in `table_at`.
        unsafe { slot_of(table, address, 12).read_volatile() }
    })
}

/// True when a page is mapped at `address`.
pub(crate) fn is_mapped(address: usize) -> bool {
    read_entry(address) & PteFlags::PRESENT.bits() != 0
}

/// True when a page is mapped at `address` and can be written to.
pub(crate) fn is_writable(address: usize) -> bool {
    let flags = PteFlags::PRESENT | PteFlags::WRITABLE;
    read_entry(address) & flags.bits() == flags.bits()
}

/// Adds a last-level table for the 2 MiB around `address`.
///
/// # Errors
/// `EEXIST` when there is one, `EINVAL` when `page` is not own memory, otherwise Xen's word. After an error the page is writable again.
///
/// # Safety
/// `page` is a page-aligned page of own memory that nothing else uses, filled with valid entries or zeroes, and is given up for good.
pub(crate) unsafe fn add_table(address: usize, page: usize) -> Result<(), Errno> {
    let level2 = table_at(address, 21).ok_or(Errno::EINVAL)?;
    let level2_mfn = frames::mfn_of_address(level2).ok_or(Errno::EINVAL)?;
    let slot = index(address, 21);
    // SAFETY: as in `table_at`.
    if unsafe { slot_of(level2, address, 21).read_volatile() } & PteFlags::PRESENT.bits() != 0 {
        return Err(Errno::EEXIST);
    }
    let page_mfn = frames::mfn_of_address(page).ok_or(Errno::EINVAL)?;
    // SAFETY: nobody uses `page` (contract); Xen wants page tables without writable mappings.
    unsafe { set_entry(page, entry(page_mfn, PteFlags::PRESENT | PteFlags::NO_EXECUTE)) }?;
    let flags = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::USER_ACCESSIBLE | PteFlags::ACCESSED;
    let mut update = xen_sys::mmu_update {
        ptr: level2_mfn.0 << 12 | (slot * size_of::<u64>()) as u64 | MMU_NORMAL_PT_UPDATE,
        val: entry(page_mfn, flags),
    };
    let mut done = 0u32;
    let [update_at, done_at] = [core::ptr::from_mut(&mut update) as u64, core::ptr::from_mut(&mut done) as u64];
    // SAFETY: one valid update, a valid count, DOMID_SELF; the entry was empty, so no mapping in use changes.
    let added =
        unsafe { hypercall5(number::MMU_UPDATE, update_at, 1, done_at, u64::from(xen_types::DomId::SELF.0), 0) };
    if let Err(error) = added {
        let writable = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::NO_EXECUTE;
        // SAFETY: the page did not become a table; its only mapping gets its old rights back.
        unsafe { set_entry(page, entry(page_mfn, writable)) }?;
        return Err(error);
    }
    Ok(())
}

/// A page to become a last-level table: maps own frames from `first` on linearly, as many as `count`, then nothing.
pub(crate) fn fill_linear_table(
    table: &mut [u64; PAGE_SIZE / 8],
    first: xen_types::Pfn,
    count: usize,
) -> Result<(), Errno> {
    let flags = PteFlags::PRESENT | PteFlags::WRITABLE | PteFlags::NO_EXECUTE | PteFlags::USER_ACCESSIBLE;
    for (slot, number) in table.iter_mut().take(count).zip(first.0..) {
        *slot = entry(frames::mfn_of(xen_types::Pfn(number)).ok_or(Errno::EINVAL)?, flags);
    }
    Ok(())
}
