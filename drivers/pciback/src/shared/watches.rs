//! What we watch in xenstore, and what an event of each watch is about.

use alloc::format;
use alloc::string::String;

use pcidom_abi::{paths, pool};
use xen_types::{DomId, Sbdf};
use xenstore::path::key;
use xenstore::{WatchEvent, path};

/// Watch on [`path::relative::BACKEND_ROOT`].
const BACKEND_TOKEN: &str = "backend";
/// Watch on [`paths::relative::POOL`].
const POOL_TOKEN: &str = "pool";
/// Watch on [`path::relative::CONTROL_SHUTDOWN`].
const SHUTDOWN_TOKEN: &str = "shutdown";
/// Watch on [`paths::relative::QUERY`].
const QUERY_TOKEN: &str = "query";
/// Watches on the frontends' `state` nodes: this and the domain's number.
const FRONTEND_TOKEN: &str = "frontend-";
/// The one that asks for statistics.
pub(crate) const QUERY_WATCH: (&str, &str) = (paths::relative::QUERY, QUERY_TOKEN);
/// Watches set at the start: paths and tokens.
pub(crate) const WATCHES: [(&str, &str); 4] = [
    (paths::relative::POOL, POOL_TOKEN),
    (path::relative::BACKEND_ROOT, BACKEND_TOKEN),
    QUERY_WATCH,
    (path::relative::CONTROL_SHUTDOWN, SHUTDOWN_TOKEN),
];

/// The node of a frontend that is watched.
pub(crate) fn frontend_path(domid: DomId) -> String {
    path::child(&path::frontend_dir(domid), key::STATE)
}

/// And the watch's token.
pub(crate) fn frontend_token(domid: DomId) -> String {
    format!("{FRONTEND_TOKEN}{domid}")
}

/// Subject of a watch event.
pub(crate) enum Subject {
    /// The BE dir of this frontend.
    Backend(DomId),
    /// The BE dirs, of any frontend.
    AnyBackend,
    /// The `state` of a device of the pool.
    PoolState(Sbdf),
    /// Another node of a device of the pool.
    PoolDevice(Sbdf),
    /// The pool, any device of it.
    AnyPoolDevice,
    /// `control/shutdown`.
    Shutdown,
    /// A question about our statistics, which is in the path.
    Query,
    /// The `state` of this frontend.
    Frontend(DomId),
    /// A watch that is none of ours.
    Nothing,
}

/// Tells by its token and path what an event is about.
pub(crate) fn subject(event: &WatchEvent) -> Subject {
    match event.token.as_str() {
        BACKEND_TOKEN => match path::relative::split_backend(&event.path) {
            Some((domid, _)) => Subject::Backend(domid),
            None => Subject::AnyBackend,
        },
        POOL_TOKEN => match paths::relative::split_pool(&event.path) {
            Some((address, pool::STATE)) => Subject::PoolState(address),
            Some((address, _)) => Subject::PoolDevice(address),
            None => Subject::AnyPoolDevice,
        },
        SHUTDOWN_TOKEN => Subject::Shutdown,
        QUERY_TOKEN => Subject::Query,
        token => match token.strip_prefix(FRONTEND_TOKEN).and_then(|domid| domid.parse().ok()) {
            Some(domid) => Subject::Frontend(DomId(domid)),
            None => Subject::Nothing,
        },
    }
}
