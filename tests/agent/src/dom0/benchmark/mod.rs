//! `make bench`: Linux's xen-pciback in dom0 and pcidom in turn, with the same guests, the same device and the same CPUs.
//!
//! Samples go to the host as lines `figure NAME UNIT WHO ROUND VALUE` (`tests/bench/src/benchmark/samples.rs`). Times are taken by the clock of
//! whoever waits: the guest for accesses, dom0 for commands. What the figures mean is in `docs/performance.md`.

mod audit;
mod backend;
mod boot;
mod contestant;
mod cpu;
mod data;
mod guests;
mod handshake;
mod interrupts;
mod load;
mod plug;
mod reads;
mod restart;
mod scale;
mod sixteen;
mod stub;

use std::time::Duration;

use anyhow::{Context, Result};

use super::{devices::NVME, fixture::Fixture, guests::Domain, report::Report};
use crate::process;
use contestant::Contestant;

/// The device that everything is measured with.
const DEVICE: &str = NVME;
/// Its driver in guests.
const DRIVER: &str = "nvme";
/// Nothing between two limits takes longer.
const LIMIT: Duration = Duration::from_mins(10);

/// Which clock the machine runs by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Real time on two CPUs.
    Real,
    /// Instructions on one CPU.
    Instructions,
}

/// Groups of figures that a machine can measure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// Both contestants in turn, with few guests.
    Contest(Clock),
    /// pcidom with very many guests.
    Scale,
}

/// State of a benchmark run.
pub(crate) struct Session<'a> {
    fixture: &'a mut Fixture,
    report: &'a mut Report,
    clock: Clock,
    /// Groups of figures; all if empty.
    only: Vec<&'a str>,
    round: u32,
    who: Contestant,
}

/// Measures `options`: a number of rounds, and names of groups with commas between them.
pub(crate) fn run(fixture: &mut Fixture, report: &mut Report, scene: Scene, options: &str) -> Result<()> {
    process::tell_nothing();
    let (rounds, only) = options.split_once(' ').unwrap_or((options, ""));
    let rounds = rounds.parse().with_context(|| format!("rounds: {rounds:?}"))?;
    let only = only.split(',').filter(|group| !group.is_empty()).collect();
    let clock = match scene {
        Scene::Contest(clock) => clock,
        Scene::Scale => Clock::Real,
    };
    let mut session = Session { fixture, report, clock, only, round: 0, who: Contestant::Pciback };
    let result = if scene == Scene::Scale { session.scale(rounds) } else { session.run(rounds) };
    if let Err(error) = &result {
        session.problem("the rest", error)?;
    }
    session.report.line(format_args!("done"))
}

impl Session<'_> {
    fn run(&mut self, rounds: u32) -> Result<()> {
        if rounds > 0 {
            self.in_turn(rounds)?;
        }
        if self.wants("noise") && self.clock == Clock::Real {
            self.noise()?;
        }
        if self.wants("stub") && self.clock == Clock::Instructions {
            self.count_in_the_stub()?;
        }
        Ok(())
    }

    fn in_turn(&mut self, rounds: u32) -> Result<()> {
        self.fixture.set_limit(LIMIT);
        let guests = [self.measured_guest("default", "")?, self.measured_guest("native", "tsc_mode = \"native\"\n")?];
        for round in 0..rounds {
            self.round = round;
            for who in [Contestant::Pciback, Contestant::Pcidom] {
                self.who = who;
                self.report.line(format_args!("round {} of {rounds}: {}", round + 1, who.name()))?;
                self.turn(&guests).with_context(|| format!("round {}, {}", round + 1, who.name()))?;
            }
        }
        guests.iter().try_for_each(|guest| self.fixture.destroy(guest))
    }

    /// One contestant's turn: everything once.
    fn turn(&mut self, [default, native]: &[Domain; 2]) -> Result<()> {
        self.fixture.set_limit(LIMIT);
        self.enter()?;
        self.measure_attach(default)?;
        self.measure_reads(default, "")?;
        self.optional("io", |session| session.measure_io(default))?;
        if self.clock == Clock::Real {
            self.optional("busy", |session| session.measure_reads_with_busy_dom0(default))?;
            self.optional("cpu", |session| session.measure_cpu(default))?;
            self.optional("data", |session| session.measure_data(default))?;
        }
        self.measure_detach(default)?;
        if self.who == Contestant::Pcidom && self.clock == Clock::Instructions {
            self.optional("audit", |session| session.measure_audit(default))?;
            self.optional("sixteen", |session| session.measure_sixteen(default))?;
        }
        self.measure_attach(native)?;
        self.measure_reads(native, "_native")?;
        self.measure_detach(native)?;
        if self.clock == Clock::Real {
            self.optional("boot", Self::measure_boot)?;
        }
        self.leave()?;
        if self.who == Contestant::Pcidom {
            self.optional("restart", |session| session.measure_restart(default))?;
        }
        Ok(())
    }

    fn wants(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }

    /// Measures a group of figures, if it is wanted. What goes wrong in it is told and does not end the run.
    fn optional(&mut self, group: &str, measure: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.wants(group) {
            self.fixture.set_limit(LIMIT);
            if let Err(error) = measure(self) {
                self.problem(group, &error)?;
            }
        }
        self.fixture.set_limit(LIMIT);
        Ok(())
    }

    fn problem(&mut self, what: &str, error: &anyhow::Error) -> Result<()> {
        let why = format!("{error:#}").trim_end().replace('\n', " | ");
        self.report.line(format_args!("problem {what} of {} in round {}: {why}", self.who.name(), self.round + 1))
    }

    /// Reports a sample. By the instruction clock a time has another name: `read_us` becomes `read_icount_us`.
    fn sample(&mut self, name: &str, unit: &str, value: f64) -> Result<()> {
        let clock = if self.clock == Clock::Instructions { "_icount" } else { "" };
        self.report_figure(&format!("{name}{clock}_{unit}"), unit, value)
    }

    fn report_figure(&mut self, name: &str, unit: &str, value: f64) -> Result<()> {
        let (who, round) = (self.who.name(), self.round);
        self.report.line(format_args!("figure {name} {unit} {who} {round} {value:.4}"))
    }
}
