//! A one-shot timer: `VIRQ_TIMER` and `HYPERVISOR_set_timer_op`.

use crate::events::{self, Port};
use crate::hypercall::{hypercall5, number};
use xen_types::Errno;

/// The timer of our vCPU. [`crate::events::wait`] takes a deadline of its own and is what the stub uses; this is for code that wants the
/// time to come as an event.
#[derive(Debug)]
pub struct Timer {
    port: Port,
}

impl Timer {
    /// Binds the timer interrupt to a port. There can be one.
    ///
    /// # Errors
    /// `EEXIST` when there already is one.
    pub fn bind() -> Result<Self, Errno> {
        events::bind_virq(xen_sys::VIRQ_TIMER).map(|port| Self { port })
    }

    /// The port that becomes pending at the deadline.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Sets the moment, in nanoseconds of [`crate::clock::now_ns`]; an earlier setting is replaced. A moment in the past fires at once.
    ///
    /// # Errors
    /// Xen's word; none is known.
    pub fn set(&self, deadline_ns: u64) -> Result<(), Errno> {
        set_timer(deadline_ns.max(1))
    }

    /// Takes a set moment back.
    ///
    /// # Errors
    /// As [`Timer::set`].
    pub fn cancel(&self) -> Result<(), Errno> {
        set_timer(0)
    }
}

/// Zero stops the timer (`do_set_timer_op`, `xen/common/sched`).
fn set_timer(deadline_ns: u64) -> Result<(), Errno> {
    // SAFETY: no pointers; the only effect is an event on VIRQ_TIMER.
    unsafe { hypercall5(number::SET_TIMER_OP, deadline_ns, 0, 0, 0, 0) }.map(drop)
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Err(error) = self.cancel() {
            plain_log::error!("stopping the timer: {error}");
        }
        events::close(self.port);
    }
}

/// Stops the 10 ms periodic timer that every PV vCPU starts with (`VCPUOP_stop_periodic_timer` = 7, `vcpu.h`): an idle stub sleeps.
pub(crate) fn stop_periodic() -> Result<(), Errno> {
    const VCPUOP_STOP_PERIODIC_TIMER: u64 = 7;
    // SAFETY: acts on vCPU 0, ourselves; no pointers.
    unsafe { hypercall5(number::VCPU_OP, VCPUOP_STOP_PERIODIC_TIMER, 0, 0, 0, 0) }.map(drop)
}
