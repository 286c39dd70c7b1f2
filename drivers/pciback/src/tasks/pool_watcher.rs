//! The pool's nodes: reads what the tool says about each device, and writes what became of it.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};

use pci_config::PolicyFlags;
use xen_types::{Errno, Mfn, Resource, Sbdf};
use xenstore::path::{self, key, relative};
use xenstore::{Error, Request, TxId, directory_entries, number};

use super::values::Values;
use crate::platform::Platform;
use crate::pool::{Cause, Description, DeviceInfo, RESOURCES};
use crate::shared::Handle;

/// Until a node of the pool can be read again.
const RETRY_NS: u64 = 1_000_000_000;

/// `resource-0` to `resource-6`.
const RESOURCE_NODES: [&str; RESOURCES] =
    ["resource-0", "resource-1", "resource-2", "resource-3", "resource-4", "resource-5", "resource-6"];
/// Everything about one device.
const NODES: [&str; 6 + RESOURCES] = {
    let [r0, r1, r2, r3, r4, r5, r6] = RESOURCE_NODES;
    [key::ECAM, key::IDS, key::IRQ, key::ONLINE, key::STATE, key::POLICY, r0, r1, r2, r3, r4, r5, r6]
};

/// Runs for ever.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    let signal = handle.with(|core| Rc::clone(&core.pool.signal));
    loop {
        signal.wait().await;
        let mut dirty = handle.with(|core| core.pool.take_dirty());
        if dirty.all {
            let listing = handle.ask(TxId::NONE, &Request::Directory { path: relative::POOL }).await;
            let listing = listing.unwrap_or_default(); // none yet: the watch tells when there is
            for address in directory_entries(&listing).filter_map(|name| Sbdf::parse_path_component(name).ok()) {
                dirty.addresses.insert(address, Cause::Other);
            }
        }
        for (address, cause) in dirty.addresses {
            if let Err(error) = look(&handle, address, cause).await {
                log::error!("pool: {address}: xenstore: {error}");
                handle.with(|core| {
                    core.pool.mark(address);
                    let now_ns = core.platform.now_ns();
                    core.alarms.set(now_ns.saturating_add(RETRY_NS), Rc::clone(&signal));
                });
            }
        }
    }
}

async fn look<P: Platform>(handle: &Handle<P>, address: Sbdf, cause: Cause) -> Result<(), Error> {
    let dir = relative::pool_dir(address);
    let nodes = handle.read(TxId::NONE, &dir, &NODES, "").values(&[Errno::ENOENT]).await?;
    if nodes.get(key::ECAM).is_none() && nodes.get(key::ONLINE).is_none() {
        handle.with(|core| core.pool.removed(address));
        return Ok(());
    }
    // Our own answer is no reason to look at the device: one that keeps changing its mind would keep us looking for ever.
    if cause == Cause::State && handle.with(|core| core.pool.has_said(address, nodes.get(key::STATE))) {
        return Ok(());
    }
    let wanted = update(handle, address, &nodes);
    if nodes.get(key::STATE) != Some(wanted.as_bytes()) {
        handle.with(|core| core.pool.say(address, &wanted, core.platform.now_ns()));
        let path = path::child(&dir, key::STATE);
        handle.ask(TxId::NONE, &Request::Write { path: &path, value: wanted.as_bytes() }).await?;
    }
    Ok(())
}

/// Brings the pool in line with what the nodes say, and says what `state` shall be.
#[inline(never)] // its caller is a task, in which everything costs more
fn update<P: Platform>(handle: &Handle<P>, address: Sbdf, nodes: &Values) -> String {
    let description = Description {
        info: describe(address, nodes),
        online: nodes.decimal(key::ONLINE).is_some_and(|online| online != 0),
        is_new: nodes.get(key::STATE) == Some(b"new"),
    };
    handle.with(|core| {
        core.look_after(address);
        let wanted = core.pool.described(&core.platform, address, description);
        if core.pool.take_news(address) {
            core.retry_failed(address);
        }
        wanted
    })
}

fn describe(address: Sbdf, nodes: &Values) -> Result<DeviceInfo, String> {
    let ecam =
        nodes.get(key::ECAM).and_then(|value| number::hexadecimal(value).ok()).ok_or("ecam is no frame number")?;
    let irq = nodes.decimal(key::IRQ).ok_or("irq is no number")?;
    let mut resources: [Option<Resource>; RESOURCES] = [None; RESOURCES];
    for (place, name) in resources.iter_mut().zip(RESOURCE_NODES) {
        if nodes.get(name).is_some() {
            let resource = nodes.text(name).and_then(|text| text.parse().ok());
            *place = Some(resource.ok_or_else(|| format!("{name} is no resource"))?);
        }
    }
    let mut info = DeviceInfo::new(address, Mfn(ecam), resources, irq).map_err(|error| error.to_string())?;
    info.set_policy_flags(policy_flags(nodes.get(key::POLICY).unwrap_or_default()).ok_or("policy is no numbers")?);
    if let Some(value) = nodes.get(key::IDS) {
        let ids = number::hexadecimal(value).ok().and_then(|ids| u32::try_from(ids).ok());
        info.set_ids(ids.ok_or("ids are no number")?);
    }
    Ok(info)
}

/// What the tool says in three numbers; the default where it says nothing.
fn policy_flags(value: &[u8]) -> Option<PolicyFlags> {
    let mut numbers = PolicyFlags::default().numbers();
    for (number, digits) in numbers.iter_mut().zip(value.split(|byte| *byte == b' ')) {
        if !digits.is_empty() {
            *number = number::hexadecimal(digits).ok()?;
        }
    }
    Some(PolicyFlags::new(numbers))
}
