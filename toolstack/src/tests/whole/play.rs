//! A machine and what is done on it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use pcidom_abi::paths;
use pciif::layout::MsixEntry;
use pciif::{Command, Request as PciRequest};
use sim::SimFrontend;
use xen_types::{DomId, Port, Sbdf};
use xenstore::path;
use xenstored::Fault as StoreFault;

use super::step::{Drive, Scheduled, Step};
use crate::device::resources::{DeviceResources, GuestRights};
use crate::error::Error;
use crate::fake::{DB, E1000, EDU, Killed, MachineWithStub, NVME, STUB, WEB, device};
use crate::ops::assignable;
use crate::ops::attach::{Following, Request, Until, attach};
use crate::ops::detach::{self, detach};
use crate::ops::recover::reclaim;
use crate::records::device_table::{self, Phase, Record};

pub(super) const ALL: [&str; 3] = [E1000, EDU, NVME];
const NAMES: [&str; 2] = ["web", "db"];
/// How long commands wait for guests.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Play {
    pub(super) machine: MachineWithStub,
    /// The guests' numbers.
    guests: [DomId; 2],
    next: u16,
    /// Their drivers, while they do nothing.
    silent: Vec<(DomId, SimFrontend)>,
    /// For the message of a failure.
    pub(super) done: Vec<String>,
}

impl Play {
    /// Three devices in the pool, one of them with MSI-X, two guests without any, and a broker. Where commands are killed or calls fail, the next
    /// one may take back rights that it does not know to be taken back already.
    pub(super) fn new(is_uncertain: bool) -> Self {
        let machine = MachineWithStub::new();
        machine.with_peers(|peers| peers.tool.write("/local/domain/5/vm", "/vm/web"));
        machine.create(DB, "db");
        machine.give_nvme_vectors();
        assignable::add(&machine.host, &ALL.map(device), "pcidom").unwrap();
        machine.machine.with(|world| world.uncertain = is_uncertain);
        machine.with_peers(|peers| {
            peers.broker.may_end = true;
            peers.broker.start();
        });
        Self { machine, guests: [WEB, DB], next: 20, silent: Vec::new(), done: Vec::new() }
    }

    /// One command, which may be killed; then the next one puts right what it left.
    fn command(&mut self, kill: Option<usize>, act: impl FnOnce(&MachineWithStub) -> Result<(), Error>) {
        self.machine.machine.with(|world| world.killing_change = kill.map(|at| world.changes + at));
        let outcome = catch_unwind(AssertUnwindSafe(|| act(&self.machine)));
        self.machine.machine.with(|world| world.killing_change = None);
        match outcome {
            Ok(outcome) => self.done.push(format!("    {outcome:?}")),
            Err(payload) if payload.is::<Killed>() => self.done.push("    killed".to_owned()),
            Err(payload) => std::panic::resume_unwind(payload),
        }
        self.machine.restart(); // each command is a process of its own
        self.wake();
    }

