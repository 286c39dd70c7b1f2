//! The stub and its pool, brought up where a case needs them.

use std::fs;

use anyhow::{Context, Result};

use super::{
    devices::{self, component},
    fixture::Fixture,
    guests::{Domain, GuestOptions},
};

/// The name that the tool looks for.
pub(crate) const NAME: &str = "pcidom";

impl Fixture {
    /// The stub, created from the example configuration and ready to serve.
    pub(crate) fn stub(&mut self) -> Result<Domain> {
        if let Some(stub) = self.domains.iter().find(|domain| domain.name == NAME) {
            return Ok(stub.clone());
        }
        self.start_stub(NAME, "")
    }

    /// A new stub of this name, with more words on its command line.
    pub(crate) fn start_stub(&mut self, name: &str, words: &str) -> Result<Domain> {
        self.start_stub_with(name, words, "")
    }

    /// As [`Fixture::start_stub`], with more lines in its configuration.
    pub(crate) fn start_stub_with(&mut self, name: &str, words: &str, lines: &str) -> Result<Domain> {
        let example = fs::read_to_string("/etc/xen/pcidom.cfg")?;
        // What comes later counts.
        let config = format!("{example}\nname = \"{name}\"\nextra = \"export=vpci log=info {words}\"\n{lines}");
        let stub = self.create_paused(name, &config)?;
        self.xl(&["unpause", name])?;
        let deadline = self.deadline;
        self.store.wait_for(&stub.node("data/pcidom/version"), deadline, |value| {
            value.is_some_and(|text| !text.is_empty())
        })?;
        Ok(stub)
    }

    /// The stub with all devices in its pool.
    pub(crate) fn stub_with_pool(&mut self) -> Result<Domain> {
        let stub = self.stub()?;
        for device in devices::ALL {
            if self.pool_state(&stub, device)?.is_none() {
                self.pcidom(&["assignable", "add", device])?;
            }
        }
        Ok(stub)
    }

    /// The device's `state` in the pool, `None` where it is not in it.
    pub(crate) fn pool_state(&mut self, stub: &Domain, device: &str) -> Result<Option<String>> {
        self.store.text(&stub.node(&format!("pool/{}/state", component(device))))
    }

    /// A running guest of this name that has exactly these devices, created where there is none.
    pub(crate) fn guest_with(&mut self, name: &str, devices: &[&str]) -> Result<Domain> {
        if let Some(guest) = self.domains.iter().find(|domain| domain.name == name) {
            return Ok(guest.clone());
        }
        let stub = self.stub_with_pool()?;
        for device in devices {
            // A guest of an earlier case may still have it.
            self.free(device)?;
            if self.pool_state(&stub, device)?.is_none() {
                self.pcidom(&["assignable", "add", device])?;
            }
        }
        let guest = self.create_guest(name, GuestOptions::default())?;
        self.pcidom(&[&["attach", name], devices].concat())?;
        self.unpause(&guest)?;
        let deadline = self.deadline;
        let state = guest.node("device/pci/0/state");
        self.store.wait_for(&state, deadline, |state| state == Some("4")).context("the guest did not connect")?;
        Ok(guest)
    }

    /// The address that a guest sees for a device, as the stub announced it (`vdev-N` beside `dev-N`).
    pub(crate) fn virtual_address(&mut self, guest: &Domain, device: &str) -> Result<String> {
        let stub = self.stub()?;
        let dir = stub.node(&format!("backend/pci/{}/0", guest.id));
        let count: u32 = self.store.text(&format!("{dir}/num_devs"))?.context("no num_devs")?.parse()?;
        for index in 0..count {
            if self.store.text(&format!("{dir}/dev-{index}"))?.as_deref() == Some(device) {
                let address = self.store.text(&format!("{dir}/vdev-{index}"))?.context("no vdev")?;
                // Two digits for the function (`0000:00:00.00`), where sysfs has one.
                let (slot, function) =
                    address.split_once('.').with_context(|| format!("vdev-{index} is {address:?}"))?;
                return Ok(format!("{slot}.{:x}", u8::from_str_radix(function, 16)?));
            }
        }
        anyhow::bail!("{device} is not among the devices of {}", guest.name)
    }

    /// The addresses of all PCI devices that a guest's kernel found.
    pub(crate) fn addresses_in(&mut self, guest: &Domain) -> Result<Vec<String>> {
        let listing = self.in_guest(guest, "ls /sys/bus/pci/devices")?;
        Ok(String::from_utf8_lossy(&listing).split_whitespace().map(str::to_owned).collect())
    }
}
