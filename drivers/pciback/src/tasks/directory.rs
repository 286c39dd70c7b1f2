//! Finds the frontends when an event did not name one: at the start, when a whole tree was removed, when events were lost.

use alloc::rc::Rc;

use xen_types::{DomId, Errno};
use xenstore::{Error, Request, TxId, directory_entries, path::relative};

use super::store::Answers;
use super::values::Value;
use crate::platform::Platform;
use crate::shared::Handle;

/// Runs for ever. A directory that is gone is noticed by its frontend's own task.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    let signal = handle.with(|core| Rc::clone(&core.list_backends));
    loop {
        signal.wait().await;
        // What a life before has said about a frontend whose directory went meanwhile is to go too: its task sees to that.
        // ENOENT is the ordinary case before the first frontend. Whatever else it is, the next event brings us back here.
        let mut answers = Answers::new(&handle);
        for path in [relative::BACKEND_ROOT, relative::ERROR_ROOT] {
            answers.ask(TxId::NONE, &Request::Directory { path }, &[Errno::ENOENT]);
        }
        let is_whole = is_answered((&mut answers).await);
        look_at_listed(&handle, &answers.values);
        handle.with(|core| {
            if is_whole {
                core.has_listed();
            } else {
                core.raise_later(&signal);
            }
        });
    }
}

/// Whether that could be asked. It is asked again otherwise.
#[inline(never)] // its callers are tasks, in which everything costs more
pub(super) fn is_answered(result: Result<(), Error>) -> bool {
    if let Err(error) = result {
        plain_log::error!("cannot list devices or frontends: {error}");
    }
    result.is_ok()
}

/// Looks at the frontends that are in these listings.
#[inline(never)] // its caller is a task, in which everything costs more
fn look_at_listed<P: Platform>(handle: &Handle<P>, listings: &[Value]) {
    let names = listings.iter().flatten().flat_map(|listing| directory_entries(listing));
    for domid in names.filter_map(|name| name.parse().ok()) {
        handle.with(|core| core.look_at_frontend(DomId(domid)));
    }
}
