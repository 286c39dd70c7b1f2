//! Checks of one guest: whether it was created with what passthrough needs.

use serde_json::Value;
use xen_types::{DomId, Errno};

use super::check::Check;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::host::needs::{self, Has, find};
use crate::records::device_table;
use crate::records::directories::Ends;

const NEEDS: &str =
    "put passthrough=\"enabled\" and e820_host=1 into its xl.cfg, or let `pcidom create` do it, and create it anew";

pub(super) fn checks(host: &Host, name: &str) -> Vec<Check> {
    let found = match domain::find(host, name) {
        Ok(Some(found)) => found,
        Ok(None) => return vec![Check::error("guest", &Error::NoSuchGuest(name.to_owned()))],
        Err(error) => return vec![Check::error("guest", &error.into())],
    };
    let (guest, info) = found;
    if guest.id == DomId::DOM0 {
        return vec![Check::failed("guest", "it is dom0, which has the devices by itself", "name a guest")];
    }
    if info.hvm {
        return match domain::stub_domain(host, guest.id) {
            Ok(Some(stub_domain)) => vec![
                Check::ok("guest", format!("{guest} is an HVM guest, with its device model in {stub_domain}")),
                Check::of("passthrough", passthrough(host, &guest, host.xl.configuration(guest.id).as_ref())),
                Check::of("connection", connection(host, &stub_domain)),
            ],
            Ok(None) => vec![Check::error("guest", &Error::NotPv(guest))],
            Err(error) => vec![Check::error("guest", &error.into())],
        };
    }
    let config = host.xl.configuration(guest.id);
    vec![
        Check::ok("guest", format!("{guest} is a PV guest")),
        Check::of("passthrough", passthrough(host, &guest, config.as_ref())),
        e820(config.as_ref()),
        bounce_buffers(config.as_ref()),
        Check::of("connection", connection(host, &guest)),
    ]
}

/// Xen knows, and says it about any device that could be assigned; where there is none, libxl's note of the configuration has to do.
fn passthrough(host: &Host, guest: &DomainName, config: Option<&Value>) -> Result<Check, Error> {
    const NAME: &str = "passthrough";
    let ok = || Check::ok(NAME, "Xen lets it have devices");
    let no = || Check::failed(NAME, "it was created without passthrough, so Xen gives it no device", NEEDS);
    for device in host.sysfs.devices()? {
        match host.hypervisor.test_assign(guest.id, device) {
            Ok(()) => return Ok(ok()),
            Err(error) if matches!(error.errno, Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(no()),
            Err(_) => {} // this device is another's
        }
    }
    Ok(match config.and_then(|config| find(config, "passthrough")).and_then(Value::as_str) {
        Some("disabled") => no(),
        Some(_) => ok(),
        None => Check::warning(NAME, "it cannot be told", NEEDS),
    })
}

fn e820(config: Option<&Value>) -> Check {
    const NAME: &str = "e820_host";
    match needs::e820_host(config) {
        Has::Yes => Check::ok(NAME, "its memory leaves a hole where the devices' registers are"),
        Has::No => Check::failed(NAME, "its memory may lie where the devices' registers are", NEEDS),
        Has::Unknown => Check::warning(NAME, "it cannot be told", NEEDS),
    }
}

fn bounce_buffers(config: Option<&Value>) -> Check {
    const NAME: &str = "bounce buffers";
    match needs::bounce_buffers(config) {
        Has::Yes => Check::ok(NAME, "its kernel's command line asks for them"),
        Has::No => Check::warning(
            NAME,
            "its kernel's command line asks for none: Linux may have no memory, or too little, for the devices' DMA buffers",
            "put iommu=soft into its extra=",
        ),
        Has::Unknown => {
            Check::ok(NAME, "its kernel's command line cannot be told from outside; it should have iommu=soft")
        }
    }
}

fn connection(host: &Host, guest: &DomainName) -> Result<Check, Error> {
    const NAME: &str = "connection";
    let records = device_table::load(host)?;
    let Some(record) = records.iter().find(|record| record.frontend == Some(guest.id)) else {
        return Ok(Check::ok(NAME, "it has no devices"));
    };
    let ends = Ends::read(host, record.stub, guest.id)?;
    let states = format!("backend {}, frontend {}", ends.back.name(), ends.front.name());
    Ok(if ends.are_connected() {
        Check::ok(NAME, states)
    } else {
        Check::warning(NAME, states, "it needs the xen-pcifront driver, built in or loaded")
    })
}
