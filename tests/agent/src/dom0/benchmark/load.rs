//! Reads while seven other guests read as fast as they can.

use std::time::Duration;

use anyhow::Result;

use super::{Session, contestant::Contestant, guests::guest_config};
use crate::{dom0::guests::Domain, process};

/// One device for each (`tests/bench/src/boot.rs`).
const DEVICES: [&str; 7] =
    ["0000:00:0b.0", "0000:00:0c.0", "0000:00:0d.0", "0000:00:0e.0", "0000:00:0f.0", "0000:00:10.0", "0000:00:11.0"];
/// Longer than the reads that are measured take.
const MILLISECONDS: u32 = 20_000;
/// Bringing eight guests up takes most of it.
const LIMIT: Duration = Duration::from_mins(15);
/// Fewer rounds than elsewhere, because of that.
const ROUNDS: u32 = 2;

impl Session<'_> {
    /// Measures both, in turn.
    pub(super) fn noise(&mut self) -> Result<()> {
        self.fixture.set_limit(LIMIT);
        let measured = self.measured_guest("measured", "")?;
        let mut others = Vec::new();
        for index in 0..DEVICES.len() {
            let name = format!("other{index}");
            let guest = self.fixture.create_paused(&name, &guest_config(&name, "memory = 192\n")?)?;
            self.fixture.unpause(&guest)?;
            others.push(guest);
        }
        for round in 0..ROUNDS {
            self.round = round;
            for who in [Contestant::Pciback, Contestant::Pcidom] {
                self.who = who;
                self.fixture.set_limit(LIMIT);
                self.noisy_turn(&measured, &others)?;
            }
        }
        for guest in others.iter().chain([&measured]) {
            self.fixture.destroy(guest)?;
        }
        Ok(())
    }

    fn noisy_turn(&mut self, measured: &Domain, others: &[Domain]) -> Result<()> {
        self.enter()?;
        self.measure_attach(measured)?;
        for (guest, device) in others.iter().zip(DEVICES) {
            self.make_assignable(device)?;
            process::check(&mut self.who.attach(guest, device), self.fixture.deadline)?;
        }
        let file = Self::config_file();
        for guest in others {
            // `xl pci-attach` does not wait for the guest.
            self.fixture.in_guest(guest, &format!("until [ -e {file} ]; do sleep 1; done"))?;
        }
        let reading = format!("read-latency {file} 4 {MILLISECONDS}");
        let requests = others.iter().map(|guest| self.fixture.ask(guest, &reading)).collect::<Result<Vec<_>>>()?;
        self.measure_reads_beside_others(measured)?;
        for request in &requests {
            self.fixture.answer_well(request)?;
        }
        for (guest, device) in others.iter().zip(DEVICES) {
            process::check(&mut self.who.detach(guest, device), self.fixture.deadline)?;
            self.make_unassignable(device)?;
        }
        self.measure_detach(measured)?;
        self.leave()
    }
}
