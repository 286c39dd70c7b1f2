//! `pcidom status`: the health of a stub, from its statistics (`docs/xenstore.md`, "The stub's statistics") and from xenstore.

use std::time::Duration;

use pcidom_abi::statistics::QueryKind;
use pcidom_abi::{DeviceNode, PartVersion, Restarts, paths, statistics};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use xen_types::{DomId, Sbdf};
use xenstore::{XenbusState, path};

use crate::cli::list::DomainEntry;
use crate::cli::prometheus::{Kind, Metrics};
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::host::lock;
use crate::ops::attach::find_stub;
use crate::ops::pool::PoolState;
use crate::ops::stub_query;
use crate::ops::versions;
use crate::records::device_table;
use crate::records::directories::Ends;
use crate::sysfs::ErrorCounters;

/// Version of the JSON form; grows when a field changes its meaning or goes away.
const JSON_VERSION: u32 = 1;

/// Everything. The order of the fields is the one of the JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Status {
    version: u32,
    stub: DomainEntry,
    stub_version: Option<String>,
    /// Number of its contract with the other parts; None where it names one that is no number.
    stub_contract: Option<u32>,
    export: Option<String>,
    /// Restarts of its image in place; None where there was none.
    restarts: Option<RestartsEntry>,
    memory_kib: Option<u64>,
    broker: Broker,
    command: Part,
    devices: Devices,
    /// Devices of its pool that have reported errors, or are isolated after one.
    errors: Vec<DeviceErrors>,
    frontends: Vec<Frontend>,
    /// None when the stub did not answer.
    statistics: Option<Statistics>,
}

/// What the stub says about its restarts in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct RestartsEntry {
    count: u32,
    /// From the last crash until it was ready again.
    took_ns: u64,
    last_words: String,
}

impl RestartsEntry {
    fn read(host: &Host, stub: DomId) -> Result<Option<Self>, Error> {
        let text = host.read(&paths::of_stub(stub, paths::relative::RESTARTS))?.unwrap_or_default();
        Ok(Restarts::parse(&text).ok().map(|Restarts { count, took_ns, last_words }| {
            // The stub may have written anything, and this goes to a terminal.
            let last_words = last_words.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
            Self { count, took_ns, last_words }
        }))
    }
}

/// `pcidom serve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Broker {
    running: bool,
    pid: Option<u32>,
    /// Its release and contract, if it runs.
    version: Option<String>,
    contract: Option<u32>,
}

/// This command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Part {
    version: String,
    contract: Option<u32>,
}

/// The pool, by the stub's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Devices {
    free: u32,
    assigned: u32,
    refused: u32,
    /// New, released, vanished, or on their way.
    other: u32,
}

/// Errors that a device has reported to dom0's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct DeviceErrors {
    device: String,
    #[serde(flatten)]
    counters: ErrorCounters,
    /// Why it is isolated from its guest.
    isolated: Option<String>,
}

/// A guest that the stub has a directory for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Frontend {
    guest: DomainEntry,
    backend_state: &'static str,
    frontend_state: &'static str,
    devices: u32,
    /// What the stub has to say about it.
    error: Option<String>,
}

/// The stub's numbers by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statistics(Vec<(&'static str, u64)>);

impl Serialize for Statistics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, number) in &self.0 {
            map.serialize_entry(name, number)?;
        }
        map.end()
    }
}

impl Statistics {
    fn new(numbers: Vec<u64>) -> Self {
        // What a later version appends has no name here; what an earlier one lacks is not there.
        Self(statistics::NAMES.into_iter().zip(numbers).collect())
    }

    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|(known, _)| *known == name).map_or(0, |(_, number)| *number)
    }
}

/// Statistics that tell how much there is of something now; the others count.
const GAUGES: [&str; 9] =
    ["mapped_pages", "ports", "grants", "watches", "transactions", "timers", "store_requests", "frontends", "devices"];

/// Metrics of a backend that is not there or not ready.
pub(crate) fn prometheus_down(backend: &str) -> String {
    let mut metrics = Metrics::default();
    up(&mut metrics, backend, false);
    metrics.text()
}

