//! The pool: the devices that dom0 gave us, which guest each is assigned to, and whether it may be assigned.

mod device;
pub(crate) mod device_info;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use litemap::LiteMap;
use pcidom_abi::PoolState;
use xen_types::{DomId, Errno, Sbdf};

use crate::broker_client::Broker;
use crate::handshake::Failure;
use crate::platform::{ConfigWrite as _, Platform};
use crate::rate::Lines;
use crate::requests::Cleanup;
use crate::signal::Signal;
pub(crate) use device::{Notified, PoolDevice, Relay};
pub(crate) use device_info::DeviceInfo;

/// A device's place in the pool.
enum SlotState<P: Platform> {
    /// Here, and fit to be assigned.
    Free(Box<PoolDevice<P>>),
    /// With this frontend, which holds it.
    With(DomId),
    /// Here again from this frontend, and not fit to be assigned before the broker is done with it.
    Leaving(Box<PoolDevice<P>>, DomId),
    /// Here by its nodes only: the reason why it cannot be used.
    Refused(String),
    /// Released, as the tool asked.
    Released,
}

struct Entry<P: Platform> {
    place: SlotState<P>,
    /// `online`: false when the tool wants it back.
    online: bool,
    /// The value of `state` that we wrote last.
    said: String,
    /// It has become free, and who wanted it before has not been told.
    is_news: bool,
    /// It was gone when it was last assigned, and it was not reset since.
    was_absent: bool,
    /// Free only until this guest, which had it before a restart in place, takes it again.
    had_by: Option<DomId>,
    /// A guest that comes and goes moves its devices with it.
    lines: Lines,
}

/// Why the nodes of a device are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// `state` has changed, and perhaps only because we wrote it.
    State,
    /// Anything else.
    Other,
}

/// The nodes of a device.
pub(crate) struct Description {
    /// Everything about it, or what is wrong with the nodes.
    pub(crate) info: Result<DeviceInfo, String>,
    /// `online`.
    pub(crate) online: bool,
    /// `state` is `new`: the tool has seen to it.
    pub(crate) is_new: bool,
    /// While a life before is taken over: the guest that `state` names, and whether the device was absent.
    pub(crate) holder: Option<(DomId, bool)>,
}

/// All devices, by their real addresses.
pub(crate) struct Pool<P: Platform> {
    entries: LiteMap<Sbdf, Entry<P>>,
    dirty: Dirty,
    /// Raised when there is something dirty.
    pub(crate) signal: Rc<Signal>,
    /// Devices that frontends want to take over as they had them, before they were looked at, and how often that was tried.
    awaited: Vec<(Sbdf, u8)>,
    /// Devices must be writable.
    is_direct: bool,
    visited: u64,
}

/// Looks at a device, or at all, of which something cannot be read, before what a life before has left is taken over without.
pub(crate) const LOOKS: u8 = 3;

/// Devices whose nodes must be read.
#[derive(Default)]
pub(crate) struct Dirty {
    /// These, each once.
    pub(crate) addresses: Vec<(Sbdf, Cause)>,
    /// And all that are in the store.
    pub(crate) all: bool,
    /// Or those of them that are not known.
    pub(crate) rest: bool,
}

impl Dirty {
    /// One more device.
    #[inline(never)] // many callers
    pub(crate) fn add(&mut self, address: Sbdf, cause: Cause) {
        match self.addresses.iter_mut().find(|(other, _)| *other == address) {
            Some((_, other)) => *other = cause.max(*other),
            None => self.addresses.push((address, cause)),
        }
    }
}

impl<P: Platform> Pool<P> {
    /// An empty pool. In direct mode only devices whose configuration space can be written are taken in.
    pub(crate) fn new(is_direct: bool) -> Self {
        Self {
            entries: LiteMap::new(),
            dirty: Dirty::default(),
            signal: Signal::new(),
            awaited: Vec::new(),
            is_direct,
            visited: 0,
        }
    }

    /// How many devices there are, in whatever state.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The nodes of one device may have changed, or ought to.
    pub(crate) fn look_at(&mut self, address: Sbdf) {
        self.mark(address);
        self.signal.raise();
    }

    /// The `state` of one device has changed.
    pub(crate) fn look_at_state(&mut self, address: Sbdf) {
        self.dirty.add(address, Cause::State);
        self.signal.raise();
    }

