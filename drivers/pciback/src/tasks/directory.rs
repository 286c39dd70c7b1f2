//! Finds the frontends when an event did not name one: at the start, when a whole tree was removed, when events were lost.

use alloc::rc::Rc;

use xen_types::DomId;
use xenstore::{Request, TxId, directory_entries, path::relative};

use crate::platform::Platform;
use crate::shared::Handle;

/// Runs for ever. A directory that is gone is noticed by its frontend's own task.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    let signal = handle.with(|core| Rc::clone(&core.list_backends));
    loop {
        signal.wait().await;
        let listing = handle.ask(TxId::NONE, &Request::Directory { path: relative::BACKEND_ROOT }).await;
        // ENOENT is the ordinary case before the first frontend. Whatever it is, the next event brings us back here.
        let Ok(listing) = listing else { continue };
        handle.with(|core| {
            for domid in directory_entries(&listing).filter_map(|name| name.parse().ok()) {
                core.look_at_frontend(DomId(domid));
            }
        });
    }
}