    pub(super) fn take(&mut self, scheduled: &Scheduled) {
        let Scheduled { step, kill, settles } = scheduled;
        self.done.push(format!("{step:?}, kill {kill:?}"));
        match step {
            Step::Attach { guest, devices, persistent } => self.command(*kill, |machine| {
                reclaim(&machine.host)?;
                let request = Request {
                    guest: NAMES[*guest].to_owned(),
                    backend: "pcidom".to_owned(),
                    devices: devices.iter().map(|text| text.parse().unwrap()).collect(),
                    timeout: PATIENCE,
                    export: None,
                    following: if *persistent { Following::Yes } else { Following::No },
                    until: Until::Used,
                };
                attach(&machine.host, &request).map(drop)
            }),
            Step::Detach { guest, devices, force } => {
                self.command(*kill, |machine| detach_some(machine, NAMES[*guest], devices, *force));
            }
            Step::Pool(name) => self.command(*kill, |machine| {
                reclaim(&machine.host)?;
                assignable::remove(&machine.host, &[device(name)], false)?;
                assignable::add(&machine.host, &[device(name)], "pcidom")
            }),
            Step::List => self.command(*kill, |machine| {
                crate::cli::list::devices(&machine.host, None).map(|devices| drop(crate::cli::list::json(&devices)))
            }),
            Step::Reboot(guest) => self.reboot(*guest),
            Step::Reload(guest) => {
                let id = self.guests[*guest];
                self.machine.with_peers(|peers| {
                    let guest = peers.guests.get_mut(&id).filter(|guest| guest.state() != 0);
                    guest.map(SimFrontend::unload);
                });
                self.pass(Duration::from_millis(1_100)); // a stub that may not set a watch looks every second
                self.machine.with_peers(|peers| {
                    // Before the stub has seen the end of the one before, the same numbers of grant and port would be taken for the old ones.
                    let guest = peers.guests.get_mut(&id).filter(|it| (it.state(), it.backend_state()) == (6, 6));
                    guest.map(SimFrontend::probe);
                    peers.settle();
                });
            }
            Step::Sleep(guest) => {
                let id = self.guests[*guest];
                let driver = self.machine.with_peers(|peers| peers.guests.remove(&id));
                self.silent.extend(driver.map(|driver| (id, driver)));
            }
            Step::Drive(guest, number, what) => self.drive(self.guests[*guest], *number, *what),
            _ => self.machine.with_peers(|peers| match step {
                Step::Kill => peers.broker.kill(),
                Step::Start if !peers.broker.has_process() => peers.broker.start(),
                Step::Stop => peers.broker.stop(),
                Step::GoOn => peers.broker.go_on(),
                Step::Broker(fault) => peers.broker.faults.push_back(*fault),
                Step::Crash => peers.stub.crash(),
                Step::CrashInTurns(turns) => peers.stub.crash_at(peers.stub.turns() + turns),
                Step::CrashInMoments(moments) => peers.xen.crash_at_call(STUB, peers.xen.moments(STUB) + moments),
                Step::Store(kind, error, times) => {
                    let fault = StoreFault { kind: Some(*kind), path_end: String::new(), error, times: *times };
                    peers.xen.store().inject(fault);
                }
                Step::LoseEvents => [STUB, DomId::DOM0].iter().for_each(|id| drop(peers.xen.take_pending(*id))),
                Step::SpuriousEvents => {
                    let ports: Vec<Port> = peers.stub.backend.ports().collect();
                    ports.into_iter().for_each(|port| peers.xen.raise(STUB, port));
                }
                Step::DoubleWatches(events) => peers.xen.store().double_events(peers.stub.connection(), *events),
                Step::FailCall(later) => peers.xen.count_points(Some(*later)),
                Step::FailRequest(later) => {
                    let mut store = peers.xen.store();
                    let number = store.requests() + later;
                    store.fail_request(Some(number));
                }
                _ => {}
            }),
        }
        if let Step::Pass(time) = step {
            self.pass(Duration::from_millis(*time));
        }
        if *settles {
            self.settle();
            self.check();
        }
    }

    fn pass(&self, time: Duration) {
        self.machine.machine.with(|world| world.clock += time);
        self.machine.with_peers(|peers| {
            peers.xen.advance_ns(u64::try_from(time.as_nanos()).unwrap());
            peers.settle();
        });
    }

    /// A driver asks, and waits two seconds.
    fn drive(&mut self, guest: DomId, number: usize, what: Drive) {
        let answer = self.machine.with_peers(|peers| {
            let guest = peers.guests.get(&guest)?;
            let (place, _) = guest.found.get(number)?;
            let entries = [3, 0].map(|entry| MsixEntry { vector: 0xffff, entry });
            let (request, entries) = match what {
                Drive::BusMaster => (PciRequest::conf_write(*place, 4, 2, 0x0006), &entries[..0]),
                Drive::Msix => (PciRequest { value: 2, ..PciRequest::new(Command::EnableMsix, *place) }, &entries[..]),
                Drive::MsixOff => (PciRequest::new(Command::DisableMsix, *place), &entries[..0]),
                Drive::Msi => (PciRequest::new(Command::EnableMsi, *place), &entries[..0]),
                Drive::MsiOff => (PciRequest::new(Command::DisableMsi, *place), &entries[..0]),
                Drive::Denied => (PciRequest::conf_write(*place, 0x10, 4, 0), &entries[..0]),
            };
            guest.publish_with_entries(&request, entries);
            peers.settle();
            Some(())
        });
        if answer.is_none() {
            return;
        }
        if self.machine.with_peers(|peers| peers.guests[&guest].response().is_none()) {
            self.pass(Duration::from_secs(2));
        }
        self.machine.with_peers(|peers| {
            let answer = peers.guests[&guest].response();
            if answer.is_none() {
                peers.guests[&guest].give_up();
            }
            self.done.push(format!("    {answer:?}"));
        });
    }