fn up(metrics: &mut Metrics, backend: &str, is_up: bool) {
    metrics.begin("pcidom_up", Kind::Gauge, "Whether the backend answers");
    metrics.value("pcidom_up", &[("backend", backend)], u8::from(is_up));
    metrics.begin("pcidom_broker_running", Kind::Gauge, "Whether the host's broker runs");
    metrics.value("pcidom_broker_running", &[], u8::from(lock::broker_pid().is_some()));
}

/// Asks and looks. Nothing is changed but the question itself, which is taken back.
pub(crate) fn status(host: &Host, backend: &str) -> Result<Status, Error> {
    let stub = find_stub(host, backend)?;
    let export = host.read(&paths::export_node(stub.id))?;
    let (release, stub_contract) = versions::of_stub(host, stub.id)?
        .map_or((None, None), |PartVersion { release, contract }| (Some(release), contract));
    let memory = host.read(&format!("{}/memory/target", path::domain_path(stub.id)))?;
    let pid = lock::broker_pid();
    let broker = if pid.is_some() { Some(versions::of_broker(host)?) } else { None };
    let own = PartVersion::own();
    Ok(Status {
        version: JSON_VERSION,
        stub_version: release,
        stub_contract,
        export,
        restarts: RestartsEntry::read(host, stub.id)?,
        memory_kib: memory.and_then(|text| text.parse().ok()),
        broker: Broker {
            running: pid.is_some(),
            pid,
            version: broker.as_ref().map(|broker| broker.release.clone()),
            contract: broker.and_then(|broker| broker.contract),
        },
        command: Part { version: own.release, contract: own.contract },
        devices: devices(host, stub.id)?,
        errors: errors(host, stub.id)?,
        frontends: frontends(host, stub.id)?,
        statistics: stub_query::ask(host, stub.id, QueryKind::Statistics)?.map(Statistics::new),
        stub: stub.into(),
    })
}

fn devices(host: &Host, stub: DomId) -> Result<Devices, Error> {
    let mut devices = Devices::default();
    for name in host.list(&paths::pool_root(stub))? {
        let state = host.read(&format!("{}/{name}/state", paths::pool_root(stub)))?.unwrap_or_default();
        let count = match PoolState::parse(&state) {
            PoolState::Free => &mut devices.free,
            PoolState::Assigned(_) => &mut devices.assigned,
            PoolState::Refused(_) => &mut devices.refused,
            _ => &mut devices.other,
        };
        *count += 1;
    }
    Ok(devices)
}

fn errors(host: &Host, stub: DomId) -> Result<Vec<DeviceErrors>, Error> {
    let of_stub = device_table::load(host)?.into_iter().filter(|record| record.stub == stub);
    let devices: Vec<Sbdf> = of_stub.map(|record| record.device).collect();
    let isolated = host.read_all(&devices.iter().map(|device| DeviceNode::Isolated.of(*device)).collect::<Vec<_>>())?;
    let all = devices.into_iter().zip(isolated).map(|(device, isolated)| DeviceErrors {
        device: device.to_string(),
        counters: host.sysfs.error_counters(device).unwrap_or_default(),
        isolated,
    });
    Ok(all.filter(|errors| errors.isolated.is_some() || !errors.counters.is_clean()).collect())
}

fn frontends(host: &Host, stub: DomId) -> Result<Vec<Frontend>, Error> {
    let mut ids: Vec<DomId> =
        host.list(&path::backend_root(stub))?.iter().filter_map(|id| id.parse().ok().map(DomId)).collect();
    ids.sort_unstable();
    ids.into_iter().map(|guest| frontend(host, stub, guest)).collect()
}

fn frontend(host: &Host, stub: DomId, guest: DomId) -> Result<Frontend, Error> {
    let count = host.read(&path::child(&path::backend_dir(stub, guest), "num_devs"))?;
    let ends = Ends::read(host, stub, guest)?;
    Ok(Frontend {
        guest: domain::named(host, guest)?.into(),
        backend_state: ends.back.name(),
        frontend_state: ends.front.name(),
        devices: count.and_then(|count| count.parse().ok()).unwrap_or(0),
        error: host.read(&path::error_node(stub, guest))?,
    })
}

