//! The machine: domains with their grants and event channels, ECAM pages, and the time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dom0::xen::Vector;
use pciback::platform::{
    Broker, Clock, ConfigAccess, ConfigSpace, ConfigWrite, Events, Grants, Introspection, Lives, Restarted, RingOffer,
    Usage, Width,
};
use pciif::{BackendPage, FrontendPage, OwnedPage, Request};
use xen_types::{DomId, Errno, GrantRef, Mfn, Port, Sbdf};

use crate::device::Function;
use crate::points::{LEAP_NS, Points};
use crate::vectors::VectorTable;
use xenstored::Xenstored;

pub use crate::vectors::{LOWEST_PIRQ, TOP_PIRQ};

/// `ESRCH`, which no code of ours tells from other errors.
const NO_SUCH_DOMAIN: Errno = Errno(3);

/// The frame that the simulation puts a function's configuration space at.
#[must_use]
pub fn ecam(address: Sbdf) -> Mfn {
    Mfn(0xb_0000 + (u64::from(address.bus()) << 8) + u64::from(address.devfn()))
}

/// A page as the backend has it mapped. Xen knows that it is mapped as long as this lives.
pub type MappedPage = Arc<Arc<OwnedPage>>;

#[derive(Debug)]
struct Grant {
    page: Arc<OwnedPage>,
    to: DomId,
    mappings: Vec<Weak<Arc<OwnedPage>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    /// Offered to a domain; also when the other end was closed, so that it can bind again.
    Unbound(DomId),
    /// Bound to the other end.
    Bound(DomId, Port),
}

#[derive(Debug, Default)]
struct Domain {
    grants: BTreeMap<GrantRef, Grant>,
    channels: BTreeMap<Port, Channel>,
    pending: BTreeSet<Port>,
}

impl Domain {
    /// The lowest free port, as Xen gives them out.
    fn allocate(&mut self, channel: Channel) -> Port {
        let port = (1..).map(Port).find(|port| !self.channels.contains_key(port)).expect("a free port");
        self.channels.insert(port, channel);
        port
    }
}

/// Everything below the store.
#[derive(Debug, Default)]
pub struct Machine {
    /// The daemon, with which the machine shares its life.
    pub store: Xenstored,
    domains: BTreeMap<DomId, Domain>,
    /// Mappings of pages of domains that are gone.
    orphans: Vec<Weak<Arc<OwnedPage>>>,
    functions: BTreeMap<Mfn, Function>,
    iomem: BTreeSet<(DomId, Mfn)>,
    /// Booted with `mmcfg=0`.
    is_ecam_writable: bool,
    ecam_pages: BTreeMap<Mfn, usize>,
    /// Whose DMA a device does, where that is a guest.
    owners: BTreeMap<Sbdf, DomId>,
    vectors: VectorTable,
    now_ns: u64,
    /// Events that were raised, by the domain that gets them.
    events: BTreeMap<DomId, u64>,
    /// How long a function takes to answer a read, where it takes any time.
    slow: BTreeMap<Mfn, u64>,
    /// What a guest on another CPU does as soon as the stub notifies this port, so often.
    hasty: BTreeMap<(DomId, Port), Hasty>,
    /// What a stub keeps through restarts in place.
    survivors: BTreeMap<DomId, Survivor>,
    /// Domains that were interrupted by an NMI.
    interrupted: Vec<DomId>,
    /// How long domains' processors have run, as far as a test says so.
    ran: BTreeMap<DomId, Duration>,
    /// Notes about functions, by the frames of their configuration spaces. As long as they are mapped.
    notes: BTreeMap<Mfn, u32>,
    /// Calls that shall fail, by name: the stub's `map_grant`, `bind_interdomain`, `map_config` and `offer_ring`, and dom0's `open_config`.
    failures: Vec<(&'static str, Errno)>,
    pub(crate) points: Points,
}

/// What outlives a stub's image ([`SimXen::crash`]).
#[derive(Debug, Default)]
struct Survivor {
    restarts: u32,
    crashed_ns: u64,
    /// Pages and ports of the life before that this one has not claimed.
    pages: Vec<(DomId, GrantRef, MappedPage)>,
    ports: BTreeSet<Port>,
    /// The page for the broker.
    ring: Option<(Arc<OwnedPage>, GrantRef, Port)>,
    /// The old image is being thrown away: what it unmaps stays noted.
    is_dying: bool,
    /// The image crashes at one of its calls: when so many moments before and after calls have passed.
    crash_in: Option<usize>,
    /// Such moments so far.
    moments: usize,
    aside: BTreeSet<DomId>,
}

/// What the unwinding of an image that crashes at a call carries.
pub(crate) struct Crashed;

/// A guest that asks the same again as soon as it has its answer.
#[derive(Clone, Debug)]
struct Hasty {
    page: Arc<OwnedPage>,
    request: Request,
    left: u32,
}

/// The machine, as everybody in a test holds it. A process of dom0 has a thread of its own (`process.rs`), which runs while everybody else
/// waits for it: the lock is never contended.
#[derive(Clone, Debug, Default)]
pub struct SimXen(Arc<Mutex<Machine>>);

/// The store, while nobody else reaches the machine.
#[derive(Debug)]
pub struct StoreGuard<'a>(MutexGuard<'a, Machine>);

