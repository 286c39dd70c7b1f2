//! Drivers in guests at work on their devices.

use anyhow::{Context, Result, bail, ensure};

use super::{
    devices::{component, sysfs},
    fixture::Fixture,
    guests::Domain,
};

/// An interrupt of a guest's driver, as its kernel counts it.
#[derive(Debug)]
pub(crate) struct GuestInterrupt {
    /// Kind of interrupt: `pcifront` (a pin), `pcifront-msi` or `pcifront-msi-x`.
    pub(crate) kind: String,
    /// Who asked for it.
    pub(crate) name: String,
    pub(crate) count: u64,
}

impl Fixture {
    /// The interrupts of drivers in a guest whose names start with `prefix`.
    pub(crate) fn interrupts_in(&mut self, guest: &Domain, prefix: &str) -> Result<Vec<GuestInterrupt>> {
        let table = self.in_guest(guest, "cat /proc/interrupts")?;
        let table = String::from_utf8_lossy(&table);
        let mut found = Vec::new();
        for line in table.lines() {
            // NUMBER: COUNT xen-pirq -KIND NAME, with one count as guests have one CPU.
            if let [_, count, "xen-pirq", kind, name] = line.split_whitespace().collect::<Vec<_>>()[..]
                && name.starts_with(prefix)
            {
                let kind = kind.trim_start_matches('-').to_owned();
                found.push(GuestInterrupt { kind, name: name.to_owned(), count: count.parse()? });
            }
        }
        Ok(found)
    }

    /// Words of the device's `vectors` node.
    pub(crate) fn vectors_of(&mut self, device: &str) -> Result<Vec<String>> {
        let node = vectors_node(device);
        let text = self.store.text(&node)?.unwrap_or_else(|| "none".to_owned());
        Ok(text.split(' ').map(str::to_owned).collect())
    }

    /// The network interface that a guest's driver made of a device.
    pub(crate) fn interface_in(&mut self, guest: &Domain, device: &str) -> Result<String> {
        let address = self.virtual_address(guest, device)?;
        let listing = self.in_guest(guest, &format!("ls {}/net", sysfs(&address)))?;
        let listing = String::from_utf8_lossy(&listing);
        match listing.split_whitespace().collect::<Vec<_>>()[..] {
            [name] => Ok(name.to_owned()),
            _ => bail!("{device} is {listing:?}"),
        }
    }

    /// Waits for a block device in a guest.
    pub(crate) fn await_disk(&mut self, guest: &Domain, disk: &str) -> Result<()> {
        let wait = format!("for i in $(seq 100); do [ -b {disk} ] && exit 0; usleep 100000; done; exit 1");
        self.in_guest(guest, &wait).with_context(|| format!("no {disk} appeared"))?;
        Ok(())
    }

    /// A guest's interrupts, which must be of one kind and at least so many.
    pub(crate) fn check_kind(
        &mut self,
        guest: &Domain,
        prefix: &str,
        kind: &str,
        count: usize,
    ) -> Result<Vec<GuestInterrupt>> {
        let found = self.interrupts_in(guest, prefix)?;
        ensure!(found.len() >= count, "{} interrupts for {prefix}, not {count}: {found:?}", found.len());
        ensure!(found.iter().all(|interrupt| interrupt.kind == kind), "not all by {kind}: {found:?}");
        Ok(found)
    }
}

/// Where the broker notes a device's vectors.
pub(crate) fn vectors_node(device: &str) -> String {
    format!("/tool/pcidom/device/{}/vectors", component(device))
}
