//! One frontend: what it holds, and its page.
//!
//! | file | what |
//! |---|---|
//! | [`requests_in_page`] | the data plane: what an event brought, answered or left to the broker |
//! | [`link`] | the page and the port of a connection, and what its request waits for |
//! | [`errors`] | what it is told of errors of its devices |
//! | [`exports`] | its devices, and where it sees them |
//! | [`pacing`] | what it may have us do |
//! | [`table`], [`port_table`] | all frontends, by domain and by port |
//!
//! Whether there is a connection, and what belongs to one, is a state of [`Connection`]: a frontend without one has no page, no port, no request and
//! no keys.

mod errors;
mod exports;
mod link;
mod pacing;
pub(crate) mod port_table;
mod requests_in_page;
mod served;
pub(crate) mod table;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use core::fmt;

use xen_types::{DomId, Errno, Sbdf};
use xenstore::XenbusState;

use crate::broker_client::Broker;
use crate::handshake::{
    Connected, Connection, Failure, FrontendState, InvalidKey, Keys, Nodes, Outcome, Refusal, ShutdownStage,
    makes_sense,
};
use crate::options::Options;
use crate::platform::Platform;
use crate::pool::{Notified, Pool, PoolDevice};
use crate::rate::Lines;
use crate::requests::Presence;
use crate::shared::adoption_stage::Turn;
use crate::signal::Signal;
use crate::topology::ExportMode;
use exports::Exports;
use link::Link;
use pacing::Pacing;
use port_table::PortTable;

pub use served::Served;

/// A frontend and everything that is held for it.
pub(crate) struct Frontend<P: Platform> {
    domid: DomId,
    /// "Look at the nodes again."
    pub(crate) signal: Rc<Signal>,
    /// Its state, as decisions see it, and the link while it is connected.
    pub(crate) state: FrontendState<Link<P>>,
    exports: Exports<P>,
    /// Limits of the work that it may cause.
    pub(crate) pacing: Pacing,
    lines: Lines,
    /// Where its own directory does not choose.
    export: ExportMode,
    is_direct: bool,
    /// It has crashed the image so often that it gets nothing.
    is_put_aside: bool,
    /// While it is to take over what it had before a restart in place: whether it is its turn.
    pub(crate) turn: Turn,
}

impl<P: Platform> Frontend<P> {
    /// A frontend that holds nothing.
    pub(crate) fn new(domid: DomId, options: Options, stop: ShutdownStage) -> Self {
        Self {
            domid,
            signal: Signal::new(),
            state: FrontendState::new(stop),
            exports: Exports::new(options.export, options.domain),
            pacing: Pacing::NEW,
            lines: Lines::NEW,
            export: options.export,
            is_direct: options.is_direct,
            is_put_aside: false,
            turn: Turn::Waits,
        }
    }

    /// Its domain.
    pub(crate) const fn domid(&self) -> DomId {
        self.domid
    }

    /// Whether its nodes may be looked at now: always, unless it has caused too many looks. Then: when.
    pub(crate) fn may_look(&mut self, now_ns: u64) -> Result<(), u64> {
        // The stub's own end does not wait for what the guest owes.
        if self.state.stop != ShutdownStage::No {
            self.pacing.forgive();
        }
        self.pacing.may_look(now_ns)
    }

    /// Takes note of what the nodes say, before deciding on them.
    pub(crate) fn observe(&mut self, nodes: &Nodes, now_ns: u64) {
        self.state.observe(nodes);
        self.exports.choose(nodes.export.unwrap_or(self.export));
        self.state.observe_roots(nodes, self.exports.roots());
        let is_news = self.pacing.observe(nodes);
        if is_news && !makes_sense(nodes.own, nodes.peer.state) {
            let (own, peer) = (name(nodes.own), name(nodes.peer.state));
            self.say(now_ns, log::Level::Warn, format_args!("ignoring its state {peer} while ours is {own}"));
        }
    }