impl Deref for StoreGuard<'_> {
    type Target = Xenstored;

    fn deref(&self) -> &Xenstored {
        &self.0.store
    }
}

impl DerefMut for StoreGuard<'_> {
    fn deref_mut(&mut self) -> &mut Xenstored {
        &mut self.0.store
    }
}

impl SimXen {
    /// With dom0 and nothing else.
    #[must_use]
    pub fn new() -> Self {
        let xen = Self::default();
        xen.machine().domains.insert(DomId::DOM0, Domain::default());
        xen
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> StoreGuard<'_> {
        StoreGuard(self.machine())
    }

    /// The machine for one access. Whoever holds it must not ask for it again.
    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // a test that failed is about to end
    }

    /// A new domain. The toolstack writes its nodes.
    ///
    /// # Panics
    /// When there is one of this number.
    pub fn create_domain(&self, domid: DomId) {
        let before = self.machine().domains.insert(domid, Domain::default());
        assert!(before.is_none(), "domain {domid} exists");
    }

    /// A domain dies: its ports are closed; pages of it that are mapped stay until they are unmapped.
    ///
    /// # Panics
    /// When there is none of this number.
    pub fn destroy_domain(&self, domid: DomId) {
        let mut machine = self.machine();
        let domain = machine.domains.remove(&domid).expect("a domain to destroy");
        machine.vectors.forget(domid);
        machine.owners.retain(|_, owner| *owner != domid);
        machine.orphans.extend(domain.grants.into_values().flat_map(|grant| grant.mappings));
        for other in machine.domains.values_mut() {
            for channel in other.channels.values_mut() {
                if matches!(*channel, Channel::Bound(peer, _) if peer == domid) {
                    *channel = Channel::Unbound(domid);
                }
            }
        }
    }

    /// Whether there is a domain of this number.
    #[must_use]
    pub fn has_domain(&self, domid: DomId) -> bool {
        self.machine().domains.contains_key(&domid)
    }

    /// `domid` grants a page to another domain.
    ///
    /// # Panics
    /// When there is no such domain.
    pub fn grant(&self, domid: DomId, to: DomId, page: Arc<OwnedPage>) -> GrantRef {
        let mut machine = self.machine();
        let domain = machine.domains.get_mut(&domid).expect("a domain that grants");
        // The first eight are reserved, as in Xen.
        let gref = (8..).map(GrantRef).find(|gref| !domain.grants.contains_key(gref)).expect("a free entry");
        domain.grants.insert(gref, Grant { page, to, mappings: Vec::new() });
        gref
    }

    /// Takes a grant back: no new mapping of it. Existing ones stay.
    pub fn revoke(&self, domid: DomId, gref: GrantRef) {
        let mut machine = self.machine();
        let grant = machine.domains.get_mut(&domid).and_then(|domain| domain.grants.remove(&gref));
        machine.orphans.extend(grant.into_iter().flat_map(|grant| grant.mappings));
    }

    /// `domid` offers a port to `remote` (`EVTCHNOP_alloc_unbound`).
    ///
    /// # Panics
    /// When there is no such domain.
    pub fn offer_port(&self, domid: DomId, remote: DomId) -> Port {
        let mut machine = self.machine();
        machine.domains.get_mut(&domid).expect("a domain that offers").allocate(Channel::Unbound(remote))
    }

    /// Raises the event at the other end of a port, if it has one.
    ///
    /// # Panics
    /// When the domain has no such port.
    pub fn notify(&self, domid: DomId, port: Port) {
        let mut machine = self.machine();
        let channel = machine.domains.get(&domid).and_then(|domain| domain.channels.get(&port).copied());
        let channel = channel.unwrap_or_else(|| panic!("domain {domid} notifies port {port}, which it has not"));
        if let Channel::Bound(peer, remote) = channel
            && let Some(domain) = machine.domains.get_mut(&peer)
        {
            domain.pending.insert(remote);
            *machine.events.entry(peer).or_default() += 1;
        }
    }

    /// Closes a port.
    ///
    /// # Panics
    /// When the domain has no such port.
    pub fn close_port(&self, domid: DomId, port: Port) {
        let mut machine = self.machine();
        let domain = machine.domains.get_mut(&domid).unwrap_or_else(|| panic!("no domain {domid}"));
        domain.pending.remove(&port);
        let channel = domain.channels.remove(&port);
        let channel = channel.unwrap_or_else(|| panic!("domain {domid} closes port {port}, which it has not"));
        if let Channel::Bound(peer, remote) = channel
            && let Some(other) = machine.domains.get_mut(&peer).and_then(|peer| peer.channels.get_mut(&remote))
        {
            *other = Channel::Unbound(domid);
        }
    }

    /// An event that nobody has raised.
    pub fn raise(&self, domid: DomId, port: Port) {
        if let Some(domain) = self.machine().domains.get_mut(&domid) {
            domain.pending.insert(port);
        }
    }

    /// Takes the pending bits of a domain.
    #[must_use]
    pub fn take_pending(&self, domid: DomId) -> Vec<Port> {
        let mut machine = self.machine();
        let pending = machine.domains.get_mut(&domid).map(|domain| std::mem::take(&mut domain.pending));
        pending.into_iter().flatten().collect()
    }

    /// Takes the pending bit of one of these ports of a domain, the lowest that has one.
    #[must_use]
    pub(crate) fn take_pending_of(&self, domid: DomId, ports: &BTreeSet<Port>) -> Option<Port> {
        let mut machine = self.machine();
        let pending = &mut machine.domains.get_mut(&domid)?.pending;
        let port = pending.intersection(ports).next().copied()?;
        pending.remove(&port);
        Some(port)
    }

    /// Whether an event waits at any port of a domain.
    #[must_use]
    pub fn has_pending(&self, domid: DomId) -> bool {
        self.machine().domains.get(&domid).is_some_and(|domain| !domain.pending.is_empty())
    }

    /// The page that a stub has granted to dom0 by this number, while dom0 is at the other end of the port.
    #[must_use]
    pub(crate) fn ring(&self, stub: DomId, gref: GrantRef, port: Port) -> Option<Arc<OwnedPage>> {
        let machine = self.machine();
        let domain = machine.domains.get(&stub)?;
        let is_bound = matches!(domain.channels.get(&port), Some(Channel::Bound(DomId::DOM0, _)));
        let grant = domain.grants.get(&gref).filter(|grant| is_bound && grant.to == DomId::DOM0)?;
        Some(Arc::clone(&grant.page))
    }

    /// Gives a device's DMA to a guest (`XEN_DOMCTL_assign_device`).
    pub fn assign(&self, device: Sbdf, guest: DomId) {
        self.machine().owners.insert(device, guest);
    }

    /// Takes it back (`XEN_DOMCTL_deassign_device`).
    pub fn deassign(&self, device: Sbdf) {
        self.machine().owners.remove(&device);
    }

    /// The guest that has a device's DMA.
    #[must_use]
    pub fn owner(&self, device: Sbdf) -> Option<DomId> {
        self.machine().owners.get(&device).copied()
    }

    /// Every pirq that is mapped for a vector, with its guest and its device.
    #[must_use]
    pub fn pirqs(&self) -> Vec<(DomId, u16, Sbdf)> {
        self.machine().vectors.all()
    }

    /// How many of them a guest can have from now on.
    pub fn limit_pirqs(&self, per_guest: usize) {
        self.machine().vectors.limit(per_guest);
    }

    /// Maps a vector of a device for the guest that has it (`PHYSDEVOP_map_pirq`); the (first) pirq.
    ///
    /// # Errors
    /// As Xen.
    ///
    /// # Panics
    /// When others of the device are mapped in its way, or its table is not at that address.
    pub fn map_vector(&self, guest: DomId, device: Sbdf, vector: Vector) -> Result<u16, Errno> {
        let mut machine = self.machine();
        if !machine.domains.contains_key(&guest) {
            return Err(NO_SUCH_DOMAIN);
        }
        if machine.owners.get(&device) != Some(&guest) {
            return Err(Errno::ENODEV);
        }
        if let Vector::Msix { table_bar, .. } = vector {
            // Xen reads and masks the table.
            let function = machine.functions.get(&ecam(device)).filter(|function| function.decodes_memory());
            let function = function.ok_or(Errno::ENXIO)?;
            assert_eq!(function.msix_table_bar(), table_bar, "the table of {device}");
        }
        machine.vectors.map(guest, device, vector)
    }

    /// Unmaps a vector and those that were mapped with it (`PHYSDEVOP_unmap_pirq`).
    ///
    /// # Errors
    /// As Xen.
    pub fn unmap_vector(&self, guest: DomId, pirq: u16) -> Result<(), Errno> {
        let mut machine = self.machine();
        if !machine.domains.contains_key(&guest) {
            return Err(NO_SUCH_DOMAIN);
        }
        machine.vectors.unmap(guest, pirq)
    }

    /// Events that a domain has got so far.
    #[must_use]
    pub fn events(&self, domid: DomId) -> u64 {
        self.machine().events.get(&domid).copied().unwrap_or(0)
    }

    /// Plugs a function in; its configuration space is the page at this frame.
    pub fn plug(&self, ecam: Mfn, function: Function) {
        self.machine().functions.insert(ecam, function);
    }

    /// Pulls a function out: it reads as ones from now on.
    pub fn unplug(&self, ecam: Mfn) {
        self.machine().functions.remove(&ecam);
    }

    /// Has a function take so long for each read.
    pub fn make_slow(&self, ecam: Mfn, by_ns: u64) {
        self.machine().slow.insert(ecam, by_ns);
    }

    /// Has a guest ask the same again as soon as `stub` has answered at its `port`, so many times.
    pub fn make_hasty(&self, (stub, port): (DomId, Port), page: &Arc<OwnedPage>, request: Request, times: u32) {
        let hasty = Hasty { page: Arc::clone(page), request, left: times };
        self.machine().hasty.insert((stub, port), hasty);
    }

    /// How often a hasty guest still means to ask.
    #[must_use]
    pub fn haste_left(&self, (stub, port): (DomId, Port)) -> u32 {
        self.machine().hasty.get(&(stub, port)).map_or(0, |hasty| hasty.left)
    }

    /// Works on a function's configuration space, as its hardware would.
    pub fn with_function<R>(&self, ecam: Mfn, work: impl FnOnce(&mut Function) -> R) -> Option<R> {
        self.machine().functions.get_mut(&ecam).map(work)
    }

    /// Has this machine let domains write to ECAM pages that they may map, as with `mmcfg=0`.
    pub fn make_ecam_writable(&self) {
        self.machine().is_ecam_writable = true;
    }

    /// Gives a domain the right to map a frame, or takes it back.
    pub fn permit(&self, domid: DomId, ecam: Mfn, is_permitted: bool) {
        if is_permitted {
            self.machine().iomem.insert((domid, ecam));
        } else {
            self.machine().iomem.remove(&(domid, ecam));
        }
    }

    /// Has the next hypercall of this name fail.
    pub fn fail_next(&self, name: &'static str, errno: Errno) {
        self.machine().failures.push((name, errno));
    }

    /// Forgets failures that have not struck.
    pub fn clear_failures(&self) {
        self.machine().failures.clear();
    }

    /// Counts calls from now on, from 0, and has the one with this number fail.
    pub fn count_points(&self, fails: Option<usize>) {
        self.machine().points = Points::begin(fails);
    }

    /// Counts no more. What failed, if anything did: who called what.
    pub fn end_points(&self) -> Option<(&'static str, &'static str)> {
        self.machine().points.end()
    }

    /// Calls that were counted.
    #[must_use]
    pub fn points(&self) -> usize {
        self.machine().points.count
    }

    /// The same by who called what.
    #[must_use]
    pub fn points_by_call(&self) -> BTreeMap<(&'static str, &'static str), usize> {
        self.machine().points.by_call.clone()
    }

    /// Counts a call of this party.
    ///
    /// # Errors
    /// EIO where it is the one that fails.
    pub fn point(&self, who: &'static str, call: &'static str) -> Result<(), Errno> {
        if self.machine().points.fails(who, call) { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Counts a look at the clock of this party: how much later than it thinks it is, nanoseconds.
    pub fn clock_point(&self, who: &'static str) -> u64 {
        if self.point(who, "the clock").is_ok() {
            return 0;
        }
        self.advance_ns(LEAP_NS);
        LEAP_NS
    }

    /// What time it is.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.machine().now_ns
    }

    /// Lets time pass.
    pub fn advance_ns(&self, by_ns: u64) {
        let mut machine = self.machine();
        machine.now_ns = machine.now_ns.saturating_add(by_ns);
    }

    /// A stub's image is about to be thrown away, and another one to take its place in the same domain. What it holds stays for that one. Between the
    /// two calls, `is_dying` and not, the old one is dropped.
    ///
    /// # Panics
    /// When there is no such domain.
    pub(crate) fn crash(&self, stub: DomId, is_dying: bool) {
        let mut machine = self.machine();
        let Machine { domains, survivors, now_ns, .. } = &mut *machine;
        let survivor = survivors.entry(stub).or_default();
        survivor.is_dying = is_dying;
        if !is_dying {
            return;
        }
        survivor.restarts += 1;
        survivor.crashed_ns = *now_ns;
        for (peer, domain) in domains.iter() {
            for (gref, grant) in domain.grants.iter().filter(|(_, grant)| grant.to == stub) {
                let mapped = grant.mappings.iter().find_map(Weak::upgrade);
                let is_kept = |(owner, kept, _): &(DomId, GrantRef, MappedPage)| (owner, kept) == (peer, gref);
                if let Some(page) = mapped.filter(|_| !survivor.pages.iter().any(is_kept)) {
                    survivor.pages.push((*peer, *gref, page));
                }
            }
        }
        let channels = &domains.get(&stub).expect("the stub's domain").channels;
        let ring = survivor.ring.as_ref().map(|(_, _, port)| *port);
        survivor.ports = channels.keys().copied().filter(|port| Some(*port) != ring).collect();
    }

    /// Has a stub's image crash at the moment with this number ([`SimXen::moments`]): even ones are before its calls, odd ones after.
    pub fn crash_at_call(&self, stub: DomId, moment: usize) {
        let mut machine = self.machine();
        let survivor = machine.survivors.entry(stub).or_default();
        survivor.crash_in = moment.checked_sub(survivor.moments);
    }

    /// Moments before and after calls of a stub so far.
    #[must_use]
    pub fn moments(&self, stub: DomId) -> usize {
        self.machine().survivors.get(&stub).map_or(0, |survivor| survivor.moments)
    }

    /// For how long the domain's processor has run.
    pub(crate) fn run_time(&self, domain: DomId) -> Duration {
        self.machine().ran.get(&domain).copied().unwrap_or_default()
    }

    /// The domain's processor runs for so long. Time passes by itself.
    pub fn run_for(&self, domain: DomId, time: Duration) {
        *self.machine().ran.entry(domain).or_default() += time;
    }

    /// An NMI for this domain.
    pub(crate) fn interrupt(&self, domain: DomId) {
        self.machine().interrupted.push(domain);
    }

    /// The domains that were interrupted by an NMI since the last call.
    #[must_use]
    pub fn take_interrupted(&self) -> Vec<DomId> {
        std::mem::take(&mut self.machine().interrupted)
    }

    /// Has a stub serve this frontend no more after its next restart, as after three crashes of it.
    pub fn put_aside(&self, stub: DomId, frontend: DomId) {
        self.machine().survivors.entry(stub).or_default().aside.insert(frontend);
    }

    /// What a domain has in hand: pages mapped by anybody, its ports, mapped ECAM pages.
    #[must_use]
    pub fn held_by(&self, domid: DomId) -> HeldResources {
        let machine = self.machine();
        let granted = machine.domains.values().flat_map(|domain| domain.grants.values());
        let mappings = granted.filter(|grant| grant.to == domid).flat_map(|grant| &grant.mappings);
        HeldResources {
            pages: mappings.chain(&machine.orphans).filter(|mapping| mapping.strong_count() > 0).count(),
            ports: machine.domains.get(&domid).map_or(0, |domain| {
                let towards_dom0 = |channel: &&Channel| {
                    matches!(**channel, Channel::Unbound(DomId::DOM0) | Channel::Bound(DomId::DOM0, _))
                };
                domain.channels.len() - domain.channels.values().filter(towards_dom0).count()
            }),
            ecam_pages: machine.ecam_pages.values().sum(),
        }
    }

    /// The platform of a domain: its hypercalls.
    #[must_use]
    pub fn platform(&self, domid: DomId) -> SimPlatform {
        SimPlatform { xen: self.clone(), domid }
    }

    /// Whether the call of this name is to fail.
    pub(crate) fn failure(&self, name: &'static str) -> Result<(), Errno> {
        self.point("a domain", name)?;
        let mut machine = self.machine();
        let Some(index) = machine.failures.iter().position(|(failing, _)| *failing == name) else { return Ok(()) };
        Err(machine.failures.remove(index).1)
    }
}

