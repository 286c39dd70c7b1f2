//! What the user asked for one device. `device_words.rs` reads it.

use pci_config::{Place, Policy, table};
use xen_types::Sbdf;

/// Whether memory that firmware reserved for the device (RMRR) must be mapped (`rdm_policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum RdmPolicy {
    #[default]
    Strict,
    Relaxed,
}

/// Options of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceSpec {
    pub(crate) device: Sbdf,
    /// The slot wanted on the guest's bus.
    pub(crate) vslot: Option<u8>,
    /// It is one of all functions of its slot, each of which has its own number in the wanted slot too.
    pub(crate) keeps_function: bool,
    /// Means something for HVM guests only; it is passed on into the guest's `opts-N`.
    pub(crate) msitranslate: bool,
    pub(crate) power_mgmt: bool,
    /// Take the device from dom0's driver if need be.
    pub(crate) seize: bool,
    pub(crate) rdm_policy: RdmPolicy,
    pub(crate) name: Option<String>,
    /// Per-device policy.
    pub(crate) policy: Policy,
}

impl DeviceSpec {
    /// A device without options.
    pub(crate) fn plain(device: Sbdf) -> Self {
        Self {
            device,
            vslot: None,
            keeps_function: false,
            msitranslate: false,
            power_mgmt: false,
            seize: false,
            rdm_policy: RdmPolicy::Strict,
            name: None,
            policy: Policy::default(),
        }
    }

    /// The text of `opts-N`, as libxl writes it.
    pub(crate) fn opts(&self) -> String {
        let policy = match self.rdm_policy {
            RdmPolicy::Strict => "strict",
            RdmPolicy::Relaxed => "relaxed",
        };
        let [msitranslate, power_mgmt, permissive] =
            [self.msitranslate, self.power_mgmt, self.policy.permissive].map(u8::from);
        format!("msitranslate={msitranslate},power_mgmt={power_mgmt},permissive={permissive},rdm_policy={policy}")
    }

    /// The words of the policy that do not stand in `opts-N`, each with a comma before it.
    pub(crate) fn policy_words(&self) -> String {
        self.policy.to_string().split_once(',').map(|(_, words)| format!(",{words}")).unwrap_or_default()
    }

    /// The number of `vdevfn-N`: slot and function. Like libxl, function 0 for a single one, as guests look at no others in a slot without it, and none
    /// for slot 0 function 0 (`libxl__device_pci_add`, 4.17).
    pub(crate) fn vdevfn(&self) -> Option<u8> {
        let function = if self.keeps_function { self.device.function() } else { 0 };
        self.vslot.map(|slot| slot << 3 | function).filter(|devfn| *devfn != 0)
    }
}

impl std::fmt::Display for DeviceSpec {
    /// In the words that the command takes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.device)?;
        if let Some(slot) = self.vslot {
            write!(f, "@{slot:x}")?;
        }
        write!(f, ",{}{}", self.opts(), self.policy_words())?;
        if self.seize {
            f.write_str(",seize=1")?;
        }
        match &self.name {
            Some(name) => write!(f, ",name={name}"),
            None => Ok(()),
        }
    }
}

/// The text is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseSpecError {
    #[error(transparent)]
    Address(#[from] xen_types::ParseSbdfError),
    #[error("a virtual slot is a hexadecimal number up to 1f, not {0:?}")]
    Slot(String),
    #[error(
        "segment {0} cannot be passed through: Xen knows segments up to ffff (this one may be a Volume Management Device's)"
    )]
    Segment(String),
    #[error("{0:?} is no device: a virtual slot is written behind its device: BDF@{0}")]
    SlotAlone(String),
    #[error("no device: want a BDF, or name=NAME of an assignable device")]
    NoDevice,
    #[error(
        "{0:?} is no option of a device (bdf, vslot, permissive, quirk, hide, show, msitranslate, power_mgmt, seize, rdm_policy, name)"
    )]
    Unknown(String),
    #[error("{word} is no option of a device here: {why}")]
    Elsewhere { word: &'static str, why: &'static str },
    #[error("{option} cannot be {value:?}")]
    Value { option: &'static str, value: String },
}

/// Words that other toolstacks have for a device, and what is to be said about them.
const ELSEWHERE: [(&str, &str); 6] = [
    ("vdevfn", "the slot on the guest's bus is vslot=, in hexadecimal"),
    ("msi_translate", "xl has it as msitranslate="),
    ("backend", "the driver domain is named for all devices of a guest, with --backend"),
    ("hotplug", "there is no script to be run for a PCI device"),
    ("romfile", "a PV guest runs no expansion ROM"),
    ("rombar", "a PV guest runs no expansion ROM"),
];

/// The error for an unknown key.
pub(crate) fn unknown(key: &str, word: &str) -> ParseSpecError {
    match ELSEWHERE.into_iter().find(|(other, _)| *other == key) {
        Some((word, why)) => ParseSpecError::Elsewhere { word, why },
        None => ParseSpecError::Unknown(word.to_owned()),
    }
}

