//! dom0's broker as `docs/broker.md` describes it, over the simulated machine. It keeps the books on every pirq and can be
//! stopped, killed at the worst moment, and made to lie.
//!
//! Strict: a pirq that is mapped twice or unmapped twice, or a request for a device that its stub has not assigned, fails the test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pciback::platform::{Events as _, Grants as _, Width};
use pcidom_abi::BrokerCommand;
use pciif::layout::MsixEntry;
use pciif::{BackendPage, ErrorCode, Reply, Request};
use xen_types::{DomId, GrantRef, Port, Sbdf};

use crate::device::Function;
use crate::tool::ecam;
use crate::xen::{MappedPage, SimXen};

/// `ESRCH`.
const NO_SUCH_DOMAIN: u32 = 3;
/// `ENOSPC`.
const NO_PIRQ: u32 = 28;
const COMMAND: u16 = 4;

/// Something that goes wrong with the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this error and this errno, and nothing is done.
    Refuse(i32, u32),
    /// It is done and answered with these words instead of the right ones, in the vectors too.
    Lie {
        /// `err`.
        err: i32,
        /// `value`, and each vector by its lower half.
        value: u32,
        /// `info`.
        info: u32,
    },
    /// It is taken, and the broker is stopped before it does anything.
    StopBefore,
    /// It is done, and the broker is stopped before it answers.
    StopAfter,
    /// The broker is killed before it does anything.
    DieBefore,
    /// The broker is killed between the last step and the answer.
    DieAfter,
}

struct Link {
    port: Port,
    page: BackendPage<MappedPage>,
}

/// What the answer will be.
struct Outcome {
    err: ErrorCode,
    value: u32,
    info: u32,
    vectors: Vec<u16>,
}

impl Outcome {
    const fn done(value: u32) -> Self {
        Self { err: ErrorCode::Success, value, info: 0, vectors: Vec::new() }
    }

    const fn error(err: ErrorCode, info: u32) -> Self {
        Self { err, value: 0, info, vectors: Vec::new() }
    }
}

/// The broker process and what of it outlives it: its table.
pub struct SimBroker {
    xen: SimXen,
    stub: DomId,
    link: Option<Link>,
    is_stopped: bool,
    /// A request that was taken before the broker was stopped, and its answer if it is done already.
    in_hand: Option<(Request, Option<Outcome>)>,
    /// Who has which device.
    guests: BTreeMap<Sbdf, DomId>,
    /// The pirqs of each guest, and which device has them.
    pirqs: BTreeMap<(DomId, u16), Sbdf>,
    /// Guests for which Xen maps nothing any more.
    dead: BTreeSet<DomId>,
    /// Devices at which somebody was killed in the middle.
    busy: BTreeSet<Sbdf>,
    /// How many pirqs a guest can have.
    pub pirqs_per_guest: usize,
    /// What goes wrong with the next requests.
    pub faults: VecDeque<Fault>,
    /// Commands that were taken from the page, with the devices.
    pub log: Vec<(u32, Sbdf)>,
}

impl SimBroker {
    /// A broker that is not started.
    #[must_use]
    pub fn new(xen: SimXen, stub: DomId) -> Self {
        Self {
            xen,
            stub,
            link: None,
            is_stopped: false,
            in_hand: None,
            guests: BTreeMap::new(),
            pirqs: BTreeMap::new(),
            dead: BTreeSet::new(),
            busy: BTreeSet::new(),
            pirqs_per_guest: 256,
            faults: VecDeque::new(),
            log: Vec::new(),
        }
    }

    /// Enters devices of a guest into the table.
    pub fn attach(&mut self, guest: DomId, devices: &[Sbdf]) {
        self.guests.extend(devices.iter().map(|device| (*device, guest)));
    }

    /// Xen has taken the guest's pirqs with it.
    pub fn guest_died(&mut self, guest: DomId) {
        self.pirqs.retain(|(owner, _), _| *owner != guest);
        self.dead.insert(guest);
    }

    /// The pirqs that are mapped, with their guests and devices.
    #[must_use]
    pub fn pirqs(&self) -> Vec<(DomId, u16, Sbdf)> {
        self.pirqs.iter().map(|((guest, pirq), device)| (*guest, *pirq, *device)).collect()
    }

