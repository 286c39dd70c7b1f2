//! Event channels by the two-level ABI (`xen/include/public/event_channel.h`): 4,096 ports, a pending bit each.
//!
//! Ports are left unmasked, so that Xen keeps the selector word up to date and a scan costs one word for each group of 64 ports with
//! something pending; upcalls themselves stay masked for ever.

use crate::clock;
use crate::hypercall::{hypercall_op, number};
use crate::shared_info::{self, EVENT_WORDS};
use core::sync::atomic::Ordering;
use xen_types::{DomId, Errno};

pub use xen_types::Port;

/// Most ports that one `SCHEDOP_poll` can name (`do_poll`, `xen/common/sched/core.c`).
pub const MAX_POLL_PORTS: usize = 128;

const _: () = assert!(size_of::<xen_sys::evtchn_bind_interdomain>() == 12);
const _: () = assert!(size_of::<xen_sys::evtchn_alloc_unbound>() == 8);
const _: () = assert!(size_of::<xen_sys::evtchn_bind_virq>() == 12);
const _: () = assert!(size_of::<xen_sys::evtchn_status>() == 24);
const _: () = assert!(size_of::<xen_sys::sched_poll>() == 24);

fn event_op<T>(op: u32, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: callers in this file pass the structure that `op` takes; event operations touch no other memory of ours.
    unsafe { hypercall_op(number::EVENT_CHANNEL_OP, op, argument) }.map(drop)
}

/// Unmasks every port, once at start: the builder leaves the mask undefined.
///
/// `evtchn_upcall_pending` is set here and stays so. Upcalls are never delivered, and while it is set Xen does not interrupt the vCPU's CPU for
/// another event (`vcpu_mark_events_pending`, `xen/arch/x86/domain.c`); polling does not look at it.
pub(crate) fn init() {
    let page = shared_info::get();
    for word in 0..EVENT_WORDS {
        page.mask(word).store(0, Ordering::Relaxed);
    }
    page.upcall_pending().store(1, Ordering::Relaxed);
    // What became pending while it was masked is not in the selector: the first scan looks at every word.
    page.pending_selector().store(u64::MAX, Ordering::Release);
}

/// Makes a port that `peer` may bind to.
///
/// # Errors
/// `ENOSPC` when all ports are in use.
pub fn alloc_unbound(peer: DomId) -> Result<Port, Errno> {
    let mut argument = xen_sys::evtchn_alloc_unbound { dom: DomId::SELF.0, remote_dom: peer.0, port: 0 };
    event_op(xen_sys::EVTCHNOP_alloc_unbound, &mut argument)?;
    Ok(Port(argument.port))
}

/// Binds a new local port to the port that `peer` made for us. The new port is pending once.
///
/// # Errors
/// `ESRCH` when `peer` is gone, `EINVAL` when its port is not meant for us, `ENOSPC` when all ports are in use.
pub fn bind_interdomain(peer: DomId, remote: Port) -> Result<Port, Errno> {
    let mut argument = xen_sys::evtchn_bind_interdomain { remote_dom: peer.0, remote_port: remote.0, local_port: 0 };
    event_op(xen_sys::EVTCHNOP_bind_interdomain, &mut argument)?;
    Ok(Port(argument.local_port))
}

/// True while a port that we made has its other end bound. When that is closed, by whatever end of the peer, our port is
/// as it was after [`alloc_unbound`], and the same peer may bind it again (`evtchn_close`, `xen/common/event_channel.c`).
#[must_use]
pub fn is_connected(port: Port) -> bool {
    matches!(other_end(port), Ok(Some(_)))
}

/// What a port of ours is bound to in another domain, if it is.
///
/// # Errors
/// `EINVAL` for a number that is above those that were ever in use.
#[inline(never)] // its callers are two
fn other_end(port: Port) -> Result<Option<(DomId, Port)>, Errno> {
    let interdomain = xen_sys::evtchn_status__bindgen_ty_1__bindgen_ty_2 { dom: 0, port: 0 };
    let u = xen_sys::evtchn_status__bindgen_ty_1 { interdomain };
    let mut argument = xen_sys::evtchn_status { dom: DomId::SELF.0, port: port.0, status: 0, vcpu: 0, u };
    event_op(xen_sys::EVTCHNOP_status, &mut argument)?;
    // SAFETY: numbers, all of which were written above; with this status they are what their names say.
    let xen_sys::evtchn_status__bindgen_ty_1__bindgen_ty_2 { dom, port } = unsafe { argument.u.interdomain };
    Ok((argument.status == xen_sys::EVTCHNSTAT_interdomain).then_some((DomId(dom), Port(port))))
}

/// The port of ours that is bound to this one, if there is one. A hypercall for each port that we ever had.
#[cold]
pub(crate) fn find_bound(peer: DomId, remote: Port) -> Option<Port> {
    (1..)
        .map(Port)
        .map_while(|port| Some((port, other_end(port).ok()?)))
        .find(|(_, end)| *end == Some((peer, remote)))
        .map(|(port, _)| port)
}

