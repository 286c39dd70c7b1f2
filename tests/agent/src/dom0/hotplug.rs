//! Guests that get and lose devices while they run.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

use super::{
    devices::{PORT, component, sysfs},
    fixture::Fixture,
    guests::{Domain, GuestOptions},
};

/// A device in a guest's directory, by its number there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) device: String,
    /// `state-N`.
    pub(crate) state: String,
    /// `vdev-N`, as the stub writes it: `0000:00:00.00`.
    pub(crate) vdev: String,
}

impl Fixture {
    /// A running guest of this name, whatever devices it has; created without any where there is none.
    pub(crate) fn running(&mut self, name: &str) -> Result<Domain> {
        if let Some(guest) = self.domains.iter().find(|domain| domain.name == name) {
            return Ok(guest.clone());
        }
        let guest = self.create_guest(name, GuestOptions::default())?;
        self.unpause(&guest)?;
        Ok(guest)
    }

    /// A running guest of this name that has exactly these devices: what it lacks is attached, what it has too many is detached.
    pub(crate) fn having(&mut self, name: &str, devices: &[&str]) -> Result<Domain> {
        self.broker()?;
        self.stub()?;
        let guest = self.running(name)?;
        let there: Vec<String> = self.entries(&guest)?.into_iter().map(|entry| entry.device).collect();
        let surplus: Vec<&str> = there.iter().map(String::as_str).filter(|device| !devices.contains(device)).collect();
        if !surplus.is_empty() {
            self.detach(&guest, &surplus)?;
        }
        let missing: Vec<&str> =
            devices.iter().copied().filter(|device| !there.iter().any(|other| other == device)).collect();
        if !missing.is_empty() {
            for device in &missing {
                self.in_pool(device)?;
            }
            self.attach(&guest, &missing)?;
        }
        Ok(guest)
    }

    /// Puts a device into the pool, if it is not there, and sees to it that no guest has it.
    pub(crate) fn in_pool(&mut self, device: &str) -> Result<()> {
        let stub = self.stub()?;
        let owner = self.store.text(&format!("/tool/pcidom/device/{}/frontend", component(device)))?;
        if let Some(guest) = owner {
            let taken = self.pcidom(&["detach", &guest, device]);
            // A guest that has just ended: the broker has begun to take its devices back.
            if self.store.text(&format!("/local/domain/{guest}/domid"))?.is_some() {
                taken?;
            } else {
                self.pcidom(&["reclaim"])?;
            }
        }
        if self.pool_state(&stub, device)?.is_none() {
            self.pcidom(&["assignable", "add", device])?;
        }
        self.expect_free(device)
    }

    /// Gives devices to a running guest.
    pub(crate) fn attach(&mut self, guest: &Domain, devices: &[&str]) -> Result<()> {
        self.pcidom(&[&["attach", &*guest.name], devices].concat())?;
        self.expect_connected(guest)
    }

    /// Takes devices from a guest, which lets go of them.
    pub(crate) fn detach(&mut self, guest: &Domain, devices: &[&str]) -> Result<()> {
        self.pcidom(&[&["detach", &*guest.name], devices].concat())?;
        devices.iter().try_for_each(|device| self.expect_free(device))
    }

    /// The device is in the pool, and nobody has it.
    pub(crate) fn expect_free(&mut self, device: &str) -> Result<()> {
        let stub = self.stub()?;
        let state = self.pool_state(&stub, device)?;
        ensure!(state.as_deref() == Some("free"), "{device} is {state:?}, not free");
        let owner = self.store.text(&format!("/tool/pcidom/device/{}/frontend", component(device)))?;
        ensure!(owner.is_none(), "the table says that domain {owner:?} has {device}");
        Ok(())
    }

    /// The backend's directory for a guest.
    pub(crate) fn backend(&mut self, guest: &Domain) -> Result<String> {
        Ok(self.stub()?.node(&format!("backend/pci/{}/0", guest.id)))
    }

    /// The states of backend and frontend, as two words.
    pub(crate) fn ends(&mut self, guest: &Domain) -> Result<(String, String)> {
        let backend = self.backend(guest)?;
        let back = self.store.text(&format!("{backend}/state"))?.unwrap_or_default();
        Ok((back, self.store.text(&guest.node("device/pci/0/state"))?.unwrap_or_default()))
    }

    /// Both ends are Connected, now.
    pub(crate) fn expect_connected(&mut self, guest: &Domain) -> Result<()> {
        let (back, front) = self.ends(guest)?;
        ensure!(
            (&*back, &*front) == ("4", "4"),
            "{} is not connected: backend {back:?}, frontend {front:?}",
            guest.name
        );
        Ok(())
    }

    /// Waits until a guest's frontend has a state.
    pub(crate) fn await_frontend(&mut self, guest: &Domain, wanted: &str) -> Result<()> {
        let deadline = self.deadline;
        self.store.wait_for(&guest.node("device/pci/0/state"), deadline, |state| state == Some(wanted))?;
        Ok(())
    }

    /// Waits until the backend has a state for a guest.
    pub(crate) fn await_backend(&mut self, guest: &Domain, wanted: &str) -> Result<()> {
        let (node, deadline) = (format!("{}/state", self.backend(guest)?), self.deadline);
        self.store.wait_for(&node, deadline, |state| state == Some(wanted))?;
        Ok(())
    }