impl Status {
    /// Whether the stub answered.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.statistics.is_some() {
            return Ok(());
        }
        let stub = DomainName { id: DomId(self.stub.id), name: self.stub.name.clone() };
        Err(Error::StubSilent { stub, after: stub_query::ASKED_FOR, waiting_for: "its statistics".to_owned() })
    }

    /// The JSON form.
    pub(crate) fn json(&self) -> String {
        // Strings, numbers and nothing that could fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Metrics (`pcidom status --prometheus`).
    pub(crate) fn prometheus(&self) -> String {
        let mut metrics = Metrics::default();
        let id = self.stub.id.to_string();
        let name = self.stub.name.clone().unwrap_or_else(|| id.clone());
        let backend = ("backend", name.as_str());
        up(&mut metrics, &name, self.statistics.is_some());
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let (version, export) = (or_empty(&self.stub_version), or_empty(&self.export));
        metrics.begin(
            "pcidom_backend_info",
            Kind::Gauge,
            "Always 1; its labels tell the backend's domain, version and export mode",
        );
        let labels = [backend, ("domain", &id), ("version", &version), ("export", &export)];
        metrics.value("pcidom_backend_info", &labels, 1);
        metrics.begin("pcidom_restarts_total", Kind::Counter, "Restarts of the backend's image in its domain");
        let restarts = self.restarts.as_ref().map_or(0, |restarts| restarts.count);
        metrics.value("pcidom_restarts_total", &[backend], restarts);
        if let Some(kib) = self.memory_kib {
            metrics.begin("pcidom_memory_bytes", Kind::Gauge, "Memory of the backend's domain");
            metrics.value("pcidom_memory_bytes", &[backend], kib.saturating_mul(1024));
        }
        metrics.begin("pcidom_devices", Kind::Gauge, "Devices in the backend's pool by their state");
        let Devices { free, assigned, refused, other } = self.devices;
        for (state, count) in [("free", free), ("assigned", assigned), ("refused", refused), ("other", other)] {
            metrics.value("pcidom_devices", &[backend, ("state", state)], count);
        }
        metrics.begin(
            "pcidom_device_errors_total",
            Kind::Counter,
            "Errors that a device has reported to dom0's kernel",
        );
        for DeviceErrors { device, counters: ErrorCounters { correctable, nonfatal, fatal, .. }, .. } in &self.errors {
            for (severity, count) in [("correctable", correctable), ("nonfatal", nonfatal), ("fatal", fatal)] {
                let labels = [backend, ("device", device), ("severity", severity)];
                metrics.value("pcidom_device_errors_total", &labels, count);
            }
        }
        metrics.begin("pcidom_device_isolated", Kind::Gauge, "Whether a device that has reported errors is isolated");
        for DeviceErrors { device, isolated, .. } in &self.errors {
            let labels = [backend, ("device", device)];
            metrics.value("pcidom_device_isolated", &labels, u8::from(isolated.is_some()));
        }
        for (metric, help) in [
            ("pcidom_frontend_devices", "Devices of a guest"),
            ("pcidom_frontend_connected", "Whether both ends of a guest's connection are connected"),
        ] {
            metrics.begin(metric, Kind::Gauge, help);
            for frontend in &self.frontends {
                let id = frontend.guest.id.to_string();
                let guest = frontend.guest.name.as_ref().unwrap_or(&id);
                let connected = XenbusState::Connected.name();
                let is_connected = (frontend.backend_state, frontend.frontend_state) == (connected, connected);
                let value =
                    if metric == "pcidom_frontend_devices" { frontend.devices } else { u32::from(is_connected) };
                metrics.value(metric, &[backend, ("guest", guest), ("domain", &id)], value);
            }
        }
        for (name, number) in self.statistics.iter().flat_map(|Statistics(list)| list) {
            let help = format!("The backend's statistic {} (docs/xenstore.md)", name.replace('_', " "));
            let (metric, kind) = match *name {
                "uptime_ns" => ("pcidom_uptime_seconds".to_owned(), Kind::Gauge),
                "heap_used" | "heap_peak" | "heap_total" => (format!("pcidom_{name}_bytes"), Kind::Gauge),
                name if GAUGES.contains(&name) => (format!("pcidom_{name}_in_use"), Kind::Gauge),
                name => (format!("pcidom_{name}_total"), Kind::Counter),
            };
            metrics.begin(&metric, kind, &help);
            match *name {
                "uptime_ns" => metrics.value(&metric, &[backend], Duration::from_nanos(*number).as_secs_f64()),
                _ => metrics.value(&metric, &[backend], number),
            }
        }
        metrics.text()
    }

    /// The form for people.
    pub(crate) fn text(&self) -> String {
        let unknown = || "unknown".to_owned();
        let mut lines = vec![
            line("backend", self.stub.to_string()),
            line("version", version(self.stub_version.as_ref(), self.stub_contract)),
            line("export", self.export.clone().unwrap_or_else(unknown)),
            line("memory", self.memory_kib.map_or_else(unknown, |kib| format!("{kib} KiB"))),
        ];
        let figure = |name| self.statistics.as_ref().map(|statistics| statistics.get(name));
        if let (Some(uptime), Some(used), Some(peak), Some(total)) =
            (figure("uptime_ns"), figure("heap_used"), figure("heap_peak"), figure("heap_total"))
        {
            lines.push(line("uptime", duration(Duration::from_nanos(uptime))));
            lines.push(line("heap", format!("{used} of {total} bytes, {peak} at most")));
        }
        if let Some(RestartsEntry { count, took_ns, last_words }) = &self.restarts {
            let took_ms = Duration::from_nanos(*took_ns).as_millis();
            lines.push(line("restarts", format!("{count}, the last in {took_ms} ms: {last_words}")));
        }
        lines.push(line(
            "broker",
            match self.broker.pid {
                Some(pid) => {
                    format!("running (process {pid}), {}", version(self.broker.version.as_ref(), self.broker.contract))
                }
                None => "not running: guests can read, but not write nor set up interrupts".to_owned(),
            },
        ));
        lines.push(line("command", version(Some(&self.command.version), self.command.contract)));
        let Devices { free, assigned, refused, other } = self.devices;
        lines.push(line("devices", format!("{free} free, {assigned} assigned, {refused} refused, {other} other")));
        for DeviceErrors { device, counters, isolated } in &self.errors {
            if !counters.is_clean() {
                lines.push(line("errors", format!("{device}: {counters}")));
            }
            lines.extend(isolated.as_ref().map(|why| line("isolated", format!("{device}: {why}"))));
        }
        for Frontend { guest, backend_state, frontend_state, devices, error } in &self.frontends {
            let error = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let plural = if *devices == 1 { "" } else { "s" };
            let states = format!("backend {backend_state}, frontend {frontend_state}");
            lines.push(line("frontend", format!("{guest}: {devices} device{plural}, {states}{error}")));
        }
        match &self.statistics {
            Some(Statistics(list)) => {
                let shown = |name: &str| !["uptime_ns", "heap_used", "heap_peak", "heap_total"].contains(&name);
                let statistics = list.iter().filter(|(name, _)| shown(name));
                lines.extend(statistics.map(|(name, number)| line(&name.replace('_', " "), number.to_string())));
            }
            None => lines.push(line("statistics", "none: it does not answer".to_owned())),
        }
        lines.join("\n")
    }
}

/// `0.1.0 (contract 1)`.
fn version(release: Option<&String>, contract: Option<u32>) -> String {
    release
        .map_or_else(|| "unknown".to_owned(), |release| PartVersion { release: release.clone(), contract }.to_string())
}

fn line(name: &str, value: String) -> String {
    format!("{name:<20}  {value}")
}

fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{days} d {hours:02}:{minutes:02}:{:02}", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_and_earlier_backends_have_more_or_fewer_statistics() {
        assert_eq!(Statistics::new(vec![1, 2]).0, [("uptime_ns", 1), ("heap_used", 2)]);
        assert_eq!(Statistics::new(vec![5; statistics::COUNT + 3]).0.len(), statistics::COUNT);
    }

    #[test]
    fn times_are_read_at_a_glance() {
        assert_eq!(duration(Duration::from_secs(93_784)), "1 d 02:03:04");
    }
}