    /// As [`Pool::look_at`], but only together with the next look.
    pub(crate) fn mark(&mut self, address: Sbdf) {
        self.dirty.add(address, Cause::Other);
    }

    /// The nodes of any device may have changed.
    pub(crate) fn look_at_all(&mut self) {
        self.dirty.all = true;
        self.signal.raise();
    }

    /// Devices that nobody has looked at yet, together with the next look.
    pub(crate) fn mark_rest(&mut self) {
        self.dirty.rest = true;
    }

    /// A frontend had this device before a restart in place, and takes it over when it was looked at.
    pub(crate) fn await_device(&mut self, address: Sbdf) {
        if !self.entries.contains_key(&address) && !self.is_awaited(address) {
            self.awaited.push((address, 0));
            self.look_at(address);
        }
    }

    /// Whether that is still to come.
    pub(crate) fn is_awaited(&self, address: Sbdf) -> bool {
        self.awaited.iter().any(|(other, _)| *other == address)
    }

    /// A device was looked at, or xenstored did not answer. True when who has awaited that need not wait longer.
    pub(crate) fn has_looked_at(&mut self, address: Sbdf, is_answered: bool) -> bool {
        let before = self.awaited.len();
        self.awaited.retain_mut(|(other, looks)| {
            *looks += u8::from(*other == address);
            *other != address || !is_answered && *looks <= LOOKS
        });
        self.awaited.len() < before
    }

    /// Whether a device is known.
    pub(crate) fn is_known(&self, address: Sbdf) -> bool {
        self.entries.contains_key(&address)
    }

    /// Takes the devices to read. With `all`, the devices that we know are among the addresses, whether or not they still are
    /// in the store.
    pub(crate) fn take_dirty(&mut self) -> Dirty {
        let mut dirty = core::mem::take(&mut self.dirty);
        if dirty.all {
            self.entries.keys().for_each(|address| dirty.add(*address, Cause::Other));
        }
        dirty
    }

    /// The nodes of a device are gone.
    pub(crate) fn removed(&mut self, address: Sbdf) {
        if let Some(entry) = self.entries.get_mut(&address) {
            if matches!(entry.place, SlotState::With(_) | SlotState::Leaving(..)) {
                entry.online = false; // it is dropped when it comes back
            } else {
                self.entries.remove(&address);
            }
        }
    }

    /// Brings a device in line with its nodes and says what its `state` shall be.
    pub(crate) fn described(&mut self, platform: &P, address: Sbdf, description: Description) -> String {
        let new = || Entry {
            place: SlotState::Released,
            online: false,
            said: String::new(),
            is_news: false,
            was_absent: false,
            had_by: None,
            lines: Lines::NEW,
        };
        let is_known = self.entries.contains_key(&address);
        let entry = self.entries.entry(address).or_insert_with(new);
        if !is_known && let Some((domid, was_absent)) = description.holder {
            entry.had_by = Some(domid);
            entry.was_absent = was_absent;
            entry.place = admit(platform, &description.info, self.is_direct, Some(was_absent));
        }
        entry.online = description.online;
        let was_free = matches!(entry.place, SlotState::Free(_));
        entry.place = match core::mem::replace(&mut entry.place, SlotState::Released) {
            place @ (SlotState::With(_) | SlotState::Leaving(..)) => place,
            place @ SlotState::Free(_) if entry.had_by.is_some() => place,
            _ if !description.online => SlotState::Released,
            SlotState::Free(device) => match &description.info {
                Ok(info) if info == device.info() => inspect(device),
                // Described anew: unmap the old page first.
                info => {
                    drop(device);
                    admit(platform, info, self.is_direct, None)
                }
            },
            // Whatever is there now was not reset.
            place @ SlotState::Refused(_) if entry.was_absent && !description.is_new => place,
            SlotState::Refused(_) | SlotState::Released => admit(platform, &description.info, self.is_direct, None),
        };
        let is_free = matches!(entry.place, SlotState::Free(_)) && entry.had_by.is_none();
        entry.is_news |= !was_free && is_free;
        entry.was_absent &= !is_free;
        let holder = match &entry.place {
            SlotState::With(domid) | SlotState::Leaving(_, domid) => Some(*domid),
            _ => entry.had_by,
        };
        entry.said = match (&entry.place, holder) {
            (SlotState::Refused(reason), _) => PoolState::Refused(reason.clone()),
            (_, Some(domid)) if entry.was_absent => PoolState::Absent(domid),
            (_, Some(domid)) => PoolState::Assigned(domid),
            (SlotState::Released, _) => PoolState::Released,
            _ => PoolState::Free,
        }
        .to_string();
        entry.said.clone()
    }

