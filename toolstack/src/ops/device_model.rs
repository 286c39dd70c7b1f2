//! The device model of an HVM guest: QEMU in a stub domain, which finds the devices there that the stub domain's frontend has, and shows them to the guest.
//! What it is told is what libxl tells it (`tools/libs/light/libxl_pci.c`).

use std::time::Duration;

use serde_json::{Value, json};
use xen_types::Sbdf;

use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::records::device_spec::DeviceSpec;

/// Has the guest see a device.
pub(crate) fn plug(host: &Host, guest: &DomainName, spec: &DeviceSpec) -> Result<(), Error> {
    let device = spec.device;
    let mut arguments = json!({ "driver": "xen-pci-passthrough", "id": id(device), "hostaddr": device.to_string() });
    if let Some(devfn) = spec.vdevfn() {
        arguments["addr"] = format!("{:x}.{:x}", devfn >> 3, devfn & 7).into();
    }
    if spec.policy.permissive {
        arguments["permissive"] = true.into();
    }
    ask(host, guest, "device_add", arguments, || format!("take {device}")).map(drop)
}

/// Has the guest let go of devices, as many of them as it has, and waits until it has. One that is paused is not waited for: it cannot.
pub(crate) fn unplug(host: &Host, guest: &DomainName, devices: &[Sbdf], timeout: Duration) -> Result<(), Error> {
    let theirs =
        |present: &Value| devices.iter().copied().filter(|device| has(present, &id(*device))).collect::<Vec<_>>();
    let asked = theirs(&present(host, guest)?);
    for device in asked.iter().copied() {
        ask(host, guest, "device_del", json!({ "id": id(device) }), || format!("remove {device}"))?;
    }
    if asked.is_empty() || domain::info(host, guest.id)?.is_none_or(|info| info.paused) {
        return Ok(());
    }
    let gone = || Ok(theirs(&present(host, guest)?).is_empty().then_some(()));
    let silent = || Error::NotUnplugged { guest: guest.clone(), devices: devices.to_vec(), after: timeout };
    // Other commands need not wait for it meanwhile: they know it by the domain that has the frontend.
    let frontend = domain::stub_domain(host, guest.id)?.map_or(guest.id, |stub_domain| stub_domain.id);
    host.wait_for_guest(frontend, &[], timeout, gone)?.ok_or_else(silent)
}

/// Whether the guest may have a device: it has, or the device model does not say.
pub(crate) fn may_have(host: &Host, guest: &DomainName, device: Sbdf) -> bool {
    present(host, guest).map_or(true, |present| has(&present, &id(device)))
}

/// All PCI devices that the guest has, as the device model lists them.
fn present(host: &Host, guest: &DomainName) -> Result<Value, Error> {
    ask(host, guest, "query-pci", Value::Null, || "list the guest's devices".to_owned())
}

fn ask(
    host: &Host,
    guest: &DomainName,
    command: &str,
    arguments: Value,
    what: impl Fn() -> String,
) -> Result<Value, Error> {
    let mut question = json!({ "execute": command });
    if !arguments.is_null() {
        question["arguments"] = arguments;
    }
    host.trace(&format!("{guest}: {question}"));
    let said = host.xl.device_model(guest.id, &question);
    // A stub domain's words, for the admin's terminal.
    let plain = |said: String| said.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect();
    said.map_err(|said| Error::DeviceModel { guest: guest.clone(), what: what(), said: plain(said) })
}

/// What libxl calls the device there (`PCI_PT_QDEV_ID`).
fn id(device: Sbdf) -> String {
    format!("pci-pt-{:02x}_{:02x}.{}", device.bus(), device.device(), device.function())
}

/// Whether a device with this id is listed: on a bus, or behind a bridge.
fn has(list: &Value, id: &str) -> bool {
    match list {
        Value::Array(all) => all.iter().any(|one| has(one, id)),
        Value::Object(fields) => fields.iter().any(|(key, value)| match value {
            Value::String(text) => key == "qdev_id" && text == id,
            value => has(value, id),
        }),
        _ => false,
    }
}