    /// A line in the log that the frontend has caused. Too many are counted instead.
    pub(crate) fn say(&mut self, now_ns: u64, level: log::Level, text: fmt::Arguments<'_>) {
        let Some(unsaid) = self.lines.take(now_ns) else { return };
        if unsaid > 0 {
            plain_log::warning!("frontend {}: {unsaid} more lines like these", self.domid);
        }
        plain_log::tell(level, format_args!("frontend {}: {text}", self.domid));
    }

    /// Takes a device from the pool and gives it a virtual address, or notes why not.
    /// With `exact` it is one that the frontend had there before a restart in place, and it stays as it was. Not one that it had released by then, or
    /// has taken for another entry: what becomes of that is decided as ever.
    #[inline(never)] // its one caller is large already
    pub(crate) fn take(&mut self, pool: &mut Pool<P>, address: Sbdf, requested_slot: Option<u8>, exact: Option<Sbdf>) {
        if exact.is_some() && !pool.was_with(address, self.domid) {
            return;
        }
        self.pacing.charge();
        let outcome = match self.try_take(pool, address, requested_slot, exact) {
            Ok(virtual_address) => Outcome::Exported(virtual_address),
            Err(failure) => Outcome::Failed(failure),
        };
        self.state.devices.insert(address, outcome);
    }

    fn try_take(
        &mut self,
        pool: &mut Pool<P>,
        address: Sbdf,
        requested_slot: Option<u8>,
        exact: Option<Sbdf>,
    ) -> Result<Sbdf, Failure> {
        if self.is_put_aside && exact.is_none() {
            return Err(Failure { errno: Errno::EPERM, text: "crashed the backend".to_string() });
        }
        let mut device = pool.assign(address, self.domid)?;
        if exact.is_none() {
            device.reset();
        }
        self.exports.add(pool, device, requested_slot, exact)
    }

    /// Takes the connection of the life before over, if there is one with these keys. True where the frontend is put aside: its requests are answered
    /// as if its devices were gone.
    pub(crate) fn adopt(
        &mut self,
        platform: &P,
        ports: &mut PortTable,
        broker: &mut Broker<P>,
        keys: Option<Keys>,
        states: [Option<XenbusState>; 2],
    ) -> bool {
        self.state.is_adopting = false;
        self.is_put_aside = platform.is_put_aside(self.domid);
        let keys = keys.filter(|keys| platform.is_still_mapped(self.domid, keys.gref));
        for device in self.exports.devices() {
            if keys.is_none() {
                device.release(); // it was, or was about to be: no driver has them
            }
            if self.is_put_aside {
                device.notified = Notified::Guest;
                device.parts().0.presence = Presence::Gone;
            }
            device.queue_cleanup(broker);
        }
        let Some(keys) = keys else { return self.is_put_aside };
        self.connect(platform, ports, keys);
        let [own, peer] = states;
        if let Some(connected) = self.state.connected_mut() {
            connected.is_announced = own != Some(XenbusState::Initialised);
            platform.notify(connected.link.port()); // an answer may be in the page that the life before could not tell of
            connected.was_in_use = !matches!(peer, Some(XenbusState::Initialising | XenbusState::Initialised));
        }
        self.is_put_aside
    }

    /// Gives one device back. One that was taken by force leaves a driver behind that drives whatever comes to its virtual address, so nothing
    /// does while the connection lasts.
    pub(crate) fn release(&mut self, pool: &mut Pool<P>, broker: &mut Broker<P>, address: Sbdf, by_force: bool) {
        self.pacing.charge();
        if let Some(Outcome::Exported(virtual_address)) = self.state.devices.remove(&address)
            && let Some(device) = self.exports.remove(virtual_address, by_force)
        {
            pool.give_back(device, broker);
        }
    }

    /// Gives all devices back.
    pub(crate) fn release_all(&mut self, pool: &mut Pool<P>, broker: &mut Broker<P>) {
        while let Some(address) = self.state.devices.last().map(|(address, _)| *address) {
            self.release(pool, broker, address, false);
        }
    }

