//! Guests that are one small image (`tests/guests/frontend`), with the driver of another system.

use std::fs;

use anyhow::{Context, Result};

use super::{
    devices::{self, attribute},
    fixture::Fixture,
    guests::{Domain, example_without},
};

/// What such a guest says of a device: its ids in one word, and its first BAR.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub(crate) address: String,
    pub(crate) ids: u32,
    pub(crate) bar: u32,
}

impl Found {
    /// What a device is in dom0, as it must be found at this address.
    pub(crate) fn expected(device: &str, address: &str) -> Result<Self> {
        let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16);
        let resources = attribute(device, "resource")?;
        let bar = resources.split_whitespace().next().context("no resources")?;
        Ok(Self { address: address.to_owned(), ids: devices::ids(device)?, bar: hex(bar)?.try_into()? })
    }
}

/// The configuration of such a guest, with `driver` one that the image knows.
fn configuration(name: &str, driver: &str) -> Result<String> {
    let mut config = example_without(&["kernel", "ramdisk"])?;
    config += &format!(
        "name = \"{name}\"\nkernel = \"/usr/lib/xen/boot/frontend.elf\"\nextra = \"driver={driver}\"\nmemory = 1\n\
         on_crash = \"destroy\"\n"
    );
    Ok(config)
}

/// Writes that configuration to a file. Which one.
pub(crate) fn configure(name: &str, driver: &str) -> Result<String> {
    let file = format!("/tmp/{name}.cfg");
    fs::write(&file, configuration(name, driver)?)?;
    Ok(file)
}

impl Fixture {
    /// Creates such a guest, with `driver` one that the image knows, and leaves it paused.
    pub(crate) fn create_small(&mut self, name: &str, driver: &str) -> Result<Domain> {
        self.create_paused(name, &configuration(name, driver)?)
    }

    /// The devices that such a guest has, in the order of their addresses.
    pub(crate) fn found_by(&mut self, guest: &Domain) -> Result<Vec<Found>> {
        let listing = String::from_utf8(self.in_guest(guest, "found")?)?;
        let line = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let [address, ids, bar] = words[..] else { anyhow::bail!("{} finds {line:?}", guest.name) };
            let number = |text| u32::from_str_radix(text, 16);
            Ok(Found { address: address.to_owned(), ids: number(ids)?, bar: number(bar)? })
        };
        let mut found = listing.lines().map(line).collect::<Result<Vec<_>>>()?;
        found.sort();
        Ok(found)
    }
}
