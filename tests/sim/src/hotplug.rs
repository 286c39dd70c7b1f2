//! The toolstack's part of hotplug.

use xen_types::{DomId, Sbdf};

use crate::tool::{SimTool, remove_if_there};
use xenstored::{Direct, Refusal};

/// What moves down with an entry, as libxl moves it (docs/protocol.md §1.3).
const MOVED: [&str; 6] = ["state", "dev", "key", "vdev", "opts", "vdevfn"];

impl SimTool {
    /// Appends devices, each with the slot that the admin would like, and has both sides reconfigure if the guest is connected.
    pub fn hot_attach(&self, guest: DomId, devices: &[(Sbdf, Option<u8>)]) {
        self.assign(guest, devices.iter().map(|(device, _)| *device));
        self.change(|store| {
            self.append(store, guest, devices)?;
            self.reconfigure(store, guest)
        });
    }

    /// Marks devices as leaving and has both sides reconfigure.
    pub fn hot_detach(&self, guest: DomId, devices: &[Sbdf]) {
        self.hot_change(guest, &[], devices);
    }

    /// Both at once.
    pub fn hot_change(&self, guest: DomId, attach: &[(Sbdf, Option<u8>)], detach: &[Sbdf]) {
        self.assign(guest, attach.iter().map(|(device, _)| *device));
        self.change(|store| {
            self.set_states(store, guest, detach, "5")?;
            self.append(store, guest, attach)?;
            self.reconfigure(store, guest)
        });
    }

    /// True when the change is over: both at 4, and each entry at the end of its way.
    #[must_use]
    pub fn is_settled(&self, guest: DomId) -> bool {
        let is_at_4 = |path: String| self.read(&path).as_deref() == Some("4");
        is_at_4(format!("{}/state", self.backend_dir(guest)))
            && is_at_4(format!("{}/state", Self::frontend_dir(guest)))
            && self.entries(guest).iter().all(|(_, state)| state != "1")
    }

    /// The devices in the entries of a guest, with their states.
    #[must_use]
    pub fn entries(&self, guest: DomId) -> Vec<(Sbdf, String)> {
        let node = |name: String| self.backend(guest, &name).unwrap_or_default();
        let count = node("num_devs".to_string()).parse().unwrap_or(0);
        let entry = |index: u32| {
            let address = node(format!("dev-{index}")).parse().expect("an address that the tool wrote");
            (address, node(format!("state-{index}")))
        };
        (0..count).map(entry).collect()
    }

    /// Removes the entries of devices and moves those behind them down, as one.
    pub fn remove_entries(&self, guest: DomId, devices: &[Sbdf]) {
        self.change(|store| self.shift(store, guest, devices));
    }

    /// The guest has not answered in time: nothing is attached.
    pub fn roll_back_attach(&self, guest: DomId, devices: &[Sbdf]) {
        self.change(|store| {
            self.shift(store, guest, devices)?;
            self.back_to_4(store, guest)
        });
    }

    /// The guest has not answered in time: nothing is detached.
    pub fn roll_back_detach(&self, guest: DomId, devices: &[Sbdf]) {
        self.change(|store| {
            self.set_states(store, guest, devices, "3")?;
            self.back_to_4(store, guest)
        });
    }

    fn append(&self, store: &mut Direct<'_>, guest: DomId, devices: &[(Sbdf, Option<u8>)]) -> Result<(), Refusal> {
        let first = self.count(store, guest)?;
        let mut count = first;
        for (address, slot) in devices {
            self.write_device(store, guest, count, *address)?;
            if let Some(slot) = slot {
                let devfn = slot << 3 | address.function();
                store.write(&format!("{}/vdevfn-{count}", self.backend_dir(guest)), format!("{devfn:x}"))?;
            }
            count += 1;
        }
        self.set_count(store, guest, count)
    }

    fn shift(&self, store: &mut Direct<'_>, guest: DomId, devices: &[Sbdf]) -> Result<(), Refusal> {
        let dir = self.backend_dir(guest);
        let mut count = self.count(store, guest)?;
        for device in devices {
            let index = self.find(store, guest, *device)?;
            for below in index..count - 1 {
                for name in MOVED {
                    match store.read(&format!("{dir}/{name}-{}", below + 1)) {
                        Ok(value) => store.write(&format!("{dir}/{name}-{below}"), value)?,
                        Err(_) => remove_if_there(store, &format!("{dir}/{name}-{below}"))?,
                    }
                }
            }
            count -= 1;
            for name in MOVED {
                remove_if_there(store, &format!("{dir}/{name}-{count}"))?;
            }
        }
        self.set_count(store, guest, count)
    }

    fn set_states(&self, store: &mut Direct<'_>, guest: DomId, devices: &[Sbdf], state: &str) -> Result<(), Refusal> {
        for device in devices {
            let index = self.find(store, guest, *device)?;
            store.write(&format!("{}/state-{index}", self.backend_dir(guest)), state)?;
        }
        Ok(())
    }

    /// 7, where both sides are done with what was before.
    fn reconfigure(&self, store: &mut Direct<'_>, guest: DomId) -> Result<(), Refusal> {
        let path = format!("{}/state", self.backend_dir(guest));
        if store.read(&path)? == "4" { store.write(&path, "7") } else { Ok(()) }
    }

    fn back_to_4(&self, store: &mut Direct<'_>, guest: DomId) -> Result<(), Refusal> {
        let path = format!("{}/state", self.backend_dir(guest));
        if store.read(&path)? == "7" { store.write(&path, "4") } else { Ok(()) }
    }

    fn count(&self, store: &mut Direct<'_>, guest: DomId) -> Result<u32, Refusal> {
        let count = store.read(&format!("{}/num_devs", self.backend_dir(guest)))?;
        Ok(count.parse().expect("a number that the tool wrote"))
    }

    fn set_count(&self, store: &mut Direct<'_>, guest: DomId, count: u32) -> Result<(), Refusal> {
        store.write(&format!("{}/num_devs", self.backend_dir(guest)), count.to_string())
    }

    fn find(&self, store: &mut Direct<'_>, guest: DomId, device: Sbdf) -> Result<u32, Refusal> {
        let dir = self.backend_dir(guest);
        for index in 0..self.count(store, guest)? {
            if store.read(&format!("{dir}/dev-{index}"))? == device.to_string() {
                return Ok(index);
            }
        }
        Err(Refusal::NoSuchNode)
    }
}
