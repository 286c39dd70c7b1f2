//! `pcidom create`: an ordinary xl.cfg, whose PCI devices come from a driver domain.
//!
//! `xl` makes the guest, paused and without devices; they are attached as `pcidom attach` does it; then the guest runs. Up to there all
//! is undone if something fails, and what a killed command began is found in [`unfinished_guests`]. A guest that runs is its admin's: the
//! command waits for it, and leaves it alone.

pub(crate) mod config;
mod lexer;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use xen_types::Sbdf;

use crate::error::{DomainName, Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::ops::assignable;
use crate::ops::attach;
use crate::ops::connect;
use crate::ops::named_devices;
use crate::ops::patience::Patience;
use crate::ops::recover::reclaim;
use crate::ops::unfinished_guests;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table;
use crate::records::device_words::DeviceRequest;
use crate::records::guard;
use crate::sysfs::PCIBACK;
use config::{Config, SyntaxError, Value};
use pcidom_abi::CreationProgress;

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

/// The kind of guest that the configuration is about, as xl reads it: `type` counts, else the older `builder` and `pvh`; without any
/// of them it is PV.
fn must_be_pv(config: &Config) -> Result<(), SyntaxError> {
    let value = |name| match config.get(name)? {
        Some((line, Value::Text(text))) => Ok(Some((line, text))),
        Some((line, Value::List(_))) => {
            Err(SyntaxError { line, what: format!("{name} is a list and should be a single value") })
        }
        None => Ok(None),
    };
    let refused = |line, setting: String| {
        let what = format!("{setting}: this guest is not PV, and PCI devices of a driver domain reach PV guests only");
        Err(SyntaxError { line, what })
    };
    if let Some((line, kind)) = value("type")? {
        return if kind.starts_with("pv") && !kind.starts_with("pvh") {
            Ok(())
        } else {
            refused(line, format!("type = {kind:?}"))
        };
    }
    if let Some((line, builder)) = value("builder")?
        && builder.starts_with("hvm")
    {
        return refused(line, format!("builder = {builder:?}"));
    }
    match value("pvh")? {
        Some((line, text)) if config.flag("pvh")? => refused(line, format!("pvh = {text}")),
        _ => Ok(()),
    }
}

/// The guest to create and its devices.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The configuration; `-` is standard input.
    pub(crate) config: PathBuf,
    /// More of it, `KEY=VALUE` each.
    pub(crate) overrides: Vec<String>,
    /// Name or number of the stub.
    pub(crate) backend: String,
    /// How long the guest may take.
    pub(crate) timeout: Duration,
    /// It shall not run yet.
    pub(crate) paused: bool,
}

/// A configuration, taken to pieces.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    name: String,
    /// Empty where the configuration leaves that to xl.
    uuid: String,
    devices: Vec<DeviceRequest>,
    /// For xl.
    text: Vec<u8>,
    /// What was added to it.
    added: Vec<&'static str>,
    source: String,
}

/// Settings that a guest with devices needs, and the line that sets each.
const NEEDS: [(&str, &str); 2] = [("passthrough", "passthrough = \"enabled\""), ("e820_host", "e820_host = 1")];

impl Plan {
    /// Reads the configuration.
    pub(crate) fn read(request: &Request) -> Result<Self, Error> {
        let path = &request.config;
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
        if !devices.is_empty() {
            must_be_pv(&config).map_err(wrong)?;
        }
        let mut plan = Self {
            name,
            uuid: uuid(&config).map_err(wrong)?,
            devices,
            text: config.without(&["pci"]),
            added: Vec::new(),
            source: source.to_owned(),
        };
        for (needed, setting) in NEEDS {
            if !plan.devices.is_empty() && config.get(needed).map_err(wrong)?.is_none() {
                plan.added.push(setting);
                plan.add(setting);
            }
        }
        Ok(plan)
    }

