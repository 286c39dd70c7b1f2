//! Devices as the user names them, in the words of `xl` (xl-pci-configuration(5), `xlu_pci_parse_spec_string` in
//! `tools/libs/util/libxlu_pci.c`, 4.17): `BDF[@VSLOT][,KEY=VALUE]…`, with `*` for all functions of a slot, or keys alone.
//!
//! Everything that xl takes is taken. Beyond that, blanks around words are ignored, and a device may have both an address and a
//! `name=`. Where xl reads a flag that is no number as 0, this is an error: nobody means that.

use std::str::FromStr;

use xen_types::Sbdf;

use crate::records::device_spec::{
    DeviceSpec, ParseSpecError, flag, parse_name, parse_policy, parse_slot, take_policy, unknown,
};

/// Which functions are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Function(Sbdf),
    /// All functions of the slot that this one is in.
    Slot(Sbdf),
    /// The one that was made assignable under this name (`xl pci-assignable-add -n`).
    Named(String),
}

/// What the user asked for: one device or several, with the same options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRequest {
    pub(crate) place: Place,
    /// The options. Its device is not the one that is meant.
    options: DeviceSpec,
}

impl DeviceRequest {
    /// Reads a request whose options begin with `defaults`, as a configuration's `pci_seize=` and the like have them begin.
    pub(crate) fn parse(text: &str, defaults: &DeviceSpec) -> Result<Self, ParseSpecError> {
        let mut options = defaults.clone();
        let mut place = None;
        let mut words = text.split(',').peekable();
        if let Some(first) = words.next_if(|first| !first.contains('=')) {
            let (address, slot) = first.split_once('@').map_or((first, None), |(address, slot)| (address, Some(slot)));
            if slot.is_none() && is_slot_alone(address) {
                return Err(ParseSpecError::SlotAlone(address.to_owned()));
            }
            place = Some(parse_place(address)?);
            options.vslot = slot.map(parse_slot).transpose()?;
        }
        while let Some(word) = words.next() {
            if word.trim().is_empty() && words.peek().is_none() {
                break; // a comma at the end
            }
            let (key, value) = word.split_once('=').ok_or_else(|| ParseSpecError::Unknown(word.to_owned()))?;
            match (key.trim(), value.trim()) {
                ("bdf", value) => place = Some(parse_place(value)?),
                ("vslot", "") => options.vslot = None,
                ("vslot", value) => options.vslot = Some(parse_slot(value)?),
                ("permissive", value) => options.policy.permissive = flag("permissive", value)?,
                (word @ ("quirk" | "hide" | "show"), value) => take_policy(&mut options.policy, word, value)?,
                ("msitranslate", value) => options.msitranslate = flag("msitranslate", value)?,
                ("power_mgmt", value) => options.power_mgmt = flag("power_mgmt", value)?,
                ("seize", value) => options.seize = flag("seize", value)?,
                ("rdm_policy", value) => options.rdm_policy = parse_policy(value)?,
                ("name", value) => options.name = Some(parse_name(value)?),
                (key, _) => return Err(unknown(key, word)),
            }
        }
        let place = place.or_else(|| options.name.take().map(Place::Named)).ok_or(ParseSpecError::NoDevice)?;
        Ok(Self { place, options })
    }

    /// What was asked for, of this device.
    pub(crate) fn with(&self, device: Sbdf) -> DeviceSpec {
        let keeps_function = matches!(self.place, Place::Slot(_));
        DeviceSpec { device, keeps_function, ..self.options.clone() }
    }

    /// The device, where it is a single one that has an address.
    pub(crate) fn single(&self) -> Result<DeviceSpec, ParseSpecError> {
        match self.place {
            Place::Function(device) => Ok(self.with(device)),
            Place::Slot(_) | Place::Named(_) => Err(ParseSpecError::Address(xen_types::ParseSbdfError)),
        }
    }
}

impl FromStr for DeviceRequest {
    type Err = ParseSpecError;

    fn from_str(text: &str) -> Result<Self, ParseSpecError> {
        Self::parse(text, &DeviceSpec::plain(Sbdf::from_devfn(0, 0, 0)))
    }
}

impl FromStr for DeviceSpec {
    type Err = ParseSpecError;

    fn from_str(text: &str) -> Result<Self, ParseSpecError> {
        text.parse::<DeviceRequest>()?.single()
    }
}

/// One function by its address.
pub(crate) fn parse_function(text: &str) -> Result<Sbdf, ParseSpecError> {
    check_segment(text)?;
    Ok(text.parse()?)
}

fn check_segment(text: &str) -> Result<(), ParseSpecError> {
    let too_far = |segment: &str| u64::from_str_radix(segment, 16).is_ok_and(|segment| segment > 0xffff);
    match text.split(':').collect::<Vec<_>>()[..] {
        [segment, _, _] if too_far(segment) => Err(ParseSpecError::Segment(segment.to_owned())),
        _ => Ok(()),
    }
}

/// An address, with `*` for all functions of a slot.
pub(crate) fn parse_place(text: &str) -> Result<Place, ParseSpecError> {
    let text = text.trim();
    check_segment(text)?;
    match text.strip_suffix(".*") {
        Some(slot) => Ok(Place::Slot(format!("{slot}.0").parse()?)),
        None => Ok(Place::Function(text.parse()?)),
    }
}

/// An address, or the name of an assignable device, as `xl pci-assignable-remove` takes it.
pub(crate) fn parse_assignable(text: &str) -> Result<Place, ParseSpecError> {
    match parse_place(text) {
        Err(_) if !text.contains(':') => Ok(Place::Named(parse_name(text.strip_prefix("name=").unwrap_or(text))?)),
        place => place,
    }
}