/// What would have leaked if it were not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldResources {
    /// Mapped pages.
    pub pages: usize,
    /// Ports, but for the broker's.
    pub ports: usize,
    /// Mapped ECAM pages.
    pub ecam_pages: usize,
}

/// One domain's hypercalls.
#[derive(Clone, Debug)]
pub struct SimPlatform {
    xen: SimXen,
    domid: DomId,
}

impl SimPlatform {
    /// Makes a call, before or after which the image may crash.
    fn call<R>(&self, call: impl FnOnce() -> R) -> R {
        self.may_crash();
        let result = call();
        self.may_crash();
        result
    }

    fn may_crash(&self) {
        {
            let mut machine = self.xen.machine();
            let survivor = machine.survivors.entry(self.domid).or_default();
            survivor.moments += 1;
            let left = survivor.crash_in;
            survivor.crash_in = left.and_then(|left| left.checked_sub(1));
            if left != Some(0) {
                return;
            }
        }
        // Now, so that what the unwinding drops stays for the next life.
        self.xen.crash(self.domid, true);
        std::panic::resume_unwind(Box::new(Crashed));
    }

    fn bind(&self, peer: DomId, remote: Port) -> Result<Port, Errno> {
        self.xen.failure("bind_interdomain")?;
        let mut machine = self.xen.machine();
        let Machine { domains, survivors, .. } = &mut *machine;
        if let (Some(domain), Some(survivor)) = (domains.get_mut(&self.domid), survivors.get_mut(&self.domid)) {
            let is_it = |port: &&Port| {
                let channel = domain.channels.get(port);
                matches!(channel, Some(Channel::Bound(other, there)) if (*other, *there) == (peer, remote))
            };
            if let Some(port) = survivor.ports.iter().find(is_it).copied() {
                survivor.ports.remove(&port);
                domain.pending.insert(port);
                return Ok(port);
            }
        }
        let offered = machine.domains.get_mut(&peer).ok_or(NO_SUCH_DOMAIN)?.channels.get_mut(&remote);
        offered.filter(|channel| **channel == Channel::Unbound(self.domid)).ok_or(Errno::EINVAL)?;
        let ours = machine.domains.get_mut(&self.domid).ok_or(NO_SUCH_DOMAIN)?;
        let port = ours.allocate(Channel::Bound(peer, remote));
        ours.pending.insert(port);
        if let Some(theirs) = machine.domains.get_mut(&peer) {
            theirs.channels.insert(remote, Channel::Bound(self.domid, port));
        }
        Ok(port)
    }

