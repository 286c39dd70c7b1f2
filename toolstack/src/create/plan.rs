//! What a configuration asks for: the guest, its devices, and the configuration that xl gets instead.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use xen_types::Sbdf;

use super::config::{Config, SyntaxError, Value};
use crate::error::{Error, HostError};
use crate::host::Host;
use crate::ops::named_devices;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_words::DeviceRequest;

/// The id that the configuration gives the guest, empty where it leaves that to xl.
fn uuid(config: &Config) -> Result<String, SyntaxError> {
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    let text = config.text("uuid")?.unwrap_or_default();
    let is_sound =
        |(at, byte): (usize, u8)| if HYPHENS.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() };
    if !text.is_empty() && (text.len() != 36 || !text.bytes().enumerate().all(is_sound)) {
        let line = config.get("uuid")?.map_or(0, |(line, _)| line);
        return Err(SyntaxError { line, what: format!("uuid = {text:?} is no UUID") });
    }
    Ok(text.to_ascii_lowercase())
}

/// The kind of a guest that can have devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pv,
    /// HVM, with its device model in a Linux stub domain.
    Hvm,
}

/// The kind of guest that the configuration is about, as xl reads it: `type` counts, else the older `builder` and `pvh`; without any
/// of them it is PV.
///
/// # Errors
/// It is one that cannot have devices.
fn kind(config: &Config) -> Result<Kind, SyntaxError> {
    let value = |name| match config.get(name)? {
        Some((line, Value::Text(text))) => Ok(Some((line, text))),
        Some((line, Value::List(_))) => {
            Err(SyntaxError { line, what: format!("{name} is a list and should be a single value") })
        }
        None => Ok(None),
    };
    let refused = |line, setting: String| {
        let what = format!(
            "{setting}: PCI devices of a driver domain reach PV guests, and HVM guests with their device model in a stub domain"
        );
        Err(SyntaxError { line, what })
    };
    let of_hvm = |line, setting: String| {
        if !config.flag("device_model_stubdomain_override")? {
            let what = format!(
                "{setting}: PCI devices of a driver domain reach an HVM guest through a Linux stub domain with its device model only: \
                 device_model_stubdomain_override=1, stubdomain_kernel=, stubdomain_ramdisk= (docs/hvm.md)"
            );
            return Err(SyntaxError { line, what });
        }
        match value("device_model_version")? {
            Some((line, version)) if version != "qemu-xen" => {
                let what = format!(
                    "device_model_version = {version:?}: it must be \"qemu-xen\" for PCI devices of a driver domain"
                );
                Err(SyntaxError { line, what })
            }
            _ => Ok(Kind::Hvm),
        }
    };
    if let Some((line, kind)) = value("type")? {
        return match kind.as_str() {
            kind if kind.starts_with("hvm") => of_hvm(line, format!("type = {kind:?}")),
            kind if kind.starts_with("pv") && !kind.starts_with("pvh") => Ok(Kind::Pv),
            kind => refused(line, format!("type = {kind:?}")),
        };
    }
    if let Some((line, builder)) = value("builder")?
        && builder.starts_with("hvm")
    {
        return of_hvm(line, format!("builder = {builder:?}"));
    }
    match value("pvh")? {
        Some((line, text)) if config.flag("pvh")? => refused(line, format!("pvh = {text}")),
        _ => Ok(Kind::Pv),
    }
}

/// The guest to create and its devices.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The configuration; `-` is standard input. None where the settings are all there is.
    pub(crate) config: Option<PathBuf>,
    /// More of it, `KEY=VALUE` each.
    pub(crate) overrides: Vec<String>,
    /// Name or number of the stub.
    pub(crate) backend: String,
    /// How long the guest may take.
    pub(crate) timeout: Duration,
    /// It shall not run yet.
    pub(crate) paused: bool,
    /// Options that xl gets.
    pub(crate) for_xl: Vec<&'static str>,
    /// This terminal is to be connected with its console.
    pub(crate) console: bool,
}

/// A configuration, taken to pieces.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(super) name: String,
    /// Empty where the configuration leaves that to xl.
    pub(super) uuid: String,
    pub(super) devices: Vec<DeviceRequest>,
    /// For xl.
    pub(super) text: Vec<u8>,
    /// What was added to it.
    pub(super) added: Vec<&'static str>,
    pub(super) source: String,
}

impl Kind {
    /// Settings that a guest with devices needs, and the line that sets each. A memory map with a hole for registers HVM guests have anyhow.
    fn needs(self) -> &'static [(&'static str, &'static str)] {
        const ALL: [(&str, &str); 2] = [("passthrough", "passthrough = \"enabled\""), ("e820_host", "e820_host = 1")];
        match self {
            Self::Pv => &ALL,
            Self::Hvm => ALL.split_at(1).0,
        }
    }
}