    /// The devices in a guest's directory, in the order of their numbers.
    pub(crate) fn entries(&mut self, guest: &Domain) -> Result<Vec<Entry>> {
        let dir = self.backend(guest)?;
        let count: u32 = self.store.text(&format!("{dir}/num_devs"))?.as_deref().unwrap_or("0").parse()?;
        let mut node = |name: String| anyhow::Ok(self.store.text(&format!("{dir}/{name}"))?.unwrap_or_default());
        (0..count)
            .map(|index| {
                Ok(Entry {
                    device: node(format!("dev-{index}"))?,
                    state: node(format!("state-{index}"))?,
                    vdev: node(format!("vdev-{index}"))?,
                })
            })
            .collect()
    }

    /// What the stub reported about a guest's devices.
    pub(crate) fn error_text(&mut self, guest: &Domain) -> Result<String> {
        let node = self.stub()?.node(&format!("error/backend/pci/{}/0/error", guest.id));
        Ok(self.store.text(&node)?.unwrap_or_default())
    }

    /// The guest's kernel knows exactly these devices, each with the ids of the real one, now read by way of the stub.
    pub(crate) fn expect_in_guest(&mut self, guest: &Domain, devices: &[&str]) -> Result<()> {
        let entries = self.entries(guest)?;
        let listed: Vec<&str> = entries.iter().map(|entry| &*entry.device).collect();
        ensure!(listed == devices, "the directory has {listed:?}, not {devices:?}");
        let mut wanted = Vec::new();
        for device in devices {
            let address = self.virtual_address(guest, device)?;
            wanted.push(format!("{address} {}", self.ids(device)?));
        }
        wanted.sort();
        let found = self.in_guest(
            guest,
            "cd /sys/bus/pci/devices; for d in *; do [ -e $d ] && echo $d $(dd if=$d/config bs=4 count=1 2>/dev/null | hexdump -v -e '1/1 \"%02x\"'); done; true",
        )?;
        let found = String::from_utf8_lossy(&found).into_owned();
        let found: Vec<&str> = found.lines().collect();
        ensure!(found == wanted, "the guest has {found:?}, not {wanted:?}");
        Ok(())
    }

    /// A guest reads the ids of a device of its own.
    pub(crate) fn expect_readable(&mut self, guest: &Domain, device: &str) -> Result<()> {
        let address = self.virtual_address(guest, device)?;
        let (found, wanted) = (self.ids_in(guest, &address)?, self.ids(device)?);
        ensure!(found == wanted, "{} reads {found} from {device}, not {wanted}", guest.name);
        Ok(())
    }

    /// What a guest reads in the first four bytes of a device's configuration space, as digits.
    pub(crate) fn ids_in(&mut self, guest: &Domain, address: &str) -> Result<String> {
        let config = sysfs(address);
        let read = format!("dd if={config}/config bs=4 count=1 2>/dev/null | hexdump -v -e '1/1 \"%02x\"'");
        Ok(String::from_utf8_lossy(&self.in_guest(guest, &read)?).into_owned())
    }

    /// The first four bytes of a device's configuration space, as digits.
    fn ids(&self, device: &str) -> Result<String> {
        let config = super::devices::config(device)?;
        Ok(config.get(..4).context("an empty configuration space")?.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Makes the device behind the port invisible, as if it had been pulled out, until dropped: the port then leads to another bus. dom0's
/// kernel notices nothing.
pub(crate) struct Hidden {
    bus: [u8; 1],
}

impl Hidden {
    /// The port's register for the number of the bus behind it (PCI-to-PCI bridge specification, "Secondary Bus Number").
    const SECONDARY_BUS: u64 = 0x19;
    /// A number that nothing looks for.
    const NOWHERE: [u8; 1] = [0xfe];

    /// Pulls it out.
    pub(crate) fn new() -> Result<Self> {
        let mut bus = [0];
        let config = OpenOptions::new().read(true).write(true).open(format!("{}/config", sysfs(PORT)))?;
        config.read_exact_at(&mut bus, Self::SECONDARY_BUS)?;
        config.write_all_at(&Self::NOWHERE, Self::SECONDARY_BUS)?;
        Ok(Self { bus })
    }

    /// Resets what is behind the port: the device forgets its addresses and what was turned on.
    pub(crate) fn reset(&self) -> Result<()> {
        /// Bridge Control and its Secondary Bus Reset.
        const BRIDGE_CONTROL: u64 = 0x3e;
        const RESET: u8 = 1 << 6;
        let config = OpenOptions::new().read(true).write(true).open(format!("{}/config", sysfs(PORT)))?;
        let mut control = [0; 2];
        config.read_exact_at(&mut control, BRIDGE_CONTROL)?;
        let [low, high] = control;
        for control in [[low | RESET, high], [low, high]] {
            config.write_all_at(&control, BRIDGE_CONTROL)?;
        }
        Ok(())
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let config = OpenOptions::new().write(true).open(format!("{}/config", sysfs(PORT)));
        if let Err(error) = config.and_then(|config| config.write_all_at(&self.bus, Self::SECONDARY_BUS)) {
            println!("agent: putting a device back: {error}");
        }
    }
}