    fn raise(&self, port: Port) {
        self.xen.notify(self.domid, port);
        let mut machine = self.xen.machine();
        if let Some(hasty) = machine.hasty.get_mut(&(self.domid, port))
            && let Some(left) = hasty.left.checked_sub(1)
        {
            hasty.left = left;
            FrontendPage::new(Arc::clone(&hasty.page)).publish(&hasty.request);
        }
    }

    fn map(&self, peer: DomId, gref: GrantRef) -> Result<MappedPage, Errno> {
        self.xen.failure("map_grant")?;
        let mut machine = self.xen.machine();
        if let Some(survivor) = machine.survivors.get_mut(&self.domid)
            && let Some(index) = survivor.pages.iter().position(|(owner, kept, _)| (*owner, *kept) == (peer, gref))
        {
            return Ok(survivor.pages.remove(index).2);
        }
        let grant = machine.domains.get_mut(&peer).ok_or(NO_SUCH_DOMAIN)?.grants.get_mut(&gref);
        let grant = grant.filter(|grant| grant.to == self.domid).ok_or(Errno::EINVAL)?;
        let page = Arc::new(Arc::clone(&grant.page));
        grant.mappings.retain(|mapping| mapping.strong_count() > 0);
        grant.mappings.push(Arc::downgrade(&page));
        Ok(page)
    }

