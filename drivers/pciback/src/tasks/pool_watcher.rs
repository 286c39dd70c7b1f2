//! The pool's task: reads the nodes of each device and writes its `state`.

use alloc::rc::Rc;
use alloc::string::{String, ToString as _};

use pcidom_abi::{PoolState, paths, pool};
use xen_types::{Errno, Sbdf};
use xenstore::{Request, TxId, directory_entries, path};

use super::store::Answer;
use super::values::{Answers, Value, Values};
use crate::platform::Platform;
use crate::pool::{Cause, Description, DeviceInfo};
use crate::shared::Handle;

/// Runs for ever.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    let signal = handle.with(|core| Rc::clone(&core.pool.signal));
    loop {
        signal.wait().await;
        let mut dirty = handle.with(|core| core.pool.take_dirty());
        let mut is_all = dirty.all;
        if is_all {
            let listing = handle.ask(TxId::NONE, &Request::Directory { path: paths::relative::POOL }).await;
            is_all = listing.is_ok() || listing.as_ref().is_err_and(|error| error.is(Errno::ENOENT));
            let listing = listing.unwrap_or_default(); // none yet: the watch tells when there is
            for address in directory_entries(&listing).filter_map(|name| Sbdf::parse_path_component(name).ok()) {
                dirty.add(address, Cause::Other);
            }
        }
        for (address, cause) in dirty.addresses {
            let mut answers = Answers::NONE;
            let dir = paths::relative::pool_dir(address);
            answers.read(&handle, TxId::NONE, &dir, &pool::NODES, "", &[Errno::ENOENT]);
            let mut result = (&mut answers).await;
            if result.is_ok()
                && let Some(answer) = look(&handle, address, cause, &answers.values)
            {
                answers.add(answer, &[]);
                result = (&mut answers).await;
            }
            if let Err(error) = result {
                plain_log::error!("pool: {address}: xenstore: {error}");
                is_all = false;
                handle.with(|core| {
                    core.pool.mark(address);
                    core.raise_later(&signal);
                });
            }
        }
        handle.with(|core| core.has_looked_at_pool(is_all));
    }
}

/// Takes note of the nodes of a device, and asks for its `state` to be written if it is to say something else.
#[inline(never)] // its caller is a task, in which everything costs more
fn look<P: Platform>(handle: &Handle<P>, address: Sbdf, cause: Cause, values: &[Value]) -> Option<Answer<P>> {
    let nodes = Values { names: &pool::NODES, values };
    if nodes.get(pool::ECAM).is_none() && nodes.get(pool::ONLINE).is_none() {
        handle.with(|core| core.pool.removed(address));
        return None;
    }
    // Our own answer is no reason to look at the device: one that keeps changing its mind would keep us looking for ever.
    if cause == Cause::State && handle.with(|core| core.pool.has_said(address, nodes.get(pool::STATE))) {
        return None;
    }
    let wanted = update(handle, address, nodes);
    if nodes.get(pool::STATE) == Some(wanted.as_bytes()) {
        return None;
    }
    handle.with(|core| core.pool.say(address, &wanted, core.platform.now_ns()));
    let path = path::child(&paths::relative::pool_dir(address), pool::STATE);
    Some(handle.ask(TxId::NONE, &Request::Write { path: &path, value: wanted.as_bytes() }))
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