impl Plan {
    /// Reads the configuration.
    pub(crate) fn read(request: &Request) -> Result<Self, Error> {
        let Some(path) = &request.config else {
            return Self::parse("the command line", Vec::new(), &request.overrides);
        };
        let (source, text) = if path == Path::new("-") {
            let mut text = Vec::new();
            ("standard input".to_owned(), std::io::stdin().read_to_end(&mut text).map(|_| text))
        } else {
            (path.display().to_string(), std::fs::read(path))
        };
        let text = text.map_err(|error| HostError::File { path: path.clone(), source: error })?;
        Self::parse(&source, text, &request.overrides)
    }

    fn parse(source: &str, mut text: Vec<u8>, overrides: &[String]) -> Result<Self, Error> {
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        for setting in overrides {
            text.extend(setting.as_bytes());
            text.push(b'\n');
        }
        let place = |line: usize| match overrides.get(line.wrapping_sub(lines + 1)) {
            Some(setting) => format!("{setting:?}"),
            None => format!("{source}:{line}"),
        };
        let wrong = |SyntaxError { line, what }: SyntaxError| Error::Config { place: place(line), what };
        let config = Config::parse(text).map_err(wrong)?;
        let name = config.text("name").map_err(wrong)?.filter(|name| !name.is_empty());
        let name =
            name.ok_or_else(|| Error::Config { place: source.to_owned(), what: "it has no name =".to_owned() })?;
        let flag = |name| config.flag(name).map_err(wrong);
        let mut defaults = DeviceSpec {
            msitranslate: flag("pci_msitranslate")?,
            power_mgmt: flag("pci_power_mgmt")?,
            seize: flag("pci_seize")?,
            ..DeviceSpec::plain(Sbdf::from_devfn(0, 0, 0))
        };
        defaults.policy.permissive = flag("pci_permissive")?;
        let mut devices = Vec::new();
        for (line, text) in config.list("pci").map_err(wrong)? {
            let request = DeviceRequest::parse(&text, &defaults);
            let what = |error| Error::Config { place: place(line), what: format!("{text:?}: {error}") };
            devices.push(request.map_err(what)?);
        }
        let needs = if devices.is_empty() { &[] } else { kind(&config).map_err(wrong)?.needs() };
        let mut plan = Self {
            name,
            uuid: uuid(&config).map_err(wrong)?,
            devices,
            text: config.without(&["pci"]),
            added: Vec::new(),
            source: source.to_owned(),
        };
        for (needed, setting) in needs {
            if config.get(needed).map_err(wrong)?.is_none() {
                plan.added.push(setting);
                plan.add(setting);
            }
        }
        Ok(plan)
    }

    /// The guest's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The devices that it shall have.
    pub(crate) fn devices(&self) -> &[DeviceRequest] {
        &self.devices
    }

    pub(super) fn add(&mut self, setting: &str) {
        self.text.extend(setting.as_bytes());
        self.text.push(b'\n');
    }

