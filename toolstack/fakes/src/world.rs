//! State shared by the fakes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use xen_types::{DomId, Sbdf};
use xenstored::{Direct, Node, Refusal, Xenstored};

use super::memory::FakeMemory;
use super::scripts::{DeviceModelScript, GuestScript, StubScript};
use dom0::xen::{DomainInfo, Vector, number::SIGINT};

/// A guest has vectors from here downwards, 32 of them.
pub const TOP_PIRQ: u32 = 55;
pub const LOWEST_PIRQ: u32 = 24;

/// How a killed process unwinds.
pub struct Killed;

/// What a method of a reset comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetOutcome {
    /// This error.
    Error(i32),
    /// The kernel says that it succeeded, and the device reads as ones until another one does.
    Ones,
}

/// A mapped vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub device: Sbdf,
    pub vector: Vector,
    /// The first of those that were mapped together.
    pub first: u32,
}

/// Something that happens once, as soon as it can: it says whether it did.
pub type Incident = Box<dyn FnMut(&mut World) -> bool>;

/// Something that happens at a certain moment.
pub type Once = Box<dyn FnOnce(&mut World)>;

/// What a domain does when an NMI interrupts it.
pub type OnNmi = Box<dyn FnMut(&mut World, DomId)>;

/// What happens while xl makes the guest with an id.
pub type DuringCreate = Box<dyn Fn(&str)>;

/// Everything outside of sysfs.
#[derive(Default)]
pub struct World {
    pub store: Xenstored,
    pub domains: BTreeMap<DomId, DomainInfo>,
    /// Guests created with `passthrough=`.
    pub passthrough: BTreeSet<DomId>,
    pub iommu: bool,
    pub iomem: BTreeSet<(DomId, u64)>,
    pub ioports: BTreeSet<(DomId, u32)>,
    pub irqs: BTreeSet<(DomId, u32)>,
    pub pirqs: BTreeSet<(DomId, u32)>,
    /// Those of them that are vectors of a device.
    pub vectors: BTreeMap<(DomId, u32), Mapped>,
    /// Whose DMA a device does.
    pub owners: BTreeMap<Sbdf, DomId>,
    /// What `xenstore-control quota` prints.
    pub store_limits: Option<String>,
    /// What Xen said, and was told, when it booted; something harmless where nothing is given.
    pub xen_messages: Option<String>,
    pub xen_command_line: Option<String>,
    /// Devices for which firmware reserved memory together with others: Xen assigns them by the relaxed rule only.
    pub shared_reserved: BTreeSet<Sbdf>,
    /// Rights that are not there may be revoked: a command was killed.
    pub uncertain: bool,
    /// What should never have happened.
    pub violations: Vec<String>,

    pub clock: Duration,
    pub watches: Vec<String>,
    /// The devices that were reset, one after the other.
    pub resets: Vec<String>,
    /// Devices whose next reset does not end, and those with which that has happened.
    pub hanging_resets: BTreeSet<String>,
    pub resetting: BTreeSet<String>,
    /// Devices whose registers cannot be reached after their next reset.
    pub lost_by_reset: BTreeSet<String>,
    /// What methods of devices come to that do not just succeed.
    pub reset_outcomes: BTreeMap<(String, String), ResetOutcome>,
    /// What a reset leaves of a device's registers.
    pub after_reset: Option<fn(&mut Vec<u8>)>,
    pub notes: Vec<String>,
    pub traces: Vec<String>,
    /// Changes of the device database that were counted.
    pub table_changes: u64,
    /// Changes so far, and the one that fails.
    pub changes: usize,
    pub failing_change: Option<usize>,
    /// From this change on nothing works: the command is dead.
    pub failing_after: Option<usize>,
    /// The change at which the process is killed: it unwinds.
    pub killing_change: Option<usize>,

    /// How long the command takes over each change.
    pub change_takes: Duration,

    /// Before this change is made this node gets this value.
    pub on_change: Option<(usize, String, String)>,
    /// What happens right after this node was read, once.
    pub after_read: Option<(String, Once)>,
    /// What happens while a command lets time pass, once.
    pub during_pause: Option<Once>,

    /// At the so-manyth mapping of a vector this node gets this value.
    pub on_map: Option<(u32, String, String)>,

    /// How long Xen takes to map a vector.
    pub map_takes: Duration,
    /// What else happens while a vector is mapped.
    pub during_map: Option<Box<dyn Fn()>>,

    /// What libxl says of how guests were built, as JSON; `None` says that they lack nothing.
    pub build_info: Option<&'static str>,

    /// What xl was asked for, as far as a test looks at it.
    pub xl_calls: Vec<String>,
    /// What else happens while xl makes the guest with this id.
    pub during_create: Option<DuringCreate>,
    /// The number of the process that is at work; those with other numbers are dead.
    pub process: u32,
    /// Other processes that are at work too.
    pub living: BTreeSet<u32>,
    /// The number of the signal that came, or that comes right before the change with this number.
    pub signal: Option<u8>,
    pub signal_at: Option<usize>,
    /// Signals are put off.
    pub undisturbed: bool,

    /// The stub domains of HVM guests, by guest.
    pub stub_domains: BTreeMap<DomId, DomId>,
    /// What device models show to their guests, by its name there.
    pub plugged: BTreeSet<(DomId, String)>,
    pub device_model: DeviceModelScript,
    /// What happens right after a device model has done the next command.
    pub after_device_model: Option<Once>,

    pub stub: StubScript,
    pub guest: GuestScript,
    pub incidents: Vec<Incident>,
    pub memory: FakeMemory,
    /// What happens when an NMI interrupts a domain.
    pub on_nmi: Option<OnNmi>,
}

