//! A restart of the stub in place: how long a guest waits for its answer.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{DEVICE, Session, plug::milliseconds};
use crate::dom0::{
    crashes::{interrupt, restarts},
    guests::Domain,
    scale::{GUESTS, Scale},
    stub,
};

/// The image that crashes where it is told to.
const FAULTS: &str = "/usr/lib/xen/boot/pcidom-faults.elf";
/// Whether the stub crashes while guests read.
const CRASHES: [bool; 3] = [false, true, true];
/// The hypercall at which it crashes: what dom0 does to say so is over by then. (An NMI of `xl trigger` would have dom0 at the end of a process when it is
/// to answer the stub, on the one CPU of the instruction clock.)
const CRASH_AT: u32 = 1_000;
/// A guest reads for so long; the stub crashes somewhere in the middle. With many guests xl, which sends the NMI, takes longer.
const READS_MS: u32 = 2_000;
const READS_BESIDE_MANY_MS: u32 = 6_000;
const BEFORE: Duration = Duration::from_millis(500);

impl Session<'_> {
    /// The longest of many reads is the one that the stub crashed at, or the one that came while it was down; the same without a crash, and while another
    /// image takes the stub's place; and what the stub says itself.
    pub(super) fn measure_restart(&mut self, guest: &Domain) -> Result<()> {
        let lines = format!("kernel = \"{FAULTS}\"\n");
        let stub = self.fixture.start_stub_with(stub::NAME, "restart=always", &lines)?;
        self.fixture.broker()?;
        self.make_assignable(DEVICE)?;
        self.fixture.pcidom(&["attach", &guest.name, DEVICE])?;
        self.fixture.in_guest(guest, &format!("test -e {}", Self::config_file()))?;
        let mut crashed = 0;
        for crashes in CRASHES {
            let place = if crashes { "before" } else { "none" };
            let wish = stub.node(&format!("data/pcidom/query/fault-panic-{place}-{}", CRASH_AT + crashed));
            let longest = self.longest_read(guest, |session| session.fixture.store.write(&wish, b"1"))?;
            if crashes {
                crashed += 1;
                let (count, took) = restarts(self.fixture, &stub)?;
                ensure!(count == crashed, "{count} crashes instead of {crashed}");
                self.sample("restart_to_ready", "ms", milliseconds(took))?;
            }
            let name = if crashes { "restart_to_answer" } else { "no_restart_longest_read" };
            self.sample(name, "ms", longest)?;
        }
        let longest = self.longest_read(guest, |session| {
            let started = Instant::now();
            session.fixture.pcidom(&["upgrade"])?;
            session.sample("upgrade_command", "ms", milliseconds(started.elapsed()))
        })?;
        self.sample("upgrade_longest_read", "ms", longest)?;
        self.fixture.pcidom(&["detach", &guest.name, DEVICE])?;
        self.leave()
    }

    /// The longest of the reads of a guest, in milliseconds, while something is done.
    fn longest_read(&mut self, guest: &Domain, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<f64> {
        let reads = self.fixture.ask(guest, &format!("read-latency {} 0 {READS_MS}", Self::config_file()))?;
        sleep(BEFORE);
        act(self)?;
        // COUNT MEDIAN P90 LONGEST, in microseconds.
        let answer = String::from_utf8(self.fixture.answer_well(&reads)?)?;
        let longest = answer.split(' ').nth(3).and_then(|word| word.parse::<f64>().ok()).context(answer.clone())?;
        Ok(longest / 1e3)
    }

    /// The same with sixty-four small guests, of which the first and the last read.
    pub(super) fn measure_restart_with_many(&mut self, scale: &Scale) -> Result<()> {
        let stub = self.fixture.stub()?;
        let last = usize::from(GUESTS) - 1;
        for crashes in CRASHES {
            let mut requests = scale.begin_stress(self.fixture, 0..1, READS_BESIDE_MANY_MS)?;
            requests.extend(scale.begin_stress(self.fixture, last..last + 1, READS_BESIDE_MANY_MS)?);
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
