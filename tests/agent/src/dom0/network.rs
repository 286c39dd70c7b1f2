//! The network between dom0 and guests: QEMU's cable between the cards that guests get and the one that dom0 keeps.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};

use super::{fixture::Fixture, guests::Domain};
use crate::transfer::Peer;

/// dom0's address, and that of the one guest that is on the network at a time.
const DOM0: &str = "192.168.77.1";
const GUEST: &str = "192.168.77.2";

impl Fixture {
    /// Brings a guest's interface and dom0's up, and waits until they have a link.
    pub(crate) fn connect(&mut self, guest: &Domain, interface: &str) -> Result<()> {
        let names: Vec<String> = fs::read_dir("/sys/class/net")?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name != "lo")
            .collect();
        let [ours] = &names[..] else { bail!("dom0's interfaces are {names:?}") };
        self.run("ifconfig", &[ours, DOM0, "up"])?;
        let carrier = format!("/sys/class/net/{interface}/carrier");
        let command = format!(
            "ifconfig {interface} {GUEST} up; for i in $(seq 100); do [ \"$(cat {carrier})\" = 1 ] && exit 0; usleep 100000; done; exit 1"
        );
        self.in_guest(guest, &command).with_context(|| format!("{interface} got no link"))?;
        Ok(())
    }

    /// Pings dom0 so often, each as soon as the last was answered; all must be.
    pub(crate) fn ping(&mut self, guest: &Domain, count: u32) -> Result<()> {
        // The first answer may take as long as ARP does.
        let output =
            self.in_guest(guest, &format!("ping -c 1 -W 5 {DOM0} >/dev/null; ping -q -A -W 5 -c {count} {DOM0}"))?;
        let output = String::from_utf8_lossy(&output);
        ensure!(output.contains(&format!(" {count} packets received")), "{}", output.trim());
        let times = output.lines().last().unwrap_or_default();
        println!("agent: {count} pings from {}: {times}", guest.name);
        Ok(())
    }

    /// Moves so much data from a guest to dom0 and as much back. `meanwhile` runs in dom0 while data moves.
    pub(crate) fn transfer(
        &mut self,
        guest: &Domain,
        mib: u64,
        meanwhile: impl FnOnce(&mut Self, &Peer) -> Result<()>,
    ) -> Result<()> {
        let peer = Peer::listen()?;
        let request = self.ask(guest, &format!("transfer {DOM0} {} {mib}", seed()?))?;
        let outcome = meanwhile(self, &peer);
        let said = self.answer_well(&request)?;
        println!("agent: {}", String::from_utf8_lossy(&said));
        outcome?;
        ensure!(peer.received() == mib << 20, "{} bytes arrived", peer.received());
        peer.finish().context("in dom0")
    }
}

/// Another one each time.
pub(crate) fn seed() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos().try_into()?)
}
