//! The pool's nodes: reads what the tool says about each device, and writes what became of it.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use xen_types::{Errno, Mfn, Resource, Sbdf};
use xenstore::{Error, Request, TxId, directory_entries, number, path::relative, text};

use super::core::Handle;
use crate::device::{DeviceInfo, RESOURCES};
use crate::platform::Platform;
use crate::pool::Description;

/// Until a node of the pool can be read again.
const RETRY_NS: u64 = 1_000_000_000;

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
                dirty.addresses.insert(address, ());
            }
        }
        for (address, ()) in dirty.addresses {
            if let Err(error) = look(&handle, address).await {
                log::error!("pool: {address}: xenstore: {error}");
                handle.with(|core| {
                    core.pool.mark(address);
                    let now_ns = core.platform.now_ns();
                    core.set_alarm(now_ns.saturating_add(RETRY_NS), Rc::clone(&signal));
                });
            }
        }
    }
}

async fn look<P: Platform>(handle: &Handle<P>, address: Sbdf) -> Result<(), Error> {
    let dir = relative::pool_dir(address);
    let read = |name: &str| handle.ask(TxId::NONE, &Request::Read { path: &format!("{dir}/{name}") });
    let (ecam, irq, online, state) = (read("ecam"), read("irq"), read("online"), read("state"));
    let resources: [_; RESOURCES] = core::array::from_fn(|register| read(&format!("resource-{register}")));

    let (ecam, irq) = (found(ecam.await)?, found(irq.await)?);
    let (online, state) = (found(online.await)?, found(state.await)?);
    let mut texts = [const { None }; RESOURCES];
    for (text, resource) in texts.iter_mut().zip(resources) {
        *text = found(resource.await)?;
    }
    if ecam.is_none() && online.is_none() {
        handle.with(|core| core.pool.removed(address));
        return Ok(());
    }
    let description = Description {
        info: describe(address, ecam.as_deref(), irq.as_deref(), &texts),
        online: online.is_some_and(|value| number::decimal(value).is_ok_and(|online| online != 0)),
    };
    let wanted = handle.with(|core| {
        let wanted = core.pool.described(&core.platform, address, description);
        if core.pool.is_free(address) {
            core.retry_failed(address);
        }
        wanted
    });
    if state.as_deref() != Some(wanted.as_bytes()) {
        log::info!("pool: {address}: {wanted}");
        let path = format!("{dir}/state");
        handle.ask(TxId::NONE, &Request::Write { path: &path, value: wanted.as_bytes() }).await?;
    }
    Ok(())
}

fn describe(
    address: Sbdf,
    ecam: Option<&[u8]>,
    irq: Option<&[u8]>,
    resources: &[Option<Vec<u8>>; RESOURCES],
) -> Result<DeviceInfo, String> {
    let ecam = ecam.and_then(|value| number::hexadecimal(value).ok()).ok_or("ecam is no frame number")?;
    let irq = irq.and_then(|value| number::decimal(value).ok()).ok_or("irq is no number")?;
    let mut parsed: [Option<Resource>; RESOURCES] = [None; RESOURCES];
    for (register, (place, value)) in parsed.iter_mut().zip(resources).enumerate() {
        let Some(value) = value else { continue };
        let resource = text(value).ok().and_then(|text| text.parse().ok());
        *place = Some(resource.ok_or_else(|| format!("resource-{register} is no resource"))?);
    }
    DeviceInfo::new(address, Mfn(ecam), parsed, irq).map_err(|error| error.to_string())
}

fn found(answer: Result<Vec<u8>, Error>) -> Result<Option<Vec<u8>>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
