//! Whom a crash is put down to: what was being served.

use core::sync::atomic::{AtomicU32, Ordering};

use xen_types::{DomId, Port};

#[cfg(not(test))]
use crate::fixmap::{self, Record};

/// What is being served: nothing, the port of a frontend, or [`DOMAIN`] and the domain whose nodes are looked at.
static SERVING: AtomicU32 = AtomicU32::new(0);
const DOMAIN: u32 = 1 << 16;

/// A frontend's port is served now: what goes wrong is put down to it.
#[inline(always)] // for each request
pub fn serving(port: Port) {
    SERVING.store(port.0, Ordering::Relaxed);
}

/// A frontend's nodes are looked at now, or none's.
pub fn looking_at(domain: Option<DomId>) {
    SERVING.store(domain.map_or(0, |domain| DOMAIN | u32::from(domain.0)), Ordering::Relaxed);
}

/// The frontend that is being served, if it is one.
#[cfg(not(test))]
pub(crate) fn culprit() -> Option<DomId> {
    let serving = SERVING.load(Ordering::Relaxed);
    if serving & DOMAIN != 0 {
        return u16::try_from(serving & !DOMAIN).ok().map(DomId);
    }
    let is_it = |record| matches!(record, Record::Grant { port, .. } if port.0 != 0 && port.0 == serving);
    match fixmap::find(&is_it)?.1 {
        Record::Grant { domain, .. } => Some(domain),
        _ => None,
    }
}
