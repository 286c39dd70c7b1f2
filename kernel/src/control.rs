//! Ending the domain (`SCHEDOP_shutdown`, `xen/include/public/sched.h`).

use crate::hypercall::{hypercall_op, number};
use crate::{events, survivor};

/// Why the domain ends; `on_poweroff=`, `on_reboot=` and `on_crash=` of its configuration say what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownReason {
    /// Done.
    Poweroff = 0,
    /// Start again.
    Reboot = 1,
    /// A bug.
    Crash = 3,
}

/// Ends the domain; an image on trial that has crashed sleeps instead, until dom0 has put the one before it back.
pub fn shutdown(reason: ShutdownReason) -> ! {
    while reason == ShutdownReason::Crash && survivor::has_failed_trial() {
        let _ = events::wait(&[], None);
    }
    loop {
        let mut argument = xen_sys::sched_shutdown { reason: reason as u32 };
        // SAFETY: the structure that SCHEDOP_shutdown takes; the domain stops running, so nothing is harmed.
        let _ = unsafe { hypercall_op(number::SCHED_OP, xen_sys::SCHEDOP_shutdown, &mut argument) };
    }
}
