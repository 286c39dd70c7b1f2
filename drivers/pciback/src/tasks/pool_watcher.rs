//! The pool's task: reads the nodes of each device and writes its `state`.

use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use pcidom_abi::{AerValue, PoolState, paths, pool};
use xen_types::{Errno, Sbdf};
use xenstore::{Request, TxId, directory_entries, path};

use super::directory::is_answered;
use super::store::Answers;
use super::values::{Value, Values};
use crate::platform::Platform;
use crate::pool::{Cause, Description, DeviceInfo, Dirty};
use crate::shared::Handle;

/// Runs for ever.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    let signal = handle.with(|core| Rc::clone(&core.pool.signal));
    loop {
        signal.wait().await;
        let mut dirty = handle.with(|core| core.pool.take_dirty());
        let is_full = dirty.all || dirty.rest;
        let mut is_whole = true;
        if is_full {
            // None yet: the watch tells when there is.
            let mut answers = Answers::new(&handle);
            answers.ask(TxId::NONE, &Request::Directory { path: paths::relative::POOL }, &[Errno::ENOENT]);
            is_whole = is_answered((&mut answers).await);
            add_listed(&handle, &mut dirty, &answers.values);
        }
        for (address, cause) in dirty.addresses {
            let mut answers = Answers::new(&handle);
            // Few devices have all nodes that there can be, and each question is some hundred microseconds of dom0's.
            answers.ask(
                TxId::NONE,
                &Request::Directory { path: &paths::relative::pool_dir(address) },
                &[Errno::ENOENT],
            );
            let mut result = (&mut answers).await;
            let listed = ask_for_listed(address, &mut answers);
            if result.is_ok() {
                result = (&mut answers).await;
            }
            if result.is_ok() {
                look(&handle, address, cause, listed, &mut answers);
                result = answers.await;
            }
            if let Err(error) = &result {
                plain_log::error!("pool: {address}: xenstore: {error}");
                is_whole = false;
                handle.with(|core| {
                    core.pool.mark(address);
                    core.raise_later(&signal);
                });
            }
            handle.with(|core| core.has_looked_at(address, result.is_ok()));
        }
        if is_full {
            handle.with(|core| core.has_looked_at_pool(is_whole));
        }
    }
}

/// Adds the devices that are in a listing of the pool, or those of them that are not known.
#[inline(never)] // its caller is a task, in which everything costs more
fn add_listed<P: Platform>(handle: &Handle<P>, dirty: &mut Dirty, values: &[Value]) {
    let listing = values.iter().flatten().next().map(Vec::as_slice).unwrap_or_default();
    for address in directory_entries(listing).filter_map(|name| Sbdf::parse_path_component(name).ok()) {
        if dirty.all || !handle.with(|core| core.pool.is_known(address)) {
            dirty.add(address, Cause::Other);
        }
    }
}

/// Asks for the nodes of a device that are in the listing which was answered. Says which of [`pool::NODES`] those are.
#[inline(never)] // as above
fn ask_for_listed<P: Platform>(address: Sbdf, answers: &mut Answers<P>) -> [bool; pool::NODES.len()] {
    let values = core::mem::take(&mut answers.values);
    let listing = values.iter().flatten().next().map(Vec::as_slice).unwrap_or_default();
    let listed = pool::NODES.map(|node| directory_entries(listing).any(|name| name == node));
    let dir = paths::relative::pool_dir(address);
    for (node, _) in pool::NODES.iter().zip(listed).filter(|(_, is_listed)| *is_listed) {
        answers.ask(TxId::NONE, &Request::Read { path: &path::child(&dir, node) }, &[Errno::ENOENT]);
    }
    listed
}

/// Takes note of the nodes of a device, and asks for its `state` to be written if it is to say something else.
#[inline(never)] // as above
fn look<P: Platform>(
    handle: &Handle<P>,
    address: Sbdf,
    cause: Cause,
    listed: [bool; pool::NODES.len()],
    answers: &mut Answers<P>,
) {
    let mut read = core::mem::take(&mut answers.values).into_iter();
    let values = listed.map(|is_listed| if is_listed { read.next().flatten() } else { None });
    let nodes = Values { names: &pool::NODES, values: &values };
    if nodes.get(pool::ECAM).is_none() && nodes.get(pool::ONLINE).is_none() {
        return handle.with(|core| core.pool.removed(address));
    }
    // Our own answer is no reason to look at the device: one that keeps changing its mind would keep us looking for ever.
    if cause == Cause::State && handle.with(|core| core.pool.has_said(address, nodes.get(pool::STATE))) {
        return;
    }
    let wanted = update(handle, address, nodes);
    let has_said = nodes.get(pool::STATE) == Some(wanted.as_bytes());
    let aer = nodes.get(pool::AER).and_then(AerValue::parse);
    if let Some(value) = handle.with(|core| core.relay(address, aer)) {
        let path = path::child(&paths::relative::pool_dir(address), pool::AER);
        // The tool may have removed it.
        answers.ask(TxId::NONE, &Request::Write { path: &path, value: &value.digit() }, &[Errno::EACCES]);
    }
    if !has_said {
        handle.with(|core| core.pool.say(address, &wanted, core.platform.now_ns()));
        let path = path::child(&paths::relative::pool_dir(address), pool::STATE);
        answers.ask(TxId::NONE, &Request::Write { path: &path, value: wanted.as_bytes() }, &[]);
    }
}

/// Brings the pool in line with what the nodes say, and says what `state` shall be.
fn update<P: Platform>(handle: &Handle<P>, address: Sbdf, nodes: Values<'_>) -> String {
    let mut description = Description {
        info: describe(address, nodes),
        online: nodes.decimal(pool::ONLINE).is_some_and(|online| online != 0),
        is_new: nodes.get(pool::STATE) == Some(PoolState::New.word().as_bytes()),
        holder: nodes.get(pool::STATE).and_then(PoolState::holder),
    };
    handle.with(|core| {
        core.look_after(address);
        if !core.adoption.is_under_way() {
            description.holder = None;
        }
        let wanted = core.pool.described(&core.platform, address, description);
        if core.pool.take_news(address) {
            core.retry_failed(address);
        }
        wanted
    })
}

fn describe(address: Sbdf, nodes: Values<'_>) -> Result<DeviceInfo, String> {
    let told = pool::Description::read(|name| nodes.get(name)).map_err(|error| error.to_string())?;
    DeviceInfo::new(address, told).map_err(|error| error.to_string())
}
