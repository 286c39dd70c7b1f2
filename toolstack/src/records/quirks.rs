//! The quirks file: what devices of a kind need besides what any guest may do with them (`docs/config-space.md`, "Quirks").

use std::io;
use std::path::Path;

use pci_config::{Policy, WritableMask};
use pci_registers::header;
use xen_types::Sbdf;

use crate::error::{Error, HostError};
use crate::host::{Host, QUIRKS_FILE};
use crate::records::device_spec::{DeviceSpec, take_policy};
use crate::sysfs::{ConfigWalk as _, Width};

/// A device as its ids say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ids {
    vendor: u16,
    device: u16,
    /// Subsystem vendor and device; `None` for any.
    subsystem: Option<(u16, u16)>,
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    ids: Ids,
    /// Words and values, in order.
    words: Vec<(String, String)>,
}

/// Adds to the policies what the file has for the devices. What was asked for on the command line stays.
pub(crate) fn apply(host: &Host, devices: &[DeviceSpec]) -> Result<Vec<DeviceSpec>, Error> {
    let entries = load(host.quirks.as_path())?;
    let mut devices = devices.to_vec();
    for spec in &mut devices {
        let config = host.sysfs.config(spec.device)?;
        let ids = match host.sysfs.physical_function(spec.device) {
            Some(_) => host.sysfs.ids(spec.device)?,
            None => config.read(header::VENDOR_ID, Width::Dword)?,
        };
        let subsystem = config.read(header::SUBSYSTEM_VENDOR_ID, Width::Dword)?;
        for entry in entries.iter().filter(|entry| entry.ids.matches(ids, subsystem)) {
            for (word, value) in &entry.words {
                // A quirk that the command line has as well, or one that no longer fits beside its others, is no reason to fail.
                if take_policy(&mut spec.policy, word, value).is_err() {
                    host.note(&format!("{}: {word}={value} of {} does not go with the rest", spec.device, QUIRKS_FILE));
                }
            }
        }
        check(host, spec.device, &spec.policy)?;
    }
    Ok(devices)
}

/// Refuses quirks that no policy can grant, because others than the guest would feel them.
fn check(host: &Host, device: Sbdf, policy: &Policy) -> Result<(), Error> {
    if policy.quirks().next().is_none() {
        return Ok(());
    }
    let writable = host.sysfs.config(device)?.look(|space| WritableMask::new(space, policy))?;
    for quirk in policy.quirks() {
        let open = writable.open(usize::from(quirk.offset() / 4)).bits >> (8 * (quirk.offset() % 4));
        let locked = quirk.mask() & !open;
        if locked != 0 {
            return Err(Error::Usage(format!(
                "{device}: quirk={quirk}: no guest may change the bits {locked:#x} there"
            )));
        }
    }
    Ok(())
}

fn load(path: &Path) -> Result<Vec<Entry>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            parse(&text).map_err(|(line, what)| Error::Config { place: format!("{}:{line}", path.display()), what })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(HostError::File { path: path.to_owned(), source }.into()),
    }
}

/// All lines, or the number of the first one that makes no sense and why.
pub(crate) fn parse(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace().peekable();
        let Some(first) = words.next() else { continue };
        let fail = |what: String| (number, what);
        let (vendor, device) = parse_ids(first).ok_or_else(|| fail(format!("{first:?} is no VENDOR:DEVICE")))?;
        let subsystem = words.next_if(|word| !word.contains('='));
        let subsystem =
            subsystem.map(|word| parse_ids(word).ok_or_else(|| fail(format!("{word:?} is no VENDOR:DEVICE"))));
        let ids = Ids { vendor, device, subsystem: subsystem.transpose()? };
        let mut entry = Entry { ids, words: Vec::new() };
        let mut policy = Policy::default();
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| fail(format!("{word:?} is no KEY=VALUE")))?;
            take_policy(&mut policy, key, value).map_err(|error| fail(error.to_string()))?;
            entry.words.push((key.to_owned(), value.to_owned()));
        }
        if entry.words.is_empty() {
            return Err(fail("it says nothing about the device".to_owned()));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Two ids of four digits each.
fn parse_ids(word: &str) -> Option<(u16, u16)> {
    let id = |digits: &str| {
        let is_id = digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_id.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
    };
    let (first, second) = word.split_once(':')?;
    Some((id(first)?, id(second)?))
}

impl Ids {
    fn matches(self, ids: u32, subsystem: u32) -> bool {
        let dword = |low: u16, high: u16| u32::from(high) << 16 | u32::from(low);
        dword(self.vendor, self.device) == ids && self.subsystem.is_none_or(|(low, high)| dword(low, high) == subsystem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_devices_and_what_they_need() {
        let entries = parse(
            "# a card that wants its vendor's registers\n\n8086:10fb quirk=40:4:ffff0000 quirk=a0:2:ff # two\n\
             \t10de:1eb8 10DE:12a2 permissive=1 hide=rebar\n",
        )
        .unwrap();
        let words = |entry: &Entry| entry.words.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        assert_eq!(entries[0].ids, Ids { vendor: 0x8086, device: 0x10fb, subsystem: None });
        assert_eq!(words(&entries[0]), ["quirk=40:4:ffff0000", "quirk=a0:2:ff"]);
        assert_eq!(entries[1].ids, Ids { vendor: 0x10de, device: 0x1eb8, subsystem: Some((0x10de, 0x12a2)) });
        assert_eq!(words(&entries[1]), ["permissive=1", "hide=rebar"]);
        assert!(entries[1].ids.matches(0x1eb8_10de, 0x12a2_10de) && !entries[1].ids.matches(0x1eb8_10de, 0));
        assert!(entries[0].ids.matches(0x10fb_8086, 7) && !entries[0].ids.matches(0x10fc_8086, 7));
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_line() {
        for line in [
            "8086",
            "8086:10f",
            "8086:10fb",
            "8086:+0fb quirk=40:4:1",
            "8086:10fb 8086 quirk=40:4:1",
            "8086:10fb quirk",
            "8086:10fb colour=red",
            "8086:10fb quirk=40:3:1",
            "8086:10fb quirk=41:2:1",
            "8086:10fb quirk=40:2:10000",
            "8086:10fb quirk=40:2:0",
            "8086:10fb quirk=1000:2:1",
            "8086:10fb quirk=40:4:1 quirk=42:2:1",
            "8086:10fb hide=colour",
            "8086:10fb hide=0",
            "8086:10fb permissive=yes",
        ] {
            assert_eq!(parse(&format!("\n{line}\n")).unwrap_err().0, 2, "{line}");
        }
    }
}
