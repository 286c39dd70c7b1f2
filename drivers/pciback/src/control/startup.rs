//! What the stub does first: sets its watches, and says that it is there.

use xen_types::Errno;
use xenstore::{Error, Request, TxId, path::relative};

use super::core::{BACKEND_TOKEN, Handle, POOL_TOKEN};
use crate::platform::Platform;

/// Until xenstored takes it.
const RETRY_NS: u64 = 1_000_000_000;

/// Runs once.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    while let Err(error) = announce(&handle).await {
        log::error!("cannot announce this stub: {error}");
        handle.sleep_until(handle.now_ns().saturating_add(RETRY_NS)).await;
    }
    handle.with(|core| core.is_ready = true);
    log::info!("ready");
}

async fn announce<P: Platform>(handle: &Handle<P>) -> Result<(), Error> {
    let (export, version) = handle.with(|core| (core.options.export, core.options.version));
    let watch = |path, token| handle.ask(TxId::NONE, &Request::Watch { path, token });
    // What is there already comes as the event that every new watch begins with.
    for watch in [watch(relative::POOL, POOL_TOKEN), watch(relative::BACKEND_ROOT, BACKEND_TOKEN)] {
        match watch.await {
            Err(error) if !error.is(Errno::EEXIST) => return Err(error), // it exists when this is not the first try
            _ => {}
        }
    }
    let write = |path, value: &str| handle.ask(TxId::NONE, &Request::Write { path, value: value.as_bytes() });
    write(relative::EXPORT, &alloc::format!("{export}")).await?;
    // Last: who sees it may rely on everything above.
    write(relative::VERSION, version).await?;
    Ok(())
}