    /// Says in the log what became of a device. Too much of it is counted instead.
    pub(crate) fn say(&mut self, address: Sbdf, text: &str, now_ns: u64) {
        let Some(unsaid) = self.entries.get_mut(&address).and_then(|entry| entry.lines.take(now_ns)) else { return };
        if unsaid > 0 {
            plain_log::info!("pool: {address}: {unsaid} more lines like these");
        }
        plain_log::info!("pool: {address}: {text}");
    }

    /// True when `state` says what we last wanted it to.
    pub(crate) fn has_said(&self, address: Sbdf, state: Option<&[u8]>) -> bool {
        self.entries.get(&address).is_some_and(|entry| state == Some(entry.said.as_bytes()))
    }

    /// True once after a device has become free: who wanted it before can have it now.
    pub(crate) fn take_news(&mut self, address: Sbdf) -> bool {
        self.entries.get_mut(&address).is_some_and(|entry| core::mem::take(&mut entry.is_news))
    }

    /// Hands a device to a frontend.
    pub(crate) fn assign(&mut self, address: Sbdf, domid: DomId) -> Result<Box<PoolDevice<P>>, Failure> {
        let fail = |errno, text: &str| Err(Failure { errno, text: format!("{address} {text}") });
        let Some(entry) = self.entries.get_mut(&address) else {
            return fail(Errno::ENODEV, "is not in the pool");
        };
        let other = match &entry.place {
            SlotState::With(other) | SlotState::Leaving(_, other) => Some(*other),
            _ => entry.had_by.filter(|other| *other != domid),
        };
        if let Some(other) = other {
            return fail(Errno::EBUSY, &format!("is assigned to domain {other}"));
        }
        match &entry.place {
            SlotState::Refused(reason) => return fail(Errno::EIO, &format!("was refused: {reason}")),
            SlotState::Free(_) if entry.online || entry.had_by.is_some() => {}
            SlotState::Free(_) => return fail(Errno::ENODEV, "is leaving the pool"),
            _ => return fail(Errno::ENODEV, "is not in the pool"),
        }
        let was_had = entry.had_by.take().is_some();
        match core::mem::replace(&mut entry.place, SlotState::With(domid)) {
            SlotState::Free(device) => {
                if !was_had {
                    self.look_at(address); // `state` is to say so; of one that was had before it does
                }
                Ok(device)
            }
            // Cannot be: it was free a moment ago. If it were, no frontend would have the device, which is what this says.
            other => {
                entry.place = other;
                fail(Errno::ENODEV, "is not in the pool")
            }
        }
    }

    /// The frontend that has this device, if one has it.
    pub(crate) fn holder(&self, address: Sbdf) -> Option<DomId> {
        match self.entries.get(&address)?.place {
            SlotState::With(domid) => Some(domid),
            _ => None,
        }
    }

    /// Whether this frontend had it before a restart in place, and has neither let it go nor taken it again.
    #[inline(never)] // once
    pub(crate) fn was_with(&self, address: Sbdf, domid: DomId) -> bool {
        let Some(entry) = self.entries.get(&address) else { return false };
        let is_given_back = matches!(&entry.place, SlotState::Free(device) if device.is_given_back);
        entry.had_by == Some(domid) && !is_given_back
    }

    /// Whether it can be assigned now.
    pub(crate) fn is_free(&self, address: Sbdf) -> bool {
        self.entries
            .get(&address)
            .is_some_and(|entry| entry.online && entry.had_by.is_none() && matches!(entry.place, SlotState::Free(_)))
    }

    /// All guests have taken again what they had before a restart in place: what is left comes back to the pool.
    pub(crate) fn end_adoption(&mut self, broker: &mut Broker<P>) {
        let mut left = Vec::new();
        for (_, entry) in self.entries.iter_mut() {
            let Some(domid) = entry.had_by.take() else { continue };
            entry.place = match core::mem::replace(&mut entry.place, SlotState::With(domid)) {
                SlotState::Free(device) => {
                    left.push(device);
                    continue;
                }
                other => other,
            };
        }
        left.into_iter().for_each(|device| self.give_back(device, broker));
    }