    /// Output of `--dryrun`: the configuration as xl gets it, and the devices.
    pub(crate) fn describe(&self, host: &Host) -> Result<String, Error> {
        let mut lines = vec![String::from_utf8_lossy(&self.text).trim_end().to_owned()];
        for spec in named_devices::to_attach(host, &self.devices)? {
            let slot = spec.vslot.map(|slot| format!("@{slot:x}")).unwrap_or_default();
            let seize = if spec.seize { ",seize=1" } else { "" };
            let policy = spec.policy_words();
            lines.push(format!("# pcidom attach {} {}{slot},{}{policy}{seize}", self.name, spec.device, spec.opts()));
        }
        Ok(lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, overrides: &[&str]) -> Result<Plan, Error> {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        Plan::parse("web.cfg", text.as_bytes().to_vec(), &overrides)
    }

    fn error(text: &str, overrides: &[&str]) -> String {
        let error = plan(text, overrides).unwrap_err();
        assert_eq!(error.cause(), crate::error::ExitCause::Usage);
        error.to_string()
    }

    #[test]
    fn a_guest_without_devices_is_left_as_it_is() {
        let text = "name='web'\nmemory=64\n";
        for pci in ["", "pci=[]\n"] {
            let plan = plan(&format!("{text}{pci}"), &[]).unwrap();
            assert!(plan.devices.is_empty() && plan.added.is_empty());
            assert_eq!(String::from_utf8(plan.text).unwrap().trim_end(), text.trim_end());
        }
    }

    #[test]
    fn devices_bring_what_they_need_unless_the_configuration_has_a_word_on_it() {
        let both = plan("name='web'\npci=['00:07.0']", &[]).unwrap();
        assert_eq!(both.added.len(), 2);
        assert!(String::from_utf8(both.text).unwrap().ends_with("passthrough = \"enabled\"\ne820_host = 1\n"));
        let own = plan("name='web'\npci=['00:07.0']\npassthrough='sync_pt'", &["e820_host=0"]).unwrap();
        assert!(own.added.is_empty());
    }

    #[test]
    fn devices_begin_with_the_options_that_the_configuration_has_for_all() {
        let plan =
            plan("name='web'\npci_seize=1\npci=['00:07.0@3', '00:06.0,seize=0']", &["pci_power_mgmt=1"]).unwrap();
        let specs: Vec<_> = plan.devices.iter().map(|request| request.single().unwrap()).collect();
        assert!(specs[0].seize && !specs[1].seize && specs.iter().all(|spec| spec.power_mgmt));
        assert_eq!(specs[0].vslot, Some(3));
    }

    #[test]
    fn settings_can_be_all_there_is_and_several_in_one_word() {
        let overrides = ["name='web';memory=64".to_owned(), "pci=['00:07.0','00:06.0']; vcpus=2".to_owned()];
        let plan = Plan::parse("the command line", Vec::new(), &overrides).unwrap();
        assert_eq!((plan.name.as_str(), plan.devices.len()), ("web", 2));
        let text = String::from_utf8(plan.text).unwrap();
        assert!(text.contains("memory=64") && text.contains("vcpus=2") && !text.contains("00:07.0"), "{text}");
        let error = Plan::parse("the command line", Vec::new(), &["memory=64".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "the command line: it has no name =");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert!(error("memory=64", &[]).starts_with("web.cfg: it has no name"));
        assert!(error("name='web'\npci='00:07.0'", &[]).starts_with("web.cfg:2: pci is a single value"));
        assert!(error("name='web'\npci=['00:07']", &[]).starts_with("web.cfg:2: \"00:07\": not a PCI address"));
        assert!(error("name='web'\n\npci=[\n", &[]).starts_with("web.cfg:4: want a value"));
        assert!(error("name='web'", &["memory=64", "pci=x"]).starts_with("\"pci=x\": want a value: x needs quotes"));
        // Each device has a line of its own.
        let lines = "name='web'\npci=[ '00:07.0',\n'00:08.0,romfile=x',\n]";
        assert!(error(lines, &[]).starts_with("web.cfg:3: \"00:08.0,romfile=x\": romfile "), "{}", error(lines, &[]));
        assert!(error("name='web'", &["pci=['00:08.0,hotplug=1']"]).contains("hotplug "));
        assert!(error("name='web'", &["pci=['00:08.0,backend=dd']"]).contains("--backend"));
    }

    #[test]
    fn permissive_is_a_default_like_the_others() {
        let devices = [
            "00:01.0",
            "00:02.0,",
            "00:03.0,permissive=0",
            "00:04.0,permissive =0",
            "00:05.0,permissive=",
            "00:06.0,quirk=40:4:ff00",
        ];
        let plan = plan(&format!("name='web'\npci_permissive=1\npci={devices:?}"), &[]).unwrap();
        let permissive = plan.devices.iter().map(|request| request.single().unwrap().policy.permissive);
        assert_eq!(permissive.collect::<Vec<_>>(), [true, true, false, false, false, true]);
    }

    #[test]
    fn an_hvm_guest_with_a_stub_domain_needs_passthrough_only() {
        for kind in ["type='hvm'", "builder='hvm'"] {
            let stub_domain = "device_model_stubdomain_override=1\ndevice_model_version='qemu-xen'";
            let plan = plan(&format!("name='web'\n{kind}\n{stub_domain}\npci=['00:07.0']"), &[]).unwrap();
            assert_eq!(plan.added, ["passthrough = \"enabled\""]);
        }
        let traditional = "type='hvm'\ndevice_model_stubdomain_override=1\ndevice_model_version='qemu-xen-traditional'";
        let error = error(&format!("name='web'\n{traditional}\npci=['00:07.0']"), &[]);
        assert!(error.starts_with("web.cfg:4: device_model_version = \"qemu-xen-traditional\""), "{error}");
    }

    #[test]
    fn a_guest_of_another_kind_is_refused_with_its_line() {
        let with = |settings: &str| format!("name='web'\n{settings}\npci=['00:07.0']");
        for (settings, line) in [
            ("type='hvm'", "web.cfg:2: type = \"hvm\""),
            ("type='pvh'", "web.cfg:2: type = \"pvh\""),
            ("builder='hvm'", "web.cfg:2: builder = \"hvm\""),
            ("\ntype='pv'\ntype = \"pvh\"", "web.cfg:4: type = \"pvh\""),
            ("pvh=1", "web.cfg:2: pvh = 1"),
            ("builder='generic'\ntype='hvm'", "web.cfg:3: type = \"hvm\""),
        ] {
            let error = error(&with(settings), &[]);
            let want = if settings.contains("hvm") { "device_model_stubdomain_override=1" } else { "reach PV guests" };
            assert!(error.starts_with(line) && error.contains(want), "{settings}: {error}");
        }
        assert!(error(&with(""), &["type='hvm'"]).starts_with("\"type='hvm'\": type ="));
        for settings in ["", "type='pv'", "builder='generic'", "builder='linux'", "type='pv'\nbuilder='hvm'", "pvh=0"] {
            assert!(plan(&with(settings), &[]).is_ok(), "{settings}");
        }
        // Without devices it is xl's business.
        let plan = plan("name='web'\ntype='hvm'\nvif=['']\nvif.default.script='x'", &[]).unwrap();
        assert!(plan.devices.is_empty());
    }
}
