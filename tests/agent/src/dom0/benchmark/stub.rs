//! What the stub needs: memory, its image, hypercalls, instructions.

use std::fs;

use anyhow::{Context, Result};

use super::{DEVICE, Session, contestant::Contestant};
use crate::dom0::{guests::Domain, services::SHARE, stub};

const IMAGE: &str = "/usr/lib/xen/boot/pcidom.elf";
/// The image with counters.
const COUNTING: &str = "/usr/lib/xen/boot/pcidom-counting.elf";
/// Two reports of the counting image, and more.
const READS: u32 = 3000;

impl Session<'_> {
    /// What the domain and its image take.
    pub(super) fn measure_size(&mut self, domain: &Domain) -> Result<()> {
        let listing = self.fixture.xl(&["list", &domain.name])?;
        // Name ID Mem VCPUs State Time(s)
        let memory = listing.lines().last().and_then(|line| line.split_whitespace().nth(2));
        let memory =
            memory.and_then(|memory| memory.parse().ok()).with_context(|| format!("no memory in {listing:?}"))?;
        self.report_figure("stub_memory_mib", "MiB", memory)?;
        #[expect(clippy::cast_precision_loss, reason = "no image comes near 2^53 bytes")]
        let size = fs::metadata(IMAGE)?.len() as f64;
        self.report_figure("image_size_bytes", "bytes", size)
    }

    /// Instructions and hypercalls for each read, by the image that counts its own (`boot/src/counting.rs`).
    pub(super) fn count_in_the_stub(&mut self) -> Result<()> {
        self.who = Contestant::Pcidom;
        self.fixture.set_limit(super::LIMIT);
        let example = fs::read_to_string("/etc/xen/pcidom.cfg")?;
        let domain = self.fixture.create_paused(stub::NAME, &format!("{example}\nkernel = \"{COUNTING}\"\n"))?;
        self.fixture.xl(&["unpause", stub::NAME])?;
        let deadline = self.fixture.deadline;
        let is_ready = |value: Option<&str>| value.is_some_and(|text| !text.is_empty());
        self.fixture.store.wait_for(&domain.node("data/pcidom/version"), deadline, is_ready)?;
        self.fixture.broker()?;
        self.make_assignable(DEVICE)?;
        let guest = self.measured_guest("counted", "tsc_mode = \"native\"\n")?;
        self.measure_attach(&guest)?;
        let log = format!("{SHARE}/console/guest-{}.log", stub::NAME);
        let earlier = fs::read_to_string(&log)?;
        let boot = (|| {
            // "… ready, 10533 us after the first instruction", "… until then 9000000 ticks asleep": of the last stub in the log.
            let number = |before: &str, after: &str| -> Option<f64> {
                earlier.lines().rev().find_map(|line| line.split_once(before)?.1.split_once(after)?.0.parse().ok())
            };
            // A tick is a nanosecond here.
            Some(number("ready, ", " us after")? - number("until then ", " ticks asleep")? / 1e3)
        })();
        self.report_figure("stub_boot_own_icount_us", "us", boot.context("the stub did not say how it started")?)?;
        let earlier = earlier.len();
        self.fixture.in_guest(&guest, &format!("read-often {} 4 {READS}", Self::config_file()))?;
        let text = fs::read_to_string(&log)?;
        // The first report may be about other requests as well; the last is about reads only.
        let report = text.get(earlier..).unwrap_or_default().lines().rfind(|line| line.contains(" requests: "));
        let report = report.context("the stub did not say what it counted")?;
        // … 1000 requests: 160000 ticks of its own, 2000 hypercalls
        let words: Vec<&str> = report.split_whitespace().collect();
        let before = |word: &str| -> Option<f64> {
            let at = words.iter().position(|other| other.trim_end_matches([':', ',']) == word)?;
            words.get(at.checked_sub(1)?)?.parse().ok()
        };
        let numbers = (|| Some((before("requests")?, before("ticks")?, before("hypercalls")?)))();
        let (requests, ticks, hypercalls) = numbers.with_context(|| format!("the stub said {report:?}"))?;
        // The counter counts nanoseconds here, and an instruction takes two.
        self.report_figure("stub_instructions_per_read", "instructions", ticks / 2.0 / requests)?;
        self.report_figure("stub_hypercalls_per_read", "hypercalls", hypercalls / requests)?;
        self.measure_detach(&guest)?;
        self.fixture.destroy(&guest)?;
        self.leave()
    }
}