/// Whether somebody has written `BDF SLOT`, as the first toolstacks had it.
fn is_slot_alone(text: &str) -> bool {
    !text.contains([':', '.']) && parse_slot(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::device_spec::RdmPolicy;

    fn parse(text: &str) -> Result<DeviceRequest, ParseSpecError> {
        text.parse()
    }

    fn plain(device: &str) -> DeviceSpec {
        DeviceSpec::plain(device.parse().unwrap())
    }

    #[test]
    fn forms_that_xl_takes() {
        let device = plain("0000:36:00.0");
        let seized = DeviceSpec { vslot: Some(0x1f), seize: true, ..device.clone() };
        for (text, want) in [
            ("36:00.0", &device),
            ("0000:36:00.0", &device),
            ("0:36:0.0", &device),
            ("36:00.00", &device),
            ("36:00.0,", &device),
            ("bdf=36:00.0", &device),
            ("bdf=36:00.0,", &device),
            ("36:00.0,vslot=", &device),
            ("36:00.0,seize=,permissive=,rdm_policy=", &device),
            ("36:00.0,permissive=0", &device),
            ("36:00.0@1f,seize=1", &seized),
            ("36:00.0@0x1f,seize=1", &seized),
            ("36:00.0,vslot=1f,seize=1", &seized),
            ("bdf=36:00.0,vslot=1f,seize=1", &seized),
            ("seize=1,vslot=1F,bdf=36:00.0", &seized),
            ("36:00.0,seize=0,vslot=3,vslot=1f,seize=2", &seized), // the last one counts
            ("01:00.0,bdf=36:00.0", &device),
            (" 36:00.0 , seize = 0", &device), // ours: blanks
        ] {
            assert_eq!(parse(text).and_then(|request| request.single()).as_ref(), Ok(want), "{text:?}");
        }
        let relaxed = parse("36:00.0,rdm_policy=Relaxed").unwrap().single().unwrap();
        assert_eq!(relaxed.rdm_policy, RdmPolicy::Relaxed);
    }

    #[test]
    fn forms_that_xl_refuses() {
        for text in [
            "",
            ",",
            "36:00",
            "36.0",
            "36:00.0.0",
            "36:00.8",
            "36:20.0",
            "100:00.0",
            "10000:36:00.0",
            "0:0:36:00.0",
            "36:00.**",
            "36:*.0",
            "*",
            "36:00.0@",
            "36:00.0@20",
            "36:00.0@+1",
            "36:00.0@-1",
            "36:00.0@1@2",
            "36:00.0,1f",
            "36:00.0,seize",
            "36:00.0,,seize=1",
            "36:00.0,seize=yes", // xl reads it as 0
            "36:00.0,rdm_policy=none",
            "36:00.0,colour=red",
            "36:00.0,romfile=x",
            "36:00.0,backend=dd",
            "36:00.0,hotplug=1",
            "36:00.0,bdf=",
            "bdf=",
            "vslot=3",
            "name=",
            "36:00.0,name=a\nb",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_star_means_the_slot() {
        for text in ["00:07.*", "0000:00:07.*", "bdf=00:07.*", "00:07.*,seize=1", "00:07.*@3"] {
            let request = parse(text).unwrap();
            assert_eq!(request.place, Place::Slot("00:07.0".parse().unwrap()), "{text}");
            assert!(request.single().is_err());
        }
        // Each function in its place within the wanted slot.
        let request = parse("00:07.*@3").unwrap();
        assert_eq!(request.with("00:07.2".parse().unwrap()).vdevfn(), Some(3 << 3 | 2));
    }

    #[test]
    fn a_single_function_is_wanted_as_function_0_as_libxl_has_it() {
        let devfn = |text: &str| parse(text).unwrap().single().unwrap().vdevfn();
        assert_eq!([devfn("00:07.2@3"), devfn("00:07.2,vslot=1f"), devfn("00:07.2@0")], [Some(0x18), Some(0xf8), None]);
    }

    #[test]
    fn what_is_removed_has_an_address_or_a_name() {
        let function = |text: &str| Place::Function(text.parse().unwrap());
        for (text, place) in [
            ("36:00.0", function("36:00.0")),
            ("36:00.*", Place::Slot("36:00.0".parse().unwrap())),
            ("disk", Place::Named("disk".to_owned())),
            ("name=disk", Place::Named("disk".to_owned())),
            ("36.0", Place::Named("36.0".to_owned())),
        ] {
            assert_eq!(parse_assignable(text), Ok(place), "{text}");
        }
        assert!(["36:00", "", "name=", "10000:36:00.0"].iter().all(|text| parse_assignable(text).is_err()));
    }

    #[test]
    fn a_name_alone_means_the_device_that_xl_knows_by_it() {
        let request = parse("name=disk,seize=1").unwrap();
        assert_eq!(request.place, Place::Named("disk".to_owned()));
        assert_eq!((request.options.seize, request.options.name), (true, None));
        let both = parse("00:07.0,name=disk").unwrap().single().unwrap();
        assert_eq!(both.name.as_deref(), Some("disk"));
    }

    #[test]
    fn options_begin_as_the_configuration_says() {
        let defaults = DeviceSpec { seize: true, power_mgmt: true, ..plain("00:00.0") };
        let spec = DeviceRequest::parse("00:07.0,seize=0", &defaults).unwrap().single().unwrap();
        assert_eq!(spec, DeviceSpec { power_mgmt: true, ..plain("00:07.0") });
    }

    #[test]
    fn segments_that_xen_cannot_name_are_told_apart() {
        let error = parse("10000:e1:00.0").unwrap_err();
        assert!(error.to_string().contains("10000"), "{error}");
    }
}
