//! A restart of the stub in place: how long a guest waits for its answer.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result};

use super::{Session, plug::milliseconds};
use crate::dom0::{
    crashes::interrupt,
    guests::Domain,
    scale::{GUESTS, Scale},
};

/// Whether the stub crashes while guests read. A third time within a minute would end it.
const CRASHES: [bool; 3] = [false, true, true];
/// A guest reads for so long; the stub crashes somewhere in the middle.
const READS_MS: u32 = 1_500;
const BEFORE: Duration = Duration::from_millis(500);

impl Session<'_> {
    /// The longest of many reads is the one that the stub crashed at, or the one that came while it was down. The same without a crash, and what the
    /// stub says itself.
    pub(super) fn measure_restart(&mut self, guest: &Domain) -> Result<()> {
        let stub = self.fixture.stub()?;
        let command = format!("read-latency {} 0 {READS_MS}", Self::config_file());
        for crashes in CRASHES {
            let reads = self.fixture.ask(guest, &command)?;
            sleep(BEFORE);
            if crashes {
                let took = interrupt(self.fixture, &stub)?;
                self.sample("restart_to_ready", "ms", milliseconds(took))?;
            } else {
                self.fixture.xl(&["domid", &stub.name])?; // takes dom0's CPU as the other does
            }
            // COUNT MEDIAN P90 LONGEST, in microseconds.
            let answer = String::from_utf8(self.fixture.answer_well(&reads)?)?;
            let longest: f64 = answer.split(' ').nth(3).and_then(|word| word.parse().ok()).context(answer.clone())?;
            let name = if crashes { "restart_to_answer" } else { "no_restart_longest_read" };
            self.sample(name, "ms", longest / 1e3)?;
        }
        Ok(())
    }

    /// The same with sixty-four small guests, of which the first and the last read.
    pub(super) fn measure_restart_with_many(&mut self, scale: &Scale) -> Result<()> {
        let stub = self.fixture.stub()?;
        let last = usize::from(GUESTS) - 1;
        for crashes in CRASHES {
            let mut requests = scale.begin_stress(self.fixture, 0..1, READS_MS)?;
            requests.extend(scale.begin_stress(self.fixture, last..last + 1, READS_MS)?);
            sleep(BEFORE);
            if crashes {
                let took = interrupt(self.fixture, &stub)?;
                self.sample("restart_to_ready_64", "ms", milliseconds(took))?;
            } else {
                self.fixture.xl(&["domid", &stub.name])?;
            }
            for answer in Scale::end_stress(self.fixture, &requests)? {
                let longest = super::scale::time(&answer, "max")? / 1e6;
                let name = if crashes { "restart_to_answer_64" } else { "no_restart_longest_read_64" };
                self.sample(name, "ms", longest)?;
            }
        }
        Ok(())
    }
}
