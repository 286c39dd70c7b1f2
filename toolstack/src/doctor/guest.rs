//! One guest: whether it was created so that it can have devices.

use serde_json::Value;
use xen_types::{DomId, Errno};

use super::Check;
use crate::directories::Ends;
use crate::domain;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::table;

const NEEDS: &str =
    "put passthrough=\"enabled\" and e820_host=1 into its xl.cfg, or let `pcidom create` do it, and create it anew";

pub(super) fn checks(host: &Host, name: &str) -> Vec<Check> {
    let found = match domain::find(host, name) {
        Ok(Some(found)) => found,
        Ok(None) => return vec![Check::error("guest", &Error::NoSuchGuest(name.to_owned()))],
        Err(error) => return vec![Check::error("guest", &error)],
    };
    let (guest, info) = found;
    if guest.id == DomId::DOM0 {
        return vec![Check::failed("guest", "it is dom0, which has the devices by itself", "name a guest")];
    }
    if info.hvm {
        return vec![Check::error("guest", &Error::NotPv(guest))];
    }
    let config = host.xl.configuration(guest.id);
    vec![
        Check::ok("guest", format!("{guest} is a PV guest")),
        Check::of("passthrough", passthrough(host, &guest, config.as_ref())),
        e820(config.as_ref()),
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
    let is_set = match config.and_then(|config| find(config, "e820_host")) {
        Some(Value::Bool(set)) => Some(*set),
        Some(Value::String(text)) => Some(text.eq_ignore_ascii_case("true")),
        // libxl leaves out what has its default, and that is no.
        Some(_) | None => config.map(|_| false),
    };
    match is_set {
        Some(true) => Check::ok(NAME, "its memory leaves a hole where the devices' registers are"),
        Some(false) => Check::failed(NAME, "its memory may lie where the devices' registers are", NEEDS),
        None => Check::warning(NAME, "it cannot be told", NEEDS),
    }
}

/// The value of a key, wherever in the document it is.
fn find<'a>(document: &'a Value, key: &str) -> Option<&'a Value> {
    match document {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|value| find(value, key))),
        Value::Array(items) => items.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

fn connection(host: &Host, guest: &DomainName) -> Result<Check, Error> {
    const NAME: &str = "connection";
    let records = table::load(host)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn libxl_says_it_in_several_ways() {
        let parse = |text| serde_json::from_str::<Value>(text).unwrap();
        for (text, want) in [
            (r#"[{"config":{"b_info":{"type.pv":{"e820_host":"True"}}}}]"#, Outcome::Ok),
            (r#"[{"config":{"b_info":{"type.pv":{"e820_host":true}}}}]"#, Outcome::Ok),
            (r#"[{"config":{"b_info":{"type.pv":{"e820_host":"False"}}}}]"#, Outcome::Failed),
            (r#"[{"config":{"b_info":{}}}]"#, Outcome::Failed),
        ] {
            assert_eq!(e820(Some(&parse(text))).outcome, want, "{text}");
        }
        assert_eq!(e820(None).outcome, Outcome::Warning);
    }
}
