//! Devices that the settings file names (`device = …` in `/etc/pcidom/pcidom.conf`): they are in the pool of the host's driver domain from boot on.

use std::io;
use std::path::Path;

use xen_types::Sbdf;

use crate::error::{Error, HostError};
use crate::host::Host;
use crate::records::device_spec::parse_name;
use crate::records::device_words::parse_function;
use crate::sysfs::identity::{Identity, parse_serial};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfiguredDevice {
    /// Where it is.
    pub(crate) device: Sbdf,
    /// Which device must be there.
    pub(crate) identity: Identity,
    /// The name that `pci=` and commands may call it by, as with `xl pci-assignable-add -n`.
    pub(crate) name: Option<String>,
    /// It is taken also where dom0 needs it, as with `--seize-in-use`.
    pub(crate) seize_in_use: bool,
}

impl ConfiguredDevice {
    /// Reads `BDF[,vendor=ID][,device=ID][,serial=SERIAL][,name=NAME][,seize_in_use=1]`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split(',').map(str::trim);
        let address = words.next().unwrap_or_default();
        let device = parse_function(address).map_err(|error| format!("{address:?}: {error}"))?;
        let mut configured = Self { device, identity: Identity::default(), name: None, seize_in_use: false };
        for word in words.filter(|word| !word.is_empty()) {
            let wrong = || {
                format!(
                    "want vendor=ID, device=ID (four hexadecimal digits), serial=SERIAL, name=NAME or seize_in_use=1, not {word:?}"
                )
            };
            let (key, value) = word.split_once('=').ok_or_else(wrong)?;
            let id = || (value.len() == 4).then(|| u16::from_str_radix(value, 16).ok()).flatten().ok_or_else(wrong);
            match key {
                "vendor" => configured.identity.vendor = Some(id()?),
                "device" => configured.identity.device = Some(id()?),
                "serial" => configured.identity.serial = Some(parse_serial(value).ok_or_else(wrong)?),
                "name" => configured.name = Some(parse_name(value).map_err(|error| error.to_string())?),
                "seize_in_use" if matches!(value, "0" | "1") => configured.seize_in_use = value == "1",
                _ => return Err(wrong()),
            }
        }
        Ok(configured)
    }

    /// Refuses another device at the same address, with both told.
    pub(crate) fn check_identity(&self, host: &Host) -> Result<(), Error> {
        let found = host.sysfs.identity(self.device)?;
        if self.identity.is_of(&found) {
            return Ok(());
        }
        let (found, wanted) = (found.to_string(), self.identity.to_string());
        Err(Error::OtherDevice { device: self.device, found, wanted })
    }
}

/// The devices of the settings file, none if there is no file, and the errors of lines that name none. One line that is wrong takes no other
/// device out of the pool.
pub(crate) fn load(path: &Path) -> (Vec<ConfiguredDevice>, Vec<Error>) {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return (Vec::new(), vec![HostError::File { path: path.to_owned(), source }.into()]),
    };
    let (mut devices, mut errors): (Vec<ConfiguredDevice>, Vec<Error>) = Default::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let Some((key, value)) = line.split_once('=') else { continue };
        if key.trim() != "device" {
            continue;
        }
        let fail = |what: String| Error::Config { place: format!("{}:{number}", path.display()), what };
        match ConfiguredDevice::parse(value.trim()) {
            Err(error) => errors.push(fail(format!("device: {error}"))),
            // The same once more is what `pcidom identify … | tee -a` leaves.
            Ok(device) if devices.contains(&device) => {}
            Ok(device) if devices.iter().any(|other| other.device == device.device) => {
                errors.push(fail(format!("device: {} is there twice, and the first line counts", device.device)));
            }
            Ok(device) => devices.push(device),
        }
    }
    (devices, errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::TempTree;

    fn parsed(text: &str) -> (Vec<ConfiguredDevice>, Vec<String>) {
        let tree = TempTree::new();
        tree.write("pcidom.conf", text);
        let (devices, errors) = load(&tree.path().join("pcidom.conf"));
        let root = tree.path().display().to_string();
        (devices, errors.iter().map(|error| error.to_string().replace(&root, "")).collect())
    }

    #[test]
    fn devices_are_named_with_their_identity() {
        assert_eq!(parsed("audit = all\n# device = 00:01.0\n"), (vec![], vec![]));
        assert!(
            matches!(&load(Path::new("/nonexistent/pcidom.conf")), (devices, errors) if devices.is_empty() && errors.is_empty())
        );
        let (devices, errors) = parsed(
            "device = 05:00.0\ndevice=0001:02:03.4, vendor=8086,device=10d3 ,serial=52-54-00-ff-ff-12-34-56,name=nic0 # x",
        );
        assert_eq!(errors, [""; 0]);
        assert_eq!(devices[0].identity, Identity::default());
        assert!(!devices[0].seize_in_use);
        let (devices_in_use, _) = parsed("device = 05:00.0,seize_in_use=1,name=root\ndevice = 06:00.0,seize_in_use=0");
        assert_eq!(devices_in_use.iter().map(|device| device.seize_in_use).collect::<Vec<_>>(), [true, false]);
        let second = &devices[1];
        assert_eq!((second.device.to_string().as_str(), second.name.as_deref()), ("0001:02:03.4", Some("nic0")));
        assert_eq!(second.identity.to_string(), "vendor=8086,device=10d3,serial=52-54-00-ff-ff-12-34-56");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_takes_nothing_else_away() {
        for (text, said) in [
            ("\ndevice = 05:00", "/pcidom.conf:2: device: \"05:00\": "),
            ("device = 05:00.0,vendor=86", "/pcidom.conf:1: device: want vendor=ID"),
            ("device = 05:00.0,serial=1", "/pcidom.conf:1: device: want vendor=ID"),
            ("device = 05:00.0,seize_in_use", "/pcidom.conf:1: device: want vendor=ID"),
            ("device = 05:00.0,seize_in_use=yes", "/pcidom.conf:1: device: want vendor=ID"),
            ("device = 05:00.0,colour=red", "/pcidom.conf:1: device: want vendor=ID"),
            ("device = 05:00.0\ndevice = 0000:05:00.0,name=x", "/pcidom.conf:2: device: 0000:05:00.0 is there twice"),
        ] {
            let (_, errors) = parsed(text);
            assert!(matches!(&errors[..], [error] if error.starts_with(said)), "{errors:?}");
        }
        let (devices, errors) = parsed("device = nonsense\ndevice = 05:00.0\ndevice = 06:00.0\ndevice = 05:00.0\n");
        assert_eq!((devices.len(), errors.len()), (2, 1), "the same line twice is one device: {errors:?}");
    }
}
