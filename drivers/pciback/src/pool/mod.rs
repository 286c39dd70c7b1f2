//! The devices that dom0 gave us: who has which, and whether it is fit to be lent.

mod device;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};

use litemap::LiteMap;
use xen_types::{DomId, Errno, Sbdf};

use crate::control::signal::Signal;
use crate::device::DeviceInfo;
use crate::platform::Platform;
use crate::xenbus::Failure;
pub(crate) use device::PoolDevice;

/// A device's place in the pool.
enum Place<P: Platform> {
    /// Here, and fit to be lent.
    Free(Box<PoolDevice<P>>),
    /// With this frontend, which holds it.
    With(DomId),
    /// Here by its nodes only: the reason why it cannot be used.
    Refused(String),
    /// Let go, as the tool asked.
    Released,
}

struct Entry<P: Platform> {
    place: Place<P>,
    /// `online`: false when the tool wants it back.
    online: bool,
}

/// What the nodes of a device say.
pub(crate) struct Description {
    /// Everything about it, or what is wrong with the nodes.
    pub(crate) info: Result<DeviceInfo, String>,
    /// `online`.
    pub(crate) online: bool,
}

/// All devices, by their real addresses.
pub(crate) struct Pool<P: Platform> {
    entries: LiteMap<Sbdf, Entry<P>>,
    /// Whose nodes are to be read.
    dirty: LiteMap<Sbdf, ()>,
    all_dirty: bool,
    /// Raised with either.
    pub(crate) signal: Rc<Signal>,
}

impl<P: Platform> Default for Pool<P> {
    fn default() -> Self {
        Self { entries: LiteMap::new(), dirty: LiteMap::new(), all_dirty: false, signal: Signal::new() }
    }
}

/// Whose nodes are to be read.
pub(crate) struct Dirty {
    /// These.
    pub(crate) addresses: LiteMap<Sbdf, ()>,
    /// And all that are in the store.
    pub(crate) all: bool,
}

impl<P: Platform> Pool<P> {
    /// The nodes of one device may have changed, or ought to.
    pub(crate) fn look_at(&mut self, address: Sbdf) {
        self.dirty.insert(address, ());
        self.signal.raise();
    }

    /// As [`Pool::look_at`], but only together with the next look.
    pub(crate) fn mark(&mut self, address: Sbdf) {
        self.dirty.insert(address, ());
    }

    /// The nodes of any device may have changed.
    pub(crate) fn look_at_all(&mut self) {
        self.all_dirty = true;
        self.signal.raise();
    }

    /// What is to be read, once. With `all`, the devices that we know are among the addresses, whether or not they still are
    /// in the store.
    pub(crate) fn take_dirty(&mut self) -> Dirty {
        let mut addresses = core::mem::take(&mut self.dirty);
        let all = core::mem::take(&mut self.all_dirty);
        if all {
            for address in self.entries.keys() {
                addresses.insert(*address, ());
            }
        }
        Dirty { addresses, all }
    }

    /// The nodes of a device are gone.
    pub(crate) fn removed(&mut self, address: Sbdf) {
        if let Some(entry) = self.entries.get_mut(&address) {
            if matches!(entry.place, Place::With(_)) {
                entry.online = false; // it is dropped when it comes back
            } else {
                self.entries.remove(&address);
            }
        }
    }

    /// Brings a device in line with its nodes and says what its `state` shall be.
    pub(crate) fn described(&mut self, platform: &P, address: Sbdf, description: Description) -> String {
        let new = || Entry { place: Place::Released, online: false };
        let entry = self.entries.entry(address).or_insert_with(new);
        entry.online = description.online;
        entry.place = match core::mem::replace(&mut entry.place, Place::Released) {
            Place::With(domid) => Place::With(domid),
            _ if !description.online => Place::Released,
            Place::Free(device) => match &description.info {
                Ok(info) if info == device.info() => inspect(device),
                // Described anew: let go of the old page first.
                info => {
                    drop(device);
                    admit(platform, info)
                }
            },
            Place::Refused(_) | Place::Released => admit(platform, &description.info),
        };
        match &entry.place {
            Place::Free(_) => "free".to_string(),
            Place::With(domid) => format!("lent {domid}"),
            Place::Refused(reason) => format!("refused {reason}"),
            Place::Released => "released".to_string(),
        }
    }

    /// True when a frontend can have the device.
    pub(crate) fn is_free(&self, address: Sbdf) -> bool {
        self.entries.get(&address).is_some_and(|entry| entry.online && matches!(entry.place, Place::Free(_)))
    }

    /// Hands a device to a frontend.
    pub(crate) fn lend(&mut self, address: Sbdf, domid: DomId) -> Result<Box<PoolDevice<P>>, Failure> {
        let fail = |errno, text: &str| Err(Failure { errno, text: format!("{address} {text}") });
        let Some(entry) = self.entries.get_mut(&address) else {
            return fail(Errno::ENODEV, "is not in the pool");
        };
        match &entry.place {
            Place::With(other) => return fail(Errno::EBUSY, &format!("is lent to domain {other}")),
            Place::Refused(reason) => return fail(Errno::EIO, &format!("was refused: {reason}")),
            Place::Released => return fail(Errno::ENODEV, "is not in the pool"),
            Place::Free(_) if !entry.online => return fail(Errno::ENODEV, "is leaving the pool"),
            Place::Free(_) => {}
        }
        match core::mem::replace(&mut entry.place, Place::With(domid)) {
            Place::Free(device) => {
                self.look_at(address);
                Ok(device)
            }
            // Cannot be: it was free a moment ago. If it were, nobody would have the device, which is what this says.
            other => {
                entry.place = other;
                fail(Errno::ENODEV, "is not in the pool")
            }
        }
    }

    /// Takes a device back, looks whether it is as quiet as it must be, and has its nodes read and `state` written.
    pub(crate) fn give_back(&mut self, device: Box<PoolDevice<P>>) {
        let address = device.info().sbdf();
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.place = inspect(device);
        }
        self.look_at(address);
    }
}

/// Maps a device that was described, and looks at it.
fn admit<P: Platform>(platform: &P, info: &Result<DeviceInfo, String>) -> Place<P> {
    let info = match info {
        Ok(info) => info.clone(),
        Err(reason) => return Place::Refused(reason.clone()),
    };
    match platform.map_config(info.ecam()) {
        Ok(window) => match PoolDevice::new(info, window) {
            Ok(device) => inspect(Box::new(device)),
            Err(reason) => Place::Refused(reason),
        },
        Err(errno) => Place::Refused(format!("cannot map its configuration space: {errno}")),
    }
}

/// A device that is here: free, or refused and let go when it is not fit to be lent.
fn inspect<P: Platform>(device: Box<PoolDevice<P>>) -> Place<P> {
    match device.check() {
        Ok(()) => Place::Free(device),
        Err(reason) => Place::Refused(reason),
    }
}