/// A flag: any number, of which 0 means no. Nothing is the default, as everywhere in xl.
pub(crate) fn flag(option: &'static str, value: &str) -> Result<bool, ParseSpecError> {
    match value.parse::<i32>() {
        Ok(number) => Ok(number != 0),
        Err(_) if value.is_empty() => Ok(false),
        Err(_) => Err(ParseSpecError::Value { option, value: value.to_owned() }),
    }
}

/// Takes a word of a policy in. Capabilities can be named besides having numbers.
pub(crate) fn take_policy(policy: &mut Policy, word: &str, value: &str) -> Result<(), ParseSpecError> {
    let named = table::blocks().find(|block| matches!(word, "hide" | "show") && block.name == value);
    let number = match named.map(|block| block.place) {
        Some(Place::Capability(id)) => format!("{id:x}"),
        Some(Place::Extended(id)) => format!("x{id:x}"),
        Some(Place::Header(_)) | None => value.to_owned(),
    };
    let option = ["permissive", "quirk", "hide", "show"].into_iter().find(|option| *option == word);
    let option = option.ok_or_else(|| ParseSpecError::Unknown(format!("{word}={value}")))?;
    policy.take(word, &number).map_err(|_| ParseSpecError::Value { option, value: value.to_owned() })?;
    Ok(())
}

/// A slot of the virtual bus.
pub(crate) fn parse_slot(text: &str) -> Result<u8, ParseSpecError> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let slot = if digits.starts_with('+') { None } else { u8::from_str_radix(digits, 16).ok() };
    slot.filter(|slot| *slot < 32).ok_or_else(|| ParseSpecError::Slot(text.to_owned()))
}

/// `rdm_policy`, in whatever case, as libxl reads its enumerations.
pub(crate) fn parse_policy(value: &str) -> Result<RdmPolicy, ParseSpecError> {
    match value.to_ascii_lowercase().as_str() {
        "strict" | "" => Ok(RdmPolicy::Strict),
        "relaxed" => Ok(RdmPolicy::Relaxed),
        _ => Err(ParseSpecError::Value { option: "rdm_policy", value: value.to_owned() }),
    }
}

/// A name, as xenstore and a table can show it.
pub(crate) fn parse_name(value: &str) -> Result<String, ParseSpecError> {
    const MAX_BYTES: usize = 64;
    if value.is_empty() || value.len() > MAX_BYTES || value.contains(char::is_control) {
        return Err(ParseSpecError::Value { option: "name", value: value.to_owned() });
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DeviceSpec, ParseSpecError> {
        text.parse()
    }

    #[test]
    fn a_bare_address_has_the_defaults_of_xl() {
        let spec = parse("03:00.1").unwrap();
        assert_eq!(spec, DeviceSpec::plain(Sbdf::new(0, 3, 0, 1).unwrap()));
        assert_eq!(spec.opts(), "msitranslate=0,power_mgmt=0,permissive=0,rdm_policy=strict");
        assert_eq!(spec.vdevfn(), None);
    }

    #[test]
    fn every_option_word_of_xl_is_known() {
        let spec =
            parse("0000:03:00.1@1f,permissive=0,msitranslate=1,power_mgmt=1,seize=1,rdm_policy=relaxed,name=disk")
                .unwrap();
        assert_eq!(spec.vdevfn(), Some(0xf8));
        assert_eq!(spec.opts(), "msitranslate=1,power_mgmt=1,permissive=0,rdm_policy=relaxed");
        assert!(spec.seize);
        assert_eq!(spec.name.as_deref(), Some("disk"));
    }

    #[test]
    fn what_a_guest_may_besides_is_said_in_words() {
        let spec =
            parse("03:00.0,permissive=1,hide=msix,hide=x1,show=sriov,quirk=40:4:ff00,quirk=0x44:2:0xff").unwrap();
        assert_eq!(spec.opts(), "msitranslate=0,power_mgmt=0,permissive=1,rdm_policy=strict");
        assert_eq!(spec.policy.to_string(), "permissive=1,hide=11,hide=x1,show=x10,quirk=40:4:ff00,quirk=44:2:ff");
        assert_eq!(spec.policy.to_string().parse(), Ok(spec.policy));
        assert_eq!(spec.to_string().parse(), Ok(spec));
        for text in
            ["hide=", "hide=0", "hide=x", "hide=x40", "hide=20", "hide=header", "quirk=", "quirk=40:4", "quirk=40:3:1"]
        {
            assert!(parse(&format!("03:00.0,{text}")).is_err(), "{text}");
        }
    }

    #[test]
    fn what_xl_would_not_take_is_refused() {
        for text in [
            "",
            "03:00",
            "03:00.0@",
            "03:00.0@20",
            "03:00.0@+1",
            "03:00.0@-1",
            "03:00.0,seize",
            "03:00.0,seize=yes",
            "03:00.0,rdm_policy=none",
            "03:00.0,name=",
            "03:00.0,name=a\nb",
            "03:00.0,colour=red",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