    fn map_page(&self, ecam: Mfn, for_writing: bool) -> Result<SimWindow, Errno> {
        self.xen.failure("map_config")?;
        let mut machine = self.xen.machine();
        if !machine.iomem.contains(&(self.domid, ecam)) {
            return Err(Errno::EPERM);
        }
        *machine.ecam_pages.entry(ecam).or_default() += 1;
        let is_writable = for_writing && machine.is_ecam_writable;
        Ok(SimWindow { xen: self.xen.clone(), ecam, is_writable })
    }

    fn is_bound(&self, port: Port) -> bool {
        let machine = self.xen.machine();
        let channel = machine.domains.get(&self.domid).and_then(|domain| domain.channels.get(&port));
        matches!(channel.expect("a port of its own"), Channel::Bound(DomId::DOM0, _))
    }

    fn offer(&self) -> Result<RingOffer<Arc<OwnedPage>>, Errno> {
        self.xen.failure("offer_ring")?;
        let kept = self.xen.machine().survivors.entry(self.domid).or_default().ring.clone();
        if let Some((page, gref, port)) = kept {
            return Ok(RingOffer { page, gref, port });
        }
        let page = Arc::new(OwnedPage::new());
        let gref = self.xen.grant(self.domid, DomId::DOM0, Arc::clone(&page));
        let port = self.xen.offer_port(self.domid, DomId::DOM0);
        self.xen.machine().survivors.entry(self.domid).or_default().ring = Some((Arc::clone(&page), gref, port));
        Ok(RingOffer { page, gref, port })
    }
}