    fn add(&mut self, setting: &str) {
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

/// Creates the guest. Reclaim first: see [`crate::ops::recover`].
pub(crate) fn create(host: &Host, request: &Request, mut plan: Plan) -> Result<(), Error> {
    let devices = named_devices::to_attach(host, &plan.devices)?;
    check(host, &devices)?;
    for setting in &plan.added {
        host.note(&format!("{setting} was added to {}: the guest cannot have devices without it", plan.source));
    }
    if plan.uuid.is_empty() {
        plan.uuid = host.xl.new_uuid()?;
        let uuid = format!("uuid = \"{}\"", plan.uuid);
        plan.add(&uuid);
    } else if let Some(guest) = unfinished_guests::find(host, &plan.uuid)? {
        return Err(Error::GuestExists(guest));
    }
    let Some(creation) = host.take_creation(&plan.uuid)? else {
        return Err(Error::BeingCreated(plan.name));
    };
    unfinished_guests::begin(host, &plan.uuid)?;
    let mut homes = Vec::new();
    let built = build(host, request, &plan, &devices, &mut homes);
    if built.is_err() {
        match host.without_stopping(|| take_down(host, &plan, &homes)) {
            Ok(None) => {}
            Ok(Some(guest)) => host.note(&format!("{guest} runs already, and is left as it is")),
            Err(error) => {
                host.note(&format!("could not take {} down again: {error}", plan.name));
                return built.map(drop); // it stays noted, and the next command tries again
            }
        }
    }
    unfinished_guests::end(host, &plan.uuid)?;
    drop(creation);
    let guest = built?;
    if request.paused || devices.is_empty() { Ok(()) } else { await_use(host, request, &guest, &devices) }
}

/// Checks that need no guest, made before it is created. `attach` makes the others.
fn check(host: &Host, devices: &[DeviceSpec]) -> Result<(), Error> {
    for spec in devices {
        let device = spec.device;
        assignable::check_endpoint(host, device)?;
        let record = device_table::load_one(host, device)?;
        guard::check(host, device, record.as_ref())?;
        if let Some(owner) = record.and_then(|record| record.frontend) {
            return Err(Error::AlreadyAssigned { device, owner: domain::named(host, owner)? });
        }
        let driver = host.sysfs.driver(device);
        if driver.as_deref() != Some(PCIBACK) && (!spec.seize || record.is_some()) {
            return Err(Error::NotAssignable { device, driver });
        }
    }
    Ok(())
}

/// Makes the guest with its devices, and lets it run if it shall. What fails up to then is to be undone.
fn build(
    host: &Host,
    request: &Request,
    plan: &Plan,
    devices: &[DeviceSpec],
    homes: &mut Vec<(Sbdf, Home)>,
) -> Result<DomainName, Error> {
    host.trace(&format!("xl create -p {}", plan.source));
    host.aside(|| host.xl.create_paused(&plan.text, &plan.uuid, &plan.source))?;
    let guest = unfinished_guests::find(host, &plan.uuid)?.ok_or_else(|| Error::NoSuchGuest(plan.name.clone()))?;
    host.adopt(guest.id)?;
    // Only now: others may have moved them meanwhile.
    for spec in devices {
        homes.push((spec.device, Home::of(host, spec.device)?));
    }
    if !devices.is_empty() {
        let request = attach::Request {
            guest: guest.id.to_string(),
            backend: request.backend.clone(),
            devices: devices.to_vec(),
            export: None,
            timeout: request.timeout,
            following: attach::Following::Yes, // as with xl, whose guests have their devices again after a reboot
            until: attach::Until::Used,
        };
        attach::attach(host, &request)?;
    }
    if !request.paused {
        unfinished_guests::set(host, &plan.uuid, CreationProgress::Running)?;
        host.trace(&format!("unpause {guest}"));
        let unpaused = host.xl.unpause(guest.id);
        // What counts is whether it runs.
        if !unfinished_guests::runs(host, &guest)? {
            unpaused?;
        }
    }
    Ok(guest)
}

/// Waits until a guest that runs uses its devices. Whatever comes of that, it stays as it is: it may ask for a passphrase, check its disks
/// or load its driver late, and then finds its devices there.
fn await_use(host: &Host, request: &Request, guest: &DomainName, devices: &[DeviceSpec]) -> Result<(), Error> {
    let devices: Vec<Sbdf> = devices.iter().map(|spec| spec.device).collect();
    let Some(first) = devices.first() else { return Ok(()) };
    let record = device_table::load_one(host, *first)?.ok_or_else(|| Error::GuestWentAway(guest.clone()))?;
    let stub = domain::named(host, record.stub)?;
    let patience = Patience::new(request.timeout, devices.len());
    match connect::await_connection(host, &stub, guest, &devices, patience, attach::Until::Used) {
        Ok(_) => Ok(()),
        Err(Error::GuestSilent { after, .. }) => Err(Error::NotYetUsed { guest: guest.clone(), devices, after }),
        Err(error) => {
            host.note(&format!("{guest} runs, and is left as it is"));
            Err(error)
        }
    }
}

/// Where a device was before.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Home {
    /// In a stub's pool.
    Pool,
    /// With xen-pciback alone.
    Parked,
    /// With this driver, or none.
    Driver(Option<String>),
}

impl Home {
    fn of(host: &Host, device: Sbdf) -> Result<Self, Error> {
        if device_table::load_one(host, device)?.is_some() {
            return Ok(Self::Pool);
        }
        let driver = host.sysfs.driver(device);
        Ok(if driver.as_deref() == Some(PCIBACK) { Self::Parked } else { Self::Driver(driver) })
    }
}

/// Ends the guest and puts its devices where they were. One that somebody has let run meanwhile stays, and is the result.
fn take_down(host: &Host, plan: &Plan, homes: &[(Sbdf, Home)]) -> Result<Option<DomainName>, Error> {
    if let Some(guest) = unfinished_guests::find(host, &plan.uuid)? {
        if unfinished_guests::runs(host, &guest)? {
            return Ok(Some(guest));
        }
        unfinished_guests::set(host, &plan.uuid, CreationProgress::Building)?;
        unfinished_guests::destroy(host, &guest)?;
        reclaim(host)?;
    }
    for (device, home) in homes {
        // Another command may have given it to somebody meanwhile.
        let record = device_table::load_one(host, *device)?.filter(|record| record.frontend.is_none());
        if record.is_some() {
            host.commit(&device_table::forget_keep(*device))?;
        }
        match (home, record) {
            (Home::Pool, _) | (_, None) => {}
            (Home::Parked, Some(_)) => assignable::leave_pool(host, *device)?,
            (Home::Driver(driver), Some(_)) => assignable::remove(host, &[*device], driver.is_some())?,
        }
    }
    Ok(None)
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
            assert!(error.starts_with(line) && error.contains("not PV"), "{settings}: {error}");
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