    /// Makes the virtual devices new for the next connection.
    pub(crate) fn renew(&mut self) {
        if self.state.is_connected() {
            return;
        }
        self.exports.devices().for_each(PoolDevice::reset);
        let is_failed = |(_, outcome): &(&Sbdf, &Outcome)| matches!(outcome, Outcome::Failed(_));
        while let Some(address) = self.state.devices.iter().find(is_failed).map(|(address, _)| *address) {
            self.state.devices.remove(&address);
        }
        self.state.change_connection(Connection::Renewed);
    }

    /// A device that could not be had may be had now. True when this frontend had wanted it.
    pub(crate) fn forget_failure(&mut self, address: Sbdf) -> bool {
        let failed = matches!(self.state.devices.get(&address), Some(Outcome::Failed(_)));
        if failed {
            self.state.devices.remove(&address);
        }
        failed
    }

    /// Maps the page and binds the port, or notes why not.
    pub(crate) fn connect(&mut self, platform: &P, ports: &mut PortTable, keys: Keys) {
        if self.state.is_connected() {
            return;
        }
        let has_losses = self.exports.devices().any(|device| device.notified == Notified::Toolstack);
        self.state.change_connection(match Link::open(platform, self.domid, keys, has_losses) {
            Ok(link) => {
                ports.insert(link.port(), self.domid);
                Connection::Connected(Connected::new(keys, link))
            }
            Err(failure) => Connection::Refused(Refusal { keys: Ok(keys), failure }),
        });
    }

    /// Notes keys with which no connection is possible.
    pub(crate) fn refuse(&mut self, invalid: InvalidKey) {
        if !self.state.is_connected() {
            let failure = Failure { errno: invalid.errno(), text: invalid.to_string() };
            self.state.change_connection(Connection::Refused(Refusal { keys: Err(invalid), failure }));
        }
    }

    /// Answers what is still in the page, closes the port and unmaps the page. The devices are to be quiesced.
    pub(crate) fn disconnect(&mut self, platform: &P, ports: &mut PortTable, broker: &mut Broker<P>) {
        let Some(Connected { link, .. }) = self.state.disconnect() else { return };
        broker.remove(self.domid);
        for device in self.exports.devices() {
            device.release();
            device.queue_cleanup(broker);
        }
        self.exports.forget_retired();
        ports.remove(link.port());
        link.close(platform);
    }

    /// The devices that were found to be gone and that were not told yet, as one reason for the error node.
    pub(crate) fn take_losses(&mut self, pool: &mut Pool<P>) -> Option<Failure> {
        let mut text = String::new();
        for device in self.exports.devices().filter(|device| device.is_absent() && device.notified == Notified::None) {
            device.notified = Notified::Toolstack;
            let address = device.info().sbdf();
            pool.note_absent(address);
            let separator = if text.is_empty() { "" } else { "; " };
            let loss = device.loss();
            text = format!("{text}{separator}{address} {loss}");
        }
        if text.is_empty() {
            return None;
        }
        if let Some(connected) = self.state.connected_mut() {
            connected.link.await_answer();
        }
        Some(Failure { errno: Errno::ENODEV, text })
    }

    /// One of its devices, by the real address.
    pub(crate) fn device(&mut self, address: Sbdf) -> Option<&mut PoolDevice<P>> {
        match self.state.devices.get(&address)? {
            Outcome::Exported(virtual_address) => self.exports.at(*virtual_address),
            Outcome::Failed(_) => None,
        }
    }

    /// The devices that it has, one after the other: for what concerns all of them, never for a request about one.
    pub(crate) fn devices(&mut self) -> impl Iterator<Item = &mut PoolDevice<P>> {
        self.exports.devices()
    }

    /// How many devices were visited one after the other.
    pub(crate) const fn visited(&self) -> u64 {
        self.exports.visited()
    }
}

fn name(state: Option<xenstore::XenbusState>) -> &'static str {
    state.map_or("nonsense", xenstore::XenbusState::name)
}
