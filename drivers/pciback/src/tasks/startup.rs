//! Start-up: sets the stub's watches and announces it.

use alloc::rc::Rc;
use alloc::string::ToString as _;

use pcidom_abi::{Restarts, paths};
use xen_types::{DomId, Errno};
use xenstore::{Error, Request, TxId, path::relative};

use super::store::Answers;
use super::values::Value;
use crate::platform::{Platform, Restarted};
use crate::shared::watches::WATCHES;
use crate::shared::{Core, Handle};

/// Until xenstored takes it.
const RETRY_NS: u64 = 1_000_000_000;

/// Until everything is announced though what a life before has left is not all taken over: xenstored refuses something again and again.
const ADOPTION_NS: u64 = 1_000_000_000;

/// Runs once. After a restart in place the announcement comes last: frontends wait for what they had, and the one of the life before still stands.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    handle.with(Core::offer_ring);
    if handle.with(Core::begin_adoption) {
        let adopted = handle.with(|core| {
            core.alarms.set(core.platform.now_ns() + ADOPTION_NS, &core.adopted);
            Rc::clone(&core.adopted)
        });
        adopted.wait().await;
        handle.with(|core| core.alarms.cancel(&adopted));
    }
    while let Err(error) = announce(&handle).await {
        plain_log::error!("cannot announce this stub: {error}");
        handle.sleep_until(handle.now_ns() + RETRY_NS).await;
    }
    handle.with(|core| core.is_ready = true);
    tell_restart(&handle);
}

/// Says that this life is not the first one.
#[inline(never)] // as below
fn tell_restart<P: Platform>(handle: &Handle<P>) {
    let (restarted, now_ns) = handle.with(|core| (core.platform.restarted(), core.platform.now_ns()));
    if let Some(Restarted { count, crashed_ns, last_words }) = restarted {
        let value = Restarts::value(count, now_ns - crashed_ns, last_words);
        handle.tell(TxId::NONE, &Request::Write { path: paths::relative::RESTARTS, value: &value });
    }
}

async fn announce<P: Platform>(handle: &Handle<P>) -> Result<(), Error> {
    // All in one round trip, and the version in another.
    let mut answers = ask_everything(handle);
    (&mut answers).await?;
    tell_domain(handle, &answers.values);
    // Last: who sees it may rely on everything above.
    let version = pcidom_abi::ANNOUNCEMENT.as_bytes();
    answers.ask(TxId::NONE, &Request::Write { path: paths::relative::VERSION, value: version }, &[]);
    answers.await
}

/// Takes note of our domain's number, which was asked for first.
#[inline(never)] // its caller is a task, in which everything costs more
fn tell_domain<P: Platform>(handle: &Handle<P>, values: &[Value]) {
    let number = values.first().and_then(Option::as_deref);
    let domain = number.and_then(|number| core::str::from_utf8(number).ok()?.parse().ok());
    handle.with(|core| core.options.domain = domain.map(DomId));
}

/// Asks for our domain's number, sets the watches and writes what we announce.
#[inline(never)] // its caller is a task, in which everything costs more
fn ask_everything<P: Platform>(handle: &Handle<P>) -> Answers<P> {
    let (export, ring) = handle.with(|core| (core.options.export, core.broker.offered()));
    let mut asked = Answers::new(handle);
    asked.ask(TxId::NONE, &Request::Read { path: relative::DOMID }, &[Errno::ENOENT, Errno::EACCES]);
    // What is there already comes as the event that every new watch begins with. It exists when this is not the first try.
    for (path, token) in WATCHES {
        asked.ask(TxId::NONE, &Request::Watch { path, token }, &[Errno::EEXIST]);
    }
    let mut write = |path, value: &str| asked.ask(TxId::NONE, &Request::Write { path, value: value.as_bytes() }, &[]);
    write(paths::relative::EXPORT, &export.to_string());
    if let Some((gref, port)) = ring {
        write(paths::relative::RING_REF, &gref.to_string());
        write(paths::relative::RING_PORT, &port.to_string());
    }
    asked
}