    fn reboot(&mut self, which: usize) {
        self.wake();
        let (old, new) = (self.guests[which], DomId(self.next));
        self.next += 1;
        self.machine.with_peers(|peers| peers.destroy(old));
        self.machine.create(new, NAMES[which]);
        self.guests[which] = new;
    }

    fn wake(&mut self) {
        let silent = std::mem::take(&mut self.silent);
        self.machine.with_peers(|peers| peers.guests.extend(silent));
    }

    /// What was made to fail works again; who was stopped goes on.
    pub(super) fn mend(&mut self) {
        self.wake();
        self.machine.with_peers(|peers| {
            peers.xen.end_points();
            peers.xen.clear_failures();
            peers.xen.store().clear_faults();
            peers.xen.store().fail_request(None);
            peers.stub.forget_crashes();
            peers.xen.crash_at_call(STUB, usize::MAX);
            peers.broker.faults.clear();
            peers.broker.go_on();
            if !peers.broker.has_process() {
                peers.broker.start();
            }
        });
    }

    /// Everybody does what is left to do, and so does what `pcidom serve` triggers.
    pub(super) fn settle(&mut self) {
        self.mend();
        for _ in 0..3 {
            // The stub waits longer each time that xenstored refuses something, 32 s at last.
            for seconds in [1, 1, 2, 8, 40] {
                self.pass(Duration::from_secs(seconds));
            }
            reclaim(&self.machine.host).unwrap();
        }
        self.administer();
        self.pass(Duration::from_secs(1));
    }

    /// What is left to an admin, as `pcidom list` and errors say: to detach a device again that could not be searched for leaked mappings, or that the
    /// stub could not take over for its guest; and to put a device into the pool again that was on its way there, or was refused.
    fn administer(&self) {
        let host = &self.machine.host;
        let pool = |record: &Record| self.machine.read(&paths::pool_state_node(record.stub, record.device));
        let is_refused = |record: &Record| pool(record).is_some_and(|state| state.starts_with("refused"));
        for record in device_table::load(host).unwrap() {
            let Some(which) = self.guests.iter().position(|id| record.frontend == Some(*id)) else { continue };
            if record.phase == Phase::Leaked || is_refused(&record) {
                let name = record.device.to_string();
                detach_some(&self.machine, NAMES[which], &[name.as_str()], false).unwrap();
            }
        }
        let records = device_table::load(host).unwrap();
        let is_fine = |record: &Record| record.frontend.is_some() || !is_refused(record);
        let is_missing = |device: &Sbdf| records.iter().all(|it| it.device != *device || !is_fine(it));
        let missing: Vec<Sbdf> = ALL.map(device).into_iter().filter(is_missing).collect();
        if !missing.is_empty() {
            assignable::add(host, &missing, "pcidom").unwrap();
        }
    }