impl Events for SimPlatform {
    fn bind_interdomain(&self, peer: DomId, remote: Port) -> Result<Port, Errno> {
        self.call(|| self.bind(peer, remote))
    }

    fn notify(&self, port: Port) {
        self.call(|| self.raise(port));
    }

    fn close(&self, port: Port) {
        self.call(|| self.xen.close_port(self.domid, port));
    }
}

impl Grants for SimPlatform {
    type Page = MappedPage;

    fn map_grant(&self, peer: DomId, gref: GrantRef) -> Result<MappedPage, Errno> {
        self.call(|| self.map(peer, gref))
    }
}

/// A mapped ECAM page.
#[derive(Debug)]
pub struct SimWindow {
    xen: SimXen,
    ecam: Mfn,
    is_writable: bool,
}

impl ConfigSpace for SimWindow {
    fn read_config(&self, offset: u16, width: Width) -> u32 {
        assert!(offset.is_multiple_of(width as u16) && offset < 4096, "{width:?} at {offset:#x}");
        let mut machine = self.xen.machine();
        let took_ns = machine.slow.get(&self.ecam).copied();
        machine.now_ns = machine.now_ns.saturating_add(took_ns.unwrap_or(0));
        let function = machine.functions.get(&self.ecam);
        function.map_or(width.bits(), |function| function.read(offset, width))
    }
}