impl World {
    /// Counts a change; true when it is the one that fails.
    pub fn change_fails(&mut self) -> bool {
        self.changes += 1;
        self.clock += self.change_takes;
        if self.signal_at == Some(self.changes) {
            self.signal = Some(SIGINT);
        }
        if let Some((_, node, value)) = self.on_change.take_if(|(at, ..)| *at == self.changes) {
            self.write(&node, &value);
        }
        if self.killing_change == Some(self.changes) {
            self.killing_change = None;
            std::panic::resume_unwind(Box::new(Killed));
        }
        self.failing_change == Some(self.changes) || self.failing_after.is_some_and(|last| self.changes > last)
    }

    /// Who reads what is said may be slow, and a domain would stand still for as long.
    pub fn says(&mut self) {
        if self.undisturbed && !self.memory.pauses.is_empty() {
            self.violations.push("something was said while a domain stood still".to_owned());
        }
    }

    pub fn value(&self, path: &str) -> Option<&str> {
        self.store.node(path).and_then(Node::text)
    }

    pub fn has_node(&self, path: &str) -> bool {
        self.store.node(path).is_some()
    }

    /// The paths of all nodes.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.store.nodes().map(|(path, _)| path)
    }

    pub fn children(&self, path: &str) -> Vec<String> {
        self.store.node(path).into_iter().flat_map(Node::children).map(str::to_owned).collect()
    }

    /// Changes nodes as dom0, to whom everything is allowed.
    pub fn as_dom0(&mut self, act: impl FnOnce(&mut Direct<'_>) -> Result<(), Refusal>) {
        self.store.change(DomId::DOM0, act).unwrap();
    }

    pub fn write(&mut self, path: &str, value: &str) {
        self.count(path);
        self.as_dom0(|store| store.write(path, value));
    }

    pub fn remove(&mut self, path: &str) {
        if self.has_node(path) {
            self.count(path);
            self.as_dom0(|store| store.remove(path));
        }
    }

    /// Whoever changes the device database counts it, as commands do.
    fn count(&mut self, path: &str) {
        self.table_changes += u64::from(path.starts_with(pcidom_abi::paths::TOOL));
    }

    /// Writes as a domain, where the permissions let it.
    pub fn write_as(&mut self, domain: DomId, path: &str, value: &str) {
        if let Err(refusal) = self.store.change(domain, |store| store.write(path, value)) {
            self.violations.push(format!("domain {domain} cannot write {path}: {}", refusal.name()));
        }
    }

    /// What `xl create` leaves of a domain, which may have devices.
    pub fn add_domain(&mut self, id: DomId, name: &str) {
        self.domains.insert(id, DomainInfo { dying: false, hvm: false, shutdown: false, paused: false });
        self.passthrough.insert(id);
        let path = xenstore::path::domain_path(id);
        let (owner, reader) = (format!("n{id}"), format!("r{id}"));
        self.as_dom0(|store| {
            store.mkdir(&path)?;
            store.set_permissions(&path, &["n0", &reader])?;
            store.write(&format!("{path}/name"), name)?;
            store.mkdir(&format!("{path}/device/suspend"))?;
            for own in ["data", "error"].map(|own| format!("{path}/{own}")) {
                store.mkdir(&own)?;
                store.set_permissions(&own, &[&owner])?;
            }
            Ok(())
        });
    }

    /// What `xl create` makes of an HVM guest: a second domain with its device model, which runs already.
    pub fn add_stub_domain(&mut self, guest: DomId) -> DomId {
        let id = DomId(self.domains.keys().map(|id| id.0).max().unwrap_or_default() + 1);
        let name = self.value(&format!("/local/domain/{guest}/name")).unwrap_or_default().to_owned();
        self.add_domain(id, &format!("{name}-dm"));
        self.passthrough.remove(&id);
        self.write(&xenstore::path::device_model_node(guest), &id.to_string());
        self.write(&xenstore::path::target_node(id), &guest.to_string());
        self.write(&format!("/local/domain/{id}/device-model/{guest}/state"), "running");
        if let Some(info) = self.domains.get_mut(&guest) {
            info.hvm = true;
        }
        self.stub_domains.insert(guest, id);
        id
    }

    /// What `xl destroy` and Xen do: the domain, its rights and its xenstore directory are gone.
    pub fn destroy(&mut self, domain: DomId) {
        self.domains.remove(&domain);
        self.iomem.retain(|(other, _)| *other != domain);
        self.ioports.retain(|(other, _)| *other != domain);
        self.irqs.retain(|(other, _)| *other != domain);
        self.pirqs.retain(|(other, _)| *other != domain);
        self.vectors.retain(|(other, _), _| *other != domain);
        self.memory.destroy(domain);
        for owner in self.owners.values_mut().filter(|owner| **owner == domain) {
            *owner = DomId::IO;
        }
        self.remove(&xenstore::path::domain_path(domain));
    }

    /// Everything that a failed command must leave as it was.
    pub fn dump(&self) -> Vec<String> {
        let rights = [
            format!("iomem {:x?}", self.iomem),
            format!("ioports {:x?}", self.ioports),
            format!("irqs {:?} pirqs {:?} vectors {:?}", self.irqs, self.pirqs, self.vectors),
            format!("owners {:?}", self.owners),
            format!("watches {:?}", self.watches),
            format!("plugged {:?}", self.plugged),
        ];
        self.store.dump().into_iter().chain(rights).chain(self.memory.dump()).collect()
    }
}