    /// All those involved agree who has what.
    pub(super) fn check(&self) {
        // One that lost a device by force learns of it when it looks.
        self.machine.with_peers(|peers| {
            let connected = peers.guests.values_mut().filter(|guest| guest.state() == 4);
            connected.for_each(|guest| guest.scan(&mut peers.stub));
        });
        let host = &self.machine.host;
        let records = device_table::load(host).unwrap();
        for id in self.guests {
            let theirs: Vec<Sbdf> =
                records.iter().filter(|record| record.frontend == Some(id)).map(|record| record.device).collect();
            let resources: Vec<DeviceResources> =
                theirs.iter().map(|device| DeviceResources::gather(host, *device).unwrap()).collect();
            let rights = GuestRights::of(&resources);
            let frames: BTreeSet<u64> =
                rights.frames.iter().flat_map(|frames| frames.first.0..frames.first.0 + frames.count).collect();
            self.machine.machine.with(|world| {
                let has: BTreeSet<u64> =
                    world.iomem.iter().filter(|(domain, _)| *domain == id).map(|(_, frame)| *frame).collect();
                assert_eq!(has, frames, "frames of {id}");
                let irqs: Vec<u32> =
                    world.irqs.iter().filter(|(domain, _)| *domain == id).map(|(_, gsi)| *gsi).collect();
                assert_eq!(irqs, rights.gsis, "interrupts of {id}");
            });
            let directory = self.machine.read(&path::child(&path::backend_dir(STUB, id), "state"));
            // A driver that was loaded while the stub had trouble with xenstored saw that it was closed, and closed too.
            let is_closed = self.has_closed(id);
            let expected = (!theirs.is_empty()).then_some(if is_closed { "6" } else { "4" });
            assert_eq!(directory.as_deref(), expected, "the connection of {id}");
            let found = self.machine.with_peers(|peers| peers.guests[&id].found.len());
            assert_eq!(found, if is_closed { 0 } else { theirs.len() }, "what {id} sees");
        }
        for record in &records {
            assert!(matches!(record.phase, Phase::Pool | Phase::Attached), "{record:?}");
            let owner = self.machine.machine.with(|world| world.owners[&record.device]);
            assert_eq!(owner, record.frontend.unwrap_or(DomId::IO), "{record:?}");
            let pool = self.machine.read(&paths::pool_state_node(record.stub, record.device));
            let expected = record.frontend.map_or_else(|| "free".to_owned(), |guest| format!("assigned {guest}"));
            assert_eq!(pool, Some(expected), "{record:?}");
            if record.frontend.is_none() {
                assert!(self.machine.machine.config(&record.device.to_string()).is_quiesced(), "{record:?}");
            }
        }
        assert_eq!(records.len(), ALL.len());
        let leftover = |path: &str| self.machine.with_peers(|peers| peers.xen.store().peek(path));
        assert_eq!(leftover("/tool/pcidom/work"), None);
        assert_eq!(leftover("/tool/pcidom/paused"), None);
        self.machine.with_peers(|peers| {
            for (guest, _, device) in peers.xen.pirqs() {
                let is_its = records.iter().any(|record| (record.device, record.frontend) == (device, Some(guest)));
                assert!(is_its, "a vector of {device} is mapped for {guest}");
            }
            let held = peers.xen.held_by(STUB);
            let has_any = |id: &&DomId| records.iter().any(|it| it.frontend == Some(**id));
            let connected = self.guests.iter().filter(|id| has_any(id) && peers.guests[id].state() != 6).count();
            assert_eq!(
                (held.pages, held.ports, held.ecam_pages),
                (connected, connected, ALL.len()),
                "what the stub holds"
            );
            assert_eq!(peers.xen.store().open_transactions(peers.stub.connection()), 0, "transactions of the stub");
        });
        self.machine.machine.with(|world| assert_eq!(world.violations, [""; 0]));
    }

    fn has_closed(&self, guest: DomId) -> bool {
        self.machine.with_peers(|peers| peers.guests[&guest].state() == 6)
    }

    /// Everything can be taken back, and nothing is left.
    pub(super) fn end(&mut self) {
        self.settle();
        self.check();
        for (id, name) in self.guests.into_iter().zip(NAMES) {
            let records = device_table::load(&self.machine.host).unwrap();
            let theirs: Vec<String> =
                records.iter().filter(|it| it.frontend == Some(id)).map(|it| it.device.to_string()).collect();
            let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
            if !theirs.is_empty() {
                detach_some(&self.machine, name, &theirs, false).unwrap();
            }
        }
        self.settle();
        self.check();
        self.machine.with_peers(|peers| {
            assert_eq!(peers.xen.pirqs(), [], "vectors");
            let left: Vec<String> = peers.xen.store().nodes().map(|(path, _)| path.to_owned()).collect();
            let backend = format!("/local/domain/{STUB}/backend/");
            let is_left = |path: &&String| path.starts_with(&backend) || path.contains("/device/pci");
            assert_eq!(left.iter().filter(is_left).collect::<Vec<_>>(), [""; 0], "nodes");
        });
    }
}

fn detach_some(machine: &MachineWithStub, guest: &str, devices: &[&str], force: bool) -> Result<(), Error> {
    let reclaimed = reclaim(&machine.host)?;
    let devices = devices.iter().map(|text| device(text)).collect();
    let request = detach::Request { guest: guest.to_owned(), backend: None, devices, timeout: PATIENCE, force };
    detach(&machine.host, &request, &reclaimed)
}