    /// A device that is assigned is gone.
    pub(crate) fn note_absent(&mut self, address: Sbdf) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.was_absent = true;
            self.look_at(address);
        }
    }

    /// A device that is assigned answers again, after it was gone or not.
    pub(crate) fn note_present(&mut self, address: Sbdf) {
        if let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.was_absent) {
            entry.was_absent = false;
            self.look_at(address);
        }
    }

    /// Takes a device back. One that was in use is quiesced first. Then it is checked whether it is quiesced, and its nodes
    /// are read and `state` is written.
    pub(crate) fn give_back(&mut self, mut device: Box<PoolDevice<P>>, broker: &mut Broker<P>) {
        device.give_back();
        device.queue_cleanup(broker);
        let address = device.info().sbdf();
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.place = match entry.place {
                SlotState::With(domid) if device.cleanup != Cleanup::None => SlotState::Leaving(device, domid),
                _ => inspect(device),
            };
            entry.is_news = matches!(entry.place, SlotState::Free(_));
        }
        self.look_at(address);
    }

    /// All devices that are to be quiesced, one after the other.
    pub(crate) fn all_leaving(&mut self) -> impl Iterator<Item = &mut PoolDevice<P>> {
        if cfg!(debug_assertions) {
            self.visited += self.entries.len() as u64;
        }
        self.entries.iter_mut().filter_map(|(_, entry)| match &mut entry.place {
            SlotState::Leaving(device, _) => Some(&mut **device),
            _ => None,
        })
    }

    /// How many devices were visited one after the other so far. Counted where assertions are on.
    pub(crate) const fn visited(&self) -> u64 {
        self.visited
    }

    /// A device that is to be quiesced.
    pub(crate) fn leaving(&mut self, address: Sbdf) -> Option<&mut PoolDevice<P>> {
        match &mut self.entries.get_mut(&address)?.place {
            SlotState::Leaving(device, _) => Some(device),
            _ => None,
        }
    }

    /// Takes a device back that nothing is to be done about any more. Not while the broker is at work on it.
    pub(crate) fn settle(&mut self, address: Sbdf) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        let is_done = matches!(&entry.place, SlotState::Leaving(device, _) if device.cleanup == Cleanup::None);
        if is_done && let SlotState::Leaving(device, _) = core::mem::replace(&mut entry.place, SlotState::Released) {
            entry.place = inspect(device);
            entry.is_news = matches!(entry.place, SlotState::Free(_));
            self.look_at(address);
        }
    }

    /// Takes back a device that the frontend could not use after all. That is no news: it would only ask again.
    pub(crate) fn decline(&mut self, device: Box<PoolDevice<P>>) {
        if let Some(entry) = self.entries.get_mut(&device.info().sbdf()) {
            entry.place = SlotState::Free(device);
        }
    }
}

/// Maps a device that was described, and looks at it.
/// With `recalled` it is taken as it is: a guest had it before a restart in place, and it was absent or not.
fn admit<P: Platform>(
    platform: &P,
    info: &Result<DeviceInfo, String>,
    is_direct: bool,
    recalled: Option<bool>,
) -> SlotState<P> {
    let info = match info {
        Ok(info) => info.clone(),
        Err(reason) => return SlotState::Refused(reason.clone()),
    };
    match platform.map_config(info.ecam(), is_direct) {
        Ok(page) if is_direct && !page.is_writable() => {
            SlotState::Refused("direct mode needs mmcfg=0 on Xen's command line".to_string())
        }
        Ok(page) => {
            let mut device = Box::new(PoolDevice::new(info, page));
            if let Some(was_absent) = recalled {
                device.recall(was_absent, platform.now_ns());
                return SlotState::Free(device);
            }
            inspect(device)
        }
        Err(errno) => SlotState::Refused(format!("cannot map its configuration space: {errno}")),
    }
}

/// A device that is here: free, or refused and unmapped when it is not fit to be assigned.
fn inspect<P: Platform>(mut device: Box<PoolDevice<P>>) -> SlotState<P> {
    match device.check() {
        Ok(()) => {
            device.found_quiesced();
            SlotState::Free(device)
        }
        Err(reason) => SlotState::Refused(reason),
    }
}