    /// True while the process is there and has not been stopped.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.link.is_some() && !self.is_stopped
    }

    /// Starts the process: it puts right what another left half-done, maps the page, binds the port and raises it once.
    ///
    /// # Panics
    /// When it runs, or the stub has not announced its ring.
    pub fn start(&mut self) {
        assert!(self.link.is_none(), "one broker");
        for device in std::mem::take(&mut self.busy) {
            self.disable(device);
        }
        let number = |name: &str| {
            let path = format!("/local/domain/{}/data/pcidom/{name}", self.stub);
            self.xen.store().peek(&path).and_then(|value| value.parse().ok()).expect("an announced ring")
        };
        let (gref, offered) = (GrantRef(number("ring-ref")), Port(number("event-channel")));
        let dom0 = self.xen.platform(DomId::DOM0);
        let page = BackendPage::new(dom0.map_grant(self.stub, gref).expect("the ring"));
        let port = dom0.bind_interdomain(self.stub, offered).expect("the ring's port");
        dom0.notify(port);
        self.link = Some(Link { port, page });
        self.is_stopped = false;
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(link) = self.link.take() {
            self.xen.close_port(DomId::DOM0, link.port);
        }
        let is_about_vectors =
            |cmd| ![BrokerCommand::ConfWrite, BrokerCommand::Query].map(BrokerCommand::raw).contains(&cmd);
        if let Some((request, Some(_))) = self.in_hand.take()
            && is_about_vectors(request.cmd)
        {
            self.busy.extend(self.device(&request));
        }
    }

    /// SIGSTOP.
    pub const fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// SIGCONT.
    pub const fn go_on(&mut self) {
        self.is_stopped = false;
    }

    /// Serves one request. True when there was one.
    pub fn step(&mut self) -> bool {
        if !self.is_running() {
            return false;
        }
        if let Some((request, outcome)) = self.in_hand.take() {
            let outcome = outcome.unwrap_or_else(|| self.execute(&request));
            self.answer(&request, &outcome);
            return true;
        }
        let Some(link) = &self.link else { return false };
        let Some(request) = link.page.take_request() else { return false };
        self.log.extend(self.device(&request).map(|device| (request.cmd, device)));
        match self.faults.pop_front() {
            None => {
                let outcome = self.execute(&request);
                self.answer(&request, &outcome);
            }
            Some(Fault::Refuse(err, info)) => {
                let err = ErrorCode::from_raw(err).expect("an error");
                self.answer(&request, &Outcome::error(err, info));
            }
            Some(Fault::Lie { err, value, info }) => {
                let mut outcome = self.execute(&request);
                // Nobody could see through a failure that looks like a success.
                let err = if outcome.err == ErrorCode::Success { err } else { outcome.err.raw() };
                // Only `pciif.h`'s numbers fit the type; others go into the page behind its back.
                outcome.err = ErrorCode::from_raw(err).unwrap_or(ErrorCode::OpFailed);
                (outcome.value, outcome.info) = (value, info);
                let [low, high, ..] = value.to_le_bytes();
                outcome.vectors.fill(u16::from_le_bytes([low, high]));
                self.answer(&request, &outcome);
            }
            Some(Fault::StopBefore) => {
                self.in_hand = Some((request, None));
                self.stop();
            }
            Some(Fault::StopAfter) => {
                let outcome = self.execute(&request);
                self.in_hand = Some((request, Some(outcome)));
                self.stop();
            }
            Some(Fault::DieBefore) => self.kill(),
            Some(Fault::DieAfter) => {
                let outcome = self.execute(&request);
                self.in_hand = Some((request, Some(outcome)));
                self.kill();
            }
        }
        true
    }

    fn device(&self, request: &Request) -> Option<Sbdf> {
        let number = |word: u32| u8::try_from(word).ok();
        let segment = u16::try_from(request.domain).ok()?;
        Some(Sbdf::from_devfn(segment, number(request.bus)?, number(request.devfn)?))
    }

    fn answer(&self, request: &Request, outcome: &Outcome) {
        let Some(link) = &self.link else { return };
        // A request that was replaced meanwhile gets no answer: the one that is there is taken next.
        if link.page.still_carries(request) {
            let reply = Reply { err: outcome.err, value: outcome.value, vectors: &outcome.vectors };
            link.page.reply_with_info(request, reply, outcome.info);
        }
        self.xen.notify(DomId::DOM0, link.port);
    }

    fn execute(&mut self, request: &Request) -> Outcome {
        let device = self.device(request).expect("the stub names devices by their addresses");
        let Some(guest) = self.guests.get(&device).copied() else {
            return Outcome::error(ErrorCode::DevNotFound, 1);
        };
        let command = BrokerCommand::from_raw(request.cmd).expect("a command of docs/broker.md");
        match command {
            BrokerCommand::ConfWrite => self.conf_write(device, request),
            BrokerCommand::EnableMsi => self.enable(device, guest, 1, None),
            BrokerCommand::EnableMultiMsi => self.enable(device, guest, request.info as usize, None),
            BrokerCommand::EnableMsix => {
                let entries = self.link.as_ref().and_then(|link| link.page.take_entries(request));
                let entries = entries.expect("at most 128 entries");
                self.enable(device, guest, entries.as_slice().len(), Some(entries.as_slice()))
            }
            BrokerCommand::DisableMsi | BrokerCommand::DisableMsix => {
                self.disable(device);
                Outcome::done(0)
            }
            BrokerCommand::Quiesce => {
                self.disable(device);
                self.with(device, |function| function.set_bus_master(false));
                Outcome::done(0)
            }
            BrokerCommand::Query => Outcome::done(3),
        }
    }

    fn with<R: Default>(&self, device: Sbdf, work: impl FnOnce(&mut Function) -> R) -> R {
        self.xen.with_function(ecam(device), work).unwrap_or_default()
    }

    fn conf_write(&self, device: Sbdf, request: &Request) -> Outcome {
        let width = match request.size {
            1 => Width::Byte,
            2 => Width::Word,
            4 => Width::Dword,
            size => panic!("a write of {size} bytes"),
        };
        let offset = u16::try_from(request.offset).expect("an offset");
        assert!(request.value & !request.info == 0, "bits outside of the mask");
        let is_allowed = match (offset, width) {
            (COMMAND, Width::Word) => request.info & !0x414 == 0,
            (0x0c | 0x0f, Width::Byte) | (0x4c, Width::Word) => true,
            _ => false,
        };
        assert!(is_allowed, "the stub lets {request} through, mask {:#x}", request.info);
        self.with(device, |function| {
            let before = function.read(offset, width);
            function.write_register(offset, width, before & !request.info | request.value);
        });
        Outcome::done(0)
    }

    fn enable(&mut self, device: Sbdf, guest: DomId, count: usize, entries: Option<&[MsixEntry]>) -> Outcome {
        let table = self.with(device, |function| function.read(0x62, Width::Word) & 0x7ff);
        for (index, entry) in entries.into_iter().flatten().enumerate() {
            assert!(u32::from(entry.entry) <= table, "entry {} of {}", entry.entry, table + 1);
            let before = entries.into_iter().flatten().take(index);
            assert!(before.into_iter().all(|other| other.entry != entry.entry), "entry {} twice", entry.entry);
        }
        self.disable(device);
        let taken = |broker: &Self| broker.pirqs.keys().filter(|(owner, _)| *owner == guest).count();
        if self.dead.contains(&guest) {
            return Outcome::error(ErrorCode::OpFailed, NO_SUCH_DOMAIN);
        }
        if taken(self) + count > self.pirqs_per_guest {
            return Outcome::error(ErrorCode::OpFailed, NO_PIRQ);
        }
        // From 300 downwards, as Xen does; consecutive for MSI.
        let is_free = |broker: &Self, pirq: u16| !broker.pirqs.contains_key(&(guest, pirq));
        let span = u16::try_from(count).expect("few");
        let vectors = if entries.is_some() {
            (1..=300).rev().filter(|pirq| is_free(self, *pirq)).take(count).collect::<Vec<_>>()
        } else {
            let fits = |first: &u16| (*first..first + span).all(|pirq| is_free(self, pirq));
            let first = (1..=300 - span).rev().find(fits).expect("room");
            (first..first + span).collect()
        };
        for pirq in &vectors {
            let before = self.pirqs.insert((guest, *pirq), device);
            assert_eq!(before, None, "pirq {pirq} of domain {guest} has two owners");
        }
        let is_msix = entries.is_some();
        self.with(device, |function| function.enable(!is_msix, is_msix));
        let value = if is_msix { 0 } else { vectors.first().copied().map_or(0, u32::from) };
        Outcome { err: ErrorCode::Success, value, info: 0, vectors: if is_msix { vectors } else { Vec::new() } }
    }

    fn disable(&mut self, device: Sbdf) {
        self.with(device, |function| function.enable(false, false));
        self.pirqs.retain(|_, owner| *owner != device);
    }
}
