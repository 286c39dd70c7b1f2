//! What the stub does first: sets its watches, and says that it is there.

use alloc::string::ToString as _;

use xen_types::{DomId, Errno};
use xenstore::{Error, Request, TxId, path::relative};

use super::core::{BACKEND_TOKEN, Core, Handle, POOL_TOKEN, QUERY_TOKEN};
use crate::platform::Platform;

/// Until xenstored takes it.
const RETRY_NS: u64 = 1_000_000_000;

/// Runs once.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    handle.with(Core::offer_ring);
    while let Err(error) = announce(&handle).await {
        log::error!("cannot announce this stub: {error}");
        handle.sleep_until(handle.now_ns().saturating_add(RETRY_NS)).await;
    }
    handle.with(|core| core.is_ready = true);
}

async fn announce<P: Platform>(handle: &Handle<P>) -> Result<(), Error> {
    let (export, version, ring) =
        handle.with(|core| (core.options.export, core.options.version, core.broker.offered()));
    // Before there are guests.
    let domain = handle.ask(TxId::NONE, &Request::Read { path: relative::DOMID }).await.ok();
    let domain = domain.and_then(|number| core::str::from_utf8(&number).ok()?.parse().ok()).map(DomId);
    handle.with(|core| core.options.domain = domain);
    let watch = |path, token| handle.ask(TxId::NONE, &Request::Watch { path, token });
    // What is there already comes as the event that every new watch begins with.
    let watches = [
        watch(relative::POOL, POOL_TOKEN),
        watch(relative::BACKEND_ROOT, BACKEND_TOKEN),
        watch(relative::QUERY, QUERY_TOKEN),
    ];
    for watch in watches {
        match watch.await {
            Err(error) if !error.is(Errno::EEXIST) => return Err(error), // it exists when this is not the first try
            _ => {}
        }
    }
    let mut nodes = alloc::vec![(relative::EXPORT, export.to_string())];
    if let Some((gref, port)) = ring {
        nodes.push((relative::RING_REF, gref.to_string()));
        nodes.push((relative::RING_PORT, port.to_string()));
    }
    // Last: who sees it may rely on everything above.
    nodes.push((relative::VERSION, version.to_string()));
    for (path, value) in nodes {
        handle.ask(TxId::NONE, &Request::Write { path, value: value.as_bytes() }).await?;
    }
    Ok(())
}
