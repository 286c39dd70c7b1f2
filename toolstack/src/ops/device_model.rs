//! The device model of an HVM guest: QEMU in a stub domain, which finds the devices there that the stub domain's frontend has, and shows them to the guest.
//! What it is told is what libxl tells it (`tools/libs/light/libxl_pci.c`).

use std::time::Duration;

use serde_json::{Value, json};
use xen_types::{DomId, Sbdf};
use xenstore::path;

use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::ops::patience::STUB_PATIENCE;
use crate::records::device_spec::DeviceSpec;

/// Has the guest see a device. Where the device model does not say that it has done so, it takes the device away again: what is answered too late is
/// done all the same. Whether the guest has the device after that is asked when it is looked what the guest has kept.
pub(crate) fn plug(host: &Host, guest: &DomainName, spec: &DeviceSpec) -> Result<(), Error> {
    let device = spec.device;
    let mut arguments = json!({ "driver": "xen-pci-passthrough", "id": id(device), "hostaddr": device.to_string() });
    if let Some(devfn) = spec.vdevfn() {
        arguments["addr"] = format!("{:x}.{:x}", devfn >> 3, devfn & 7).into();
    }
    if spec.policy.permissive {
        arguments["permissive"] = true.into();
    }
    let added = ask(host, guest, "device_add", arguments, || format!("take {device}")).map(drop);
    if added.is_err()
        && let Err(error) = host.without_stopping(|| unplug(host, guest, &[device], STUB_PATIENCE))
    {
        host.trace(&error.to_string());
    }
    added
}

/// Has the guest let go of devices, as many of them as it has, and waits until it has. One that is paused is not waited for: it cannot. One that is gone,
/// or goes meanwhile, has none.
pub(crate) fn unplug(host: &Host, guest: &DomainName, devices: &[Sbdf], timeout: Duration) -> Result<(), Error> {
    let outcome = ask_to_let_go(host, guest, devices).and_then(|is_asked| {
        if !is_asked || domain::info(host, guest.id)?.is_none_or(|info| info.paused) {
            return Ok(());
        }
        let silent = || Error::NotUnplugged { guest: guest.clone(), devices: devices.to_vec(), after: timeout };
        // Other commands need not wait for it meanwhile: they know it by the domain that has the frontend.
        let frontend = frontend_of(host, guest.id)?;
        host.wait_for_guest(frontend, &[], timeout, || have_gone(host, guest, devices))?.ok_or_else(silent)
    });
    match outcome {
        Err(Error::DeviceModel { .. }) if !domain::is_alive(host, guest.id)? => Ok(()),
        outcome => outcome,
    }
}

/// Tells the guest that it is to let go of those of the devices that it has. False where it has none of them.
fn ask_to_let_go(host: &Host, guest: &DomainName, devices: &[Sbdf]) -> Result<bool, Error> {
    let devices = theirs(devices, &present(host, guest)?);
    for device in devices.iter().copied() {
        let asked = ask(host, guest, "device_del", json!({ "id": id(device) }), || format!("remove {device}"));
        match asked {
            // A guest that was asked a moment ago is not asked again (QEMU, `qmp_device_del`).
            Err(Error::DeviceModel { said, .. }) if said.contains("already in the process of unplug") => {}
            // It may have let go just now.
            Err(error) if !theirs(&[device], &present(host, guest)?).is_empty() => return Err(error),
            _ => {}
        }
    }
    Ok(!devices.is_empty())
}

/// Whether the guest has let go of all of these.
fn have_gone(host: &Host, guest: &DomainName, devices: &[Sbdf]) -> Result<Option<()>, Error> {
    match present(host, guest) {
        Ok(present) => Ok(theirs(devices, &present).is_empty().then_some(())),
        // One that has shut down or reboots is going, and its device model may be the first to go.
        Err(_) if domain::info(host, guest.id)?.is_some_and(|info| info.shutdown && !info.dying) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Those of the devices that are listed.
fn theirs(devices: &[Sbdf], present: &Value) -> Vec<Sbdf> {
    devices.iter().copied().filter(|device| has(present, &id(*device))).collect()
}

/// The domain that has the frontend of a guest's devices: of an HVM guest its stub domain, where it has one.
pub(crate) fn frontend_of(host: &Host, guest: DomId) -> Result<DomId, Error> {
    Ok(domain::stub_domain(host, guest)?.map_or(guest, |stub_domain| stub_domain.id))
}

/// Whether a guest that has just been created can be given devices: a PV guest can, and an HVM guest as soon as its device model says that it runs.
pub(crate) fn is_ready(host: &Host, guest: DomId) -> Result<bool, Error> {
    if domain::info(host, guest)?.is_none_or(|info| !info.hvm) {
        return Ok(true);
    }
    let Some(stub_domain) = domain::stub_domain(host, guest)? else { return Ok(false) };
    Ok(host.read(&state_node(stub_domain.id, guest))?.as_deref() == Some("running"))
}

/// Where a device model says in its stub domain's directory that it runs, for which libxl waits too.
pub(crate) fn state_node(stub_domain: DomId, guest: DomId) -> String {
    path::child(&path::domain_path(stub_domain), &format!("device-model/{guest}/state"))
}

/// Checks that the device model answers.
///
/// # Errors
/// [`Error::DeviceModel`]: it does not.
pub(crate) fn check(host: &Host, guest: &DomainName) -> Result<(), Error> {
    present(host, guest).map(drop)
}

/// What a device model says that its guest has; nothing where it does not answer.
pub(crate) struct Shown(Option<Value>);

impl Shown {
    /// Asks it.
    pub(crate) fn by(host: &Host, guest: &DomainName) -> Self {
        Self(present(host, guest).ok())
    }

    /// Whether the guest may have a device: it has, or the device model does not say.
    pub(crate) fn may_have(&self, device: Sbdf) -> bool {
        self.0.as_ref().is_none_or(|present| has(present, &id(device)))
    }
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

/// What libxl calls the device there (`PCI_PT_QDEV_ID`). libxl's name has no segment, so two devices could have the same one: outside of segment 0 ours has it.
fn id(device: Sbdf) -> String {
    let segment = Some(device.segment()).filter(|segment| *segment != 0).map(|segment| format!("{segment:04x}_"));
    let segment = segment.unwrap_or_default();
    format!("pci-pt-{segment}{:02x}_{:02x}.{}", device.bus(), device.device(), device.function())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_segments_apart_and_are_libxls_in_the_first() {
        let names = ["0000:01:0a.3", "0001:01:0a.3"].map(|device| id(device.parse().unwrap()));
        assert_eq!(names, ["pci-pt-01_0a.3", "pci-pt-0001_01_0a.3"]);
        let list = json!([{ "devices": [{ "qdev_id": names[0] }] }]);
        assert!(has(&list, &names[0]) && !has(&list, &names[1]));
    }
}
