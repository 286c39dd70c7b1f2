//! Fuzz targets of the commands' parsers (`tests/fuzz`): what they panic over is a finding.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use crate::create::config::Config;
use crate::host::{needs, settings};
use crate::ops::dom0_use::parse_mounts;
use crate::ops::maintenance::SavedPlan;
use crate::records::configured_devices::ConfiguredDevice;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_words::{DeviceRequest, parse_assignable, parse_function, parse_place};
use crate::records::quirks;
use crate::sysfs::identity::Identity;

/// Page tables of a guest.
pub fn page_tables(data: &[u8]) {
    crate::audit::fuzz::page_tables(data);
}

/// What is written reads back.
#[track_caller]
fn reads_back<T: FromStr + Display + PartialEq + Debug>(value: &T, of: &str)
where
    T::Err: Debug,
{
    let written = value.to_string();
    match written.parse::<T>() {
        Ok(again) => assert_eq!(again, *value, "{of:?} was written as {written:?}"),
        Err(error) => panic!("{of:?} was written as {written:?}, which does not read: {error:?}"),
    }
}

/// Devices on the command line and in `pci=`.
pub fn device_words(text: &str) {
    let _ = (parse_function(text), parse_place(text), parse_assignable(text));
    if let Ok(request) = text.parse::<DeviceRequest>() {
        let with = request.with(xen_types::Sbdf::from_devfn(0, 3, 1));
        assert!(with.vdevfn() != Some(0));
    }
    if let Ok(spec) = text.parse::<DeviceSpec>() {
        reads_back(&spec, text);
        let options = format!("{},{}", spec.device, spec.opts());
        assert!(options.parse::<DeviceSpec>().is_ok(), "{options}");
    }
}

/// A configuration of xl: what is taken out leaves a configuration, with the other settings and lines as they were.
pub fn xl_cfg(data: &[u8]) {
    const NAMES: [&str; 6] = ["name", "pci", "uuid", "e820_host", "pci_permissive", "memory"];
    let Ok(config) = Config::parse(data.to_vec()) else { return };
    for name in NAMES {
        let _ = (config.get(name), config.text(name), config.flag(name));
        if let Ok(items) = config.list(name) {
            items.iter().for_each(|(_, item)| device_words(item));
        }
    }
    let without = config.without(&["pci"]);
    assert_eq!(without.len(), data.len());
    let lines = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines(&without), lines(data));
    match Config::parse(without.clone()) {
        Ok(rest) => {
            assert_eq!(rest.get("pci").ok(), Some(None), "{:?}", without.escape_ascii().to_string());
            for name in NAMES.into_iter().filter(|name| *name != "pci") {
                assert_eq!(rest.get(name).ok(), config.get(name).ok(), "{name}");
            }
        }
        Err(error) => {
            panic!("{:?} became {:?}: {error:?}", data.escape_ascii().to_string(), without.escape_ascii().to_string())
        }
    }
}

/// What libxl has noted of a guest.
pub fn libxl_json(text: &str) {
    let config = serde_json::from_str(text.trim_end_matches('\0')).ok();
    let notes = needs::lacks(config.as_ref());
    assert!(config.is_some() || notes.is_empty());
    let _ = (needs::e820_host(config.as_ref()), needs::bounce_buffers(config.as_ref()));
}

/// A file of `detach --all --plan`.
pub fn plan_file(text: &str) {
    let Ok(plan) = SavedPlan::parse(text) else { return };
    let written = serde_json::to_string_pretty(&plan).unwrap_or_default();
    assert_eq!(SavedPlan::parse(&written).as_ref(), Ok(&plan));
}

/// The settings file, and a device in it.
pub fn settings(text: &str) {
    let lines = text.lines().count();
    if let Ok((_, notes)) = settings::parse(text, "pcidom.conf") {
        assert!(notes.len() <= lines);
    }
    if let Ok(configured) = ConfiguredDevice::parse(text) {
        assert!(configured.identity.is_of(&configured.identity));
        if configured.identity != Identity::default() {
            let line = format!("{},{}", configured.device, configured.identity);
            let again = ConfiguredDevice::parse(&line);
            assert_eq!(again.map(|again| again.identity), Ok(configured.identity), "{text:?} was written as {line:?}");
        }
    }
}

/// The file of quirks.
pub fn quirks(text: &str) {
    match quirks::parse(text) {
        Ok(entries) => assert!(entries.len() <= text.lines().count()),
        Err((line, _)) => assert!((1..=text.lines().count()).contains(&line)),
    }
}

/// Tables of the firmware, and the kernel's list of mounted file systems.
pub fn host_files(data: &[u8]) {
    crate::sysfs::fuzz::tables(data);
    let text = String::from_utf8_lossy(data);
    assert!(parse_mounts(&text).len() <= text.lines().count());
}
