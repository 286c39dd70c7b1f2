//! Data path: no backend takes part, so both must be equally fast.

use anyhow::{Context, Result};

use super::Session;
use crate::dom0::guests::Domain;

const DISK: &str = "/dev/nvme0n1";
const MIB: u32 = 32;
const READS: u32 = 1000;

impl Session<'_> {
    /// Reads from the disk, in a row and all over it.
    pub(super) fn measure_data(&mut self, guest: &Domain) -> Result<()> {
        self.fixture.await_disk(guest, DISK)?;
        let said = self.fixture.in_guest(guest, &format!("disk-speed {DISK} {MIB} {READS}"))?;
        let said = String::from_utf8(said)?;
        let (sequential, random) = said.split_once(' ').with_context(|| format!("the guest said {said:?}"))?;
        self.report_figure("nvme_sequential_read_mib_s", "MiB/s", sequential.parse()?)?;
        self.report_figure("nvme_random_read_iops", "1/s", random.parse()?)
    }
}
