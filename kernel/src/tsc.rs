//! The time-stamp counter.

/// The time-stamp counter: for short times, and for moments that may be asked about later; it costs a fraction of [`crate::clock::now_ns`]. (Xen
/// emulates it for guests without `tsc_mode="native"` on hosts without an invariant one.)
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has rdtsc, and Xen never takes it away from a PV guest (it emulates it at most).
    unsafe { core::arch::x86_64::_rdtsc() }
}
