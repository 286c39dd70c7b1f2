//! The bare hypercalls: number in `rax`, arguments in `rdi rsi rdx r10 r8`, result in `rax`, `rcx` and `r11` lost
//! (`xen/include/public/arch-x86/xen-x86_64.h`). Debug builds of Xen also scribble over the argument registers, so each is
//! declared as lost. `syscall` itself uses no stack.
//!
//! Written here because xen-sys passes argument 5 in `r9` and declares no clobbers. A `Result` is made at this lowest level:
//! Xen returns `-errno` for every hypercall used here.

use core::arch::asm;
use xen_types::Errno;

/// Hypercall numbers (`xen/include/public/xen.h`).
pub mod number {
    /// Register exception handlers.
    pub const SET_TRAP_TABLE: u32 = xen_sys::__HYPERVISOR_set_trap_table;
    /// Change page-table entries by machine address.
    pub const MMU_UPDATE: u32 = xen_sys::__HYPERVISOR_mmu_update;
    /// Change the last-level entry of a virtual address.
    pub const UPDATE_VA_MAPPING: u32 = xen_sys::__HYPERVISOR_update_va_mapping;
    /// One-shot timer of the vCPU.
    pub const SET_TIMER_OP: u32 = xen_sys::__HYPERVISOR_set_timer_op;
    /// Version queries.
    pub const XEN_VERSION: u32 = xen_sys::__HYPERVISOR_xen_version;
    /// Xen's own console.
    pub const CONSOLE_IO: u32 = xen_sys::__HYPERVISOR_console_io;
    /// Grant tables.
    pub const GRANT_TABLE_OP: u32 = xen_sys::__HYPERVISOR_grant_table_op;
    /// vCPU control.
    pub const VCPU_OP: u32 = xen_sys::__HYPERVISOR_vcpu_op;
    /// Handlers of what is no exception.
    pub const CALLBACK_OP: u32 = xen_sys::__HYPERVISOR_callback_op;
    /// Scheduling and shutdown.
    pub const SCHED_OP: u32 = xen_sys::__HYPERVISOR_sched_op;
    /// Event channels.
    pub const EVENT_CHANNEL_OP: u32 = xen_sys::__HYPERVISOR_event_channel_op;
}

/// Turns Xen's return register into a result.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "errno values are below 4096; other results are not negative"
)]
#[inline(always)]
const fn result(rax: i64) -> Result<u64, Errno> {
    if rax < 0 { Err(Errno(-rax as i32)) } else { Ok(rax as u64) }
}

/// Makes a hypercall with five arguments; those that the call does not take are ignored by Xen.
///
/// # Errors
/// Xen's `-errno`.
///
/// # Safety
/// The caller owes what the called operation asks for: pointers valid for what Xen reads and writes through them, and that
/// the operation does not take away memory or mappings that safe code still uses.
#[inline(always)]
pub unsafe fn hypercall5(number: u32, a1: u64, a2: u64, a3: u64, a4: u64, a5: u64) -> Result<u64, Errno> {
    #[cfg(feature = "counting")]
    let entered = crate::counting::enter();
    #[cfg(feature = "faults")]
    crate::faults::at(crate::faults::Place::Before);
    let rax: i64;
    // SAFETY: register use is as the ABI asks (module doc); memory is assumed changed (no `nomem`); what the operation does is the
    // caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") i64::from(number) => rax,
            inlateout("rdi") a1 => _,
            inlateout("rsi") a2 => _,
            inlateout("rdx") a3 => _,
            inlateout("r10") a4 => _,
            inlateout("r8") a5 => _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(feature = "counting")]
    crate::counting::leave(entered);
    #[cfg(feature = "faults")]
    crate::faults::at(crate::faults::Place::After);
    result(rax)
}

/// A hypercall whose only memory argument is one structure, given by reference, after a sub-operation number.
///
/// # Safety
/// `T` is the structure that `number`/`op` takes, and what the operation does to memory or mappings harms no safe code.
#[inline(always)]
pub(crate) unsafe fn hypercall_op<T>(number: u32, op: u32, argument: &mut T) -> Result<u64, Errno> {
    let pointer = core::ptr::from_mut(argument) as u64;
    // SAFETY: `argument` is valid for reads and writes of a `T` while the call runs; the rest is the caller's promise.
    unsafe { hypercall5(number, u64::from(op), pointer, 0, 0, 0) }
}

/// The running Xen's version, major and minor (`XENVER_version`).
#[must_use]
pub(crate) fn xen_version() -> (u16, u16) {
    // SAFETY: XENVER_version (0) takes no pointer and changes nothing (`version.h`).
    let version = unsafe { hypercall5(number::XEN_VERSION, 0, 0, 0, 0, 0) }.unwrap_or(0);
    #[expect(clippy::cast_possible_truncation, reason = "major is in bits 31:16, minor in bits 15:0")]
    ((version >> 16) as u16, version as u16)
}
