//! Event channels, between this domain and itself.

use crate::check::{Outcome, check, check_eq, ok};
use alloc::vec::Vec;
use kernel::{clock, events};
use xen_types::{DomId, Errno, Port};

const SELF: DomId = DomId::DOM0;

/// Two ends of one channel; both are quiet.
fn channel() -> Result<[Port; 2], Errno> {
    let offered = events::alloc_unbound(SELF)?;
    let bound = events::bind_interdomain(SELF, offered)?;
    events::clear(bound);
    Ok([offered, bound])
}

fn close(channel: [Port; 2]) {
    channel.into_iter().for_each(events::close);
}

pub(super) fn pair() -> Outcome {
    let offered = ok!(events::alloc_unbound(SELF));
    let bound = ok!(events::bind_interdomain(SELF, offered));
    check!(events::clear(bound), "a new port is pending once");
    for [from, to] in [[offered, bound], [bound, offered]] {
        check!(!events::is_pending(to), "quiet before");
        ok!(events::notify(from));
        check!(events::is_pending(to), "pending after a notify");
        check!(!events::is_pending(from), "the sender's own port stays quiet");
        check!(events::clear(to) && !events::clear(to), "cleared once");
    }
    ok!(events::notify(offered));
    close([offered, bound]);
    check!(!events::is_pending(bound), "a closed port is forgotten");
    Ok(())
}

/// A peer that went away may come back to the same port.
pub(super) fn reconnect() -> Outcome {
    let offered = ok!(events::alloc_unbound(SELF));
    check!(!events::is_connected(offered), "nobody is there yet");
    for _ in 0..2 {
        let bound = ok!(events::bind_interdomain(SELF, offered));
        check!(events::is_connected(offered), "bound");
        events::close(bound);
        check!(!events::is_connected(offered), "closed by the peer");
        ok!(events::notify(offered));
    }
    events::close(offered);
    Ok(())
}

pub(super) fn scan() -> Outcome {
    let mut channels = Vec::new();
    for _ in 0..150 {
        channels.push(ok!(channel()));
    }
    check!(channels.iter().any(|[_, bound]| bound.0 > 256), "ports in several words");
    events::take_pending(|_| {});
    let mut want: Vec<Port> = channels.iter().step_by(7).map(|&[_, bound]| bound).collect();
    for [offered, _] in channels.iter().step_by(7) {
        ok!(events::notify(*offered));
        ok!(events::notify(*offered));
    }
    let mut found = Vec::new();
    events::take_pending(|port| found.push(port));
    want.sort_unstable();
    found.sort_unstable();
    check_eq!(found, want);
    events::take_pending(|port| found.push(port));
    check_eq!(found.len(), want.len());
    channels.into_iter().for_each(close);
    Ok(())
}

pub(super) fn wait() -> Outcome {
    const LONG_NS: u64 = 5_000_000_000;
    let [offered, bound] = ok!(channel());
    let start = clock::now_ns();
    ok!(events::notify(offered));
    ok!(events::wait(&[bound], Some(start + LONG_NS)));
    check!(clock::now_ns() < start + LONG_NS, "returns at once when the port is pending");
    check!(events::is_pending(bound), "waiting clears nothing");
    events::clear(bound);
    let start = clock::now_ns();
    ok!(events::wait(&[bound], Some(start + 5_000_000)));
    check!(clock::now_ns() >= start + 5_000_000, "sleeps until the deadline");
    close([offered, bound]);
    Ok(())
}

pub(super) fn refused() -> Outcome {
    check_eq!(events::notify(Port(4000)), Err(Errno::EINVAL));
    check_eq!(events::bind_interdomain(SELF, Port(4000)), Err(Errno::EINVAL));
    check!(events::bind_interdomain(DomId(4711), Port(1)).is_err(), "no such domain");
    check!(events::wait(&[Port(1 << 30)], Some(1)).is_err(), "no such port");
    Ok(())
}
