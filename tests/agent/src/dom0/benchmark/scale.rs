//! One small guest's reads, alone and while 63 others work on their devices as fast as they can.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Session, contestant::Contestant};
use crate::dom0::scale::{GUESTS, Scale};

/// How long a guest reads.
const MILLISECONDS: u32 = 5_000;
/// Bringing them up takes most of it.
const LIMIT: Duration = Duration::from_mins(20);

impl Session<'_> {
    /// Measures pcidom alone: what counts is what the others do to one.
    pub(super) fn scale(&mut self, rounds: u32) -> Result<()> {
        self.who = Contestant::Pcidom;
        self.fixture.set_limit(LIMIT);
        // The first word from dom0 is waited for some minutes only.
        self.report.line(format_args!("{GUESTS} guests come up"))?;
        let scale = Scale::gather(self.fixture, "restart=always")?;
        for round in 0..rounds {
            self.round = round;
            self.report.line(format_args!("round {} of {rounds}: {GUESTS} guests", round + 1))?;
            self.optional("restart", |session| session.measure_restart_with_many(&scale))?;
            if !self.wants("scale") {
                continue;
            }
            for (name, who) in [("idle", 0..1), ("busy", 0..usize::from(GUESTS))] {
                self.fixture.set_limit(LIMIT);
                let answers = scale.stress(self.fixture, who, MILLISECONDS)?;
                let first = answers.first().context("nobody answered")?;
                for percentile in ["p50", "p99"] {
                    self.sample(&format!("read_beside_63_{name}_{percentile}"), "us", time(first, percentile)? / 1e3)?;
                }
            }
        }
        Ok(())
    }
}

/// The number behind this word.
pub(super) fn time(answer: &str, percentile: &str) -> Result<f64> {
    let mut words = answer.split(' ').skip_while(|word| *word != percentile);
    let number = words.nth(1).with_context(|| format!("no {percentile} in {answer:?}"))?;
    Ok(number.parse()?)
}