impl ConfigWrite for SimWindow {
    fn is_writable(&self) -> bool {
        self.is_writable
    }

    fn note(&self) -> u32 {
        self.xen.machine().notes.get(&self.ecam).copied().unwrap_or(0)
    }

    fn set_note(&self, note: u32) {
        self.xen.machine().notes.insert(self.ecam, note);
    }

    fn write_config(&self, offset: u16, width: Width, value: u32) {
        assert!(self.is_writable, "a store to a page that is read-only: page fault");
        assert!(offset.is_multiple_of(width as u16) && offset < 4096, "{width:?} at {offset:#x}");
        self.xen.with_function(self.ecam, |function| function.write_register(offset, width, value));
    }
}

impl Drop for SimWindow {
    fn drop(&mut self) {
        let mut machine = self.xen.machine();
        match machine.ecam_pages.get_mut(&self.ecam) {
            Some(1) => {
                machine.ecam_pages.remove(&self.ecam);
                if !machine.survivors.values().any(|survivor| survivor.is_dying) {
                    machine.notes.remove(&self.ecam);
                }
            }
            Some(count) => *count -= 1,
            None => panic!("frame {:#x} unmapped twice", self.ecam),
        }
    }
}

impl ConfigAccess for SimPlatform {
    type ConfigPage = SimWindow;