/// Binds a virtual interrupt of our vCPU.
pub(crate) fn bind_virq(virq: u32) -> Result<Port, Errno> {
    let mut argument = xen_sys::evtchn_bind_virq { virq, vcpu: 0, port: 0 };
    event_op(xen_sys::EVTCHNOP_bind_virq, &mut argument)?;
    Ok(Port(argument.port))
}

/// Raises the event at the other end.
///
/// # Errors
/// `EINVAL` for a port that is not bound.
#[inline(always)] // once for each request
pub fn notify(port: Port) -> Result<(), Errno> {
    let mut argument = xen_sys::evtchn_send { port: port.0 };
    // SAFETY: the structure that this operation takes; it touches no other memory of ours.
    unsafe { hypercall_op(number::EVENT_CHANNEL_OP, xen_sys::EVTCHNOP_send, &mut argument) }.map(drop)
}

/// Closes a port. A pending event of it is forgotten, so that the next user of the number does not see it.
pub fn close(port: Port) {
    if let Err(error) = event_op(xen_sys::EVTCHNOP_close, &mut xen_sys::evtchn_close { port: port.0 }) {
        plain_log::error!("closing port {port}: {error}");
    }
    clear(port);
}

fn place(port: Port) -> (usize, u64) {
    (port.0 as usize / 64, 1 << (port.0 % 64))
}

/// Forgets a pending event; true if there was one. To be called before looking at the work the event is about.
pub fn clear(port: Port) -> bool {
    let (word, bit) = place(port);
    shared_info::get().pending(word).fetch_and(!bit, Ordering::AcqRel) & bit != 0
}

/// Makes a port of ours pending, as an event from the other end would: for work that is left for the next turn.
#[cold]
#[inline(never)]
pub fn raise(port: Port) {
    let (word, bit) = place(port);
    let page = shared_info::get();
    page.pending(word).fetch_or(bit, Ordering::AcqRel);
    page.pending_selector().fetch_or(1 << (word % EVENT_WORDS), Ordering::AcqRel);
}

/// True when the port has a pending event.
#[must_use]
pub fn is_pending(port: Port) -> bool {
    let (word, bit) = place(port);
    shared_info::get().pending(word).load(Ordering::Acquire) & bit != 0
}

/// Clears every pending event and gives its port to `visit`.
pub fn take_pending(mut visit: impl FnMut(Port)) {
    let page = shared_info::get();
    let mut words = page.pending_selector().swap(0, Ordering::AcqRel);
    while words != 0 {
        let word = words.trailing_zeros();
        words &= words - 1;
        let mut bits = page.pending(word as usize).swap(0, Ordering::AcqRel);
        while bits != 0 {
            visit(Port(word * 64 + bits.trailing_zeros()));
            bits &= bits - 1;
        }
    }
}

/// Looks for an event on any port, without sleeping, until `ticks` of [`clock::ticks`] have passed; true when there is one.
#[must_use]
pub fn look_for(ticks: u64) -> bool {
    let page = shared_info::get();
    let start = clock::ticks();
    while page.pending_selector().load(Ordering::Relaxed) == 0 {
        if clock::ticks().wrapping_sub(start) >= ticks {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Sleeps until one of `ports` is pending or `deadline_ns` ([`clock::now_ns`]) has passed; `None` waits for ever. Returns at once
/// if one is pending already. Only the first [`MAX_POLL_PORTS`] ports count; with more than one port listed, an event on any port
/// ends the sleep, but only listed ones are looked at before it starts.
///
/// # Errors
/// `EINVAL` when a port is not bound.
#[inline(always)] // in each turn of the main loop
pub fn wait(ports: &[Port], deadline_ns: Option<u64>) -> Result<(), Errno> {
    let mut argument = xen_sys::sched_poll {
        // A `Port` is its number (`repr(transparent)`), and Xen only reads them.
        ports: ports.as_ptr().cast::<u32>().cast_mut(),
        nr_ports: u32::try_from(ports.len().min(MAX_POLL_PORTS)).unwrap_or(0),
        // Zero is "no timeout" (sched.h); a deadline of 0 has passed anyway.
        timeout: deadline_ns.map_or(0, |deadline| deadline.max(1)),
    };
    #[cfg(feature = "counting")]
    let asleep_since = clock::ticks();
    // SAFETY: `ports` points at `nr_ports` numbers that live until the call returns, and which it does not change (`do_poll`).
    let woken = unsafe { hypercall_op(number::SCHED_OP, xen_sys::SCHEDOP_poll, &mut argument) }.map(drop);
    #[cfg(feature = "counting")]
    crate::counting::slept(asleep_since);
    woken
}