    fn map_config(&self, ecam: Mfn, for_writing: bool) -> Result<SimWindow, Errno> {
        self.call(|| self.map_page(ecam, for_writing))
    }
}

impl Broker for SimPlatform {
    type Ring = Arc<OwnedPage>;

    fn offer_ring(&self) -> Result<RingOffer<Arc<OwnedPage>>, Errno> {
        self.call(|| self.offer())
    }

    fn is_connected(&self, port: Port) -> bool {
        self.call(|| self.is_bound(port))
    }
}

impl Clock for SimPlatform {
    fn now_ns(&self) -> u64 {
        self.xen.clock_point("the stub");
        self.xen.now_ns()
    }
}

impl Introspection for SimPlatform {
    fn usage(&self) -> Usage {
        let HeldResources { pages, ecam_pages, .. } = self.xen.held_by(self.domid);
        // There is no heap of its own here.
        Usage { mapped_pages: pages + ecam_pages, ..Usage::default() }
    }
}

impl Lives for SimPlatform {
    fn restarted(&self) -> Option<Restarted> {
        let machine = self.xen.machine();
        let survivor = machine.survivors.get(&self.domid).filter(|survivor| survivor.restarts > 0)?;
        let Survivor { restarts: count, crashed_ns, .. } = *survivor;
        Some(Restarted { count, crashed_ns, last_words: b"the simulation" })
    }

    fn is_still_mapped(&self, peer: DomId, gref: GrantRef) -> bool {
        let machine = self.xen.machine();
        let pages = machine.survivors.get(&self.domid).map(|survivor| &survivor.pages);
        pages.is_some_and(|pages| pages.iter().any(|(owner, kept, _)| (*owner, *kept) == (peer, gref)))
    }

    fn is_asked(&self, peer: DomId) -> bool {
        let machine = self.xen.machine();
        let Some(survivor) = machine.survivors.get(&self.domid) else { return false };
        survivor.pages.iter().any(|(owner, _, page)| *owner == peer && BackendPage::new(page).is_active())
    }

    fn is_put_aside(&self, peer: DomId) -> bool {
        self.xen.machine().survivors.get(&self.domid).is_some_and(|survivor| survivor.aside.contains(&peer))
    }

    fn looking_at(&self, _: Option<DomId>) {}

    fn forget_unclaimed(&self) {
        let (pages, ports) = {
            let mut machine = self.xen.machine();
            let survivor = machine.survivors.entry(self.domid).or_default();
            (std::mem::take(&mut survivor.pages), std::mem::take(&mut survivor.ports))
        };
        drop(pages);
        ports.into_iter().for_each(|port| self.xen.close_port(self.domid, port));
    }

    fn forget_domain(&self, peer: DomId) {
        self.xen.machine().survivors.entry(self.domid).or_default().aside.remove(&peer);
    }
}
