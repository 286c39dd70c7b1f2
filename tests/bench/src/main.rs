//! The bench: boots Xen in QEMU with what this repository builds and reports test cases, one a line.
//!
//! `make help` lists the targets that call this program.

mod benchmark;
mod boot;
mod command;
mod cpio;
mod crash_dump;
mod demo;
mod fast;
mod full;
mod image_check;
mod images;
mod installed;
mod layout;
mod notes;
mod packages;
mod qemu;
mod qmp;
mod release;
mod report;
mod sizes;
mod soak;
mod sources;
mod stages;
mod tally;
mod unpacked;
mod vmlinux;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{boot::Kind, release::Release};

#[derive(Parser)]
#[command(about = "Boots Xen in QEMU with what this repository builds, and reports test cases")]
struct Arguments {
    /// Shows the commands that are run, and the consoles
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Debian release that dom0 and the guests come from
    #[arg(long, global = true, default_value_t = 12, value_name = "NUMBER")]
    debian: u32,
    /// Debian release that the guests of the full suite come from, if it is another one
    #[arg(long, global = true, value_name = "NUMBER")]
    guests: Option<u32>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Boots the kernel's self-test image on Xen
    Fast {
        /// Only cases whose names contain this (or one of several, with commas)
        #[arg(long, default_value = "")]
        case: String,
    },
    /// Boots Xen with a Linux dom0, once for each kind of host, and runs the cases there
    Full {
        /// Only cases whose names contain this (or one of several, with commas)
        #[arg(long, default_value = "")]
        case: String,
        /// Takes everything down between cases
        #[arg(long)]
        alone: bool,
        /// Runs the chosen cases on another Debian release, too
        #[arg(long, value_name = "NUMBER")]
        and_chosen_on: Option<u32>,
        /// How many machines run beside each other; as many as the host has room for, if not given
        #[arg(long, value_name = "NUMBER")]
        machines: Option<usize>,
    },
    /// Runs cases that were chosen, in one boot, for a release on which not all run each time
    Chosen {
        /// Only cases whose names contain this (or one of several, with commas)
        #[arg(long, default_value = "")]
        case: String,
    },
    /// Boots a Debian host, installs the package there, and runs the cases about it
    Debian {
        /// Only cases whose names contain this (or one of several, with commas)
        #[arg(long, default_value = "")]
        case: String,
    },
    /// Lists all cases, each with its suite
    Cases {
        /// Only cases whose names contain this (or one of several, with commas)
        #[arg(long, default_value = "")]
        case: String,
    },
    /// Shows the main job on the bench
    Demo,
    /// Attaches and detaches a device many times and shows that nothing grows
    Soak {
        /// How many times
        #[arg(long, default_value_t = 10_000)]
        cycles: u32,
    },
    /// Crashes the stub many times, and shows that no guest notices
    CrashSoak {
        /// How often
        #[arg(long, default_value_t = 10_000)]
        crashes: u32,
        /// With sixty-four guests instead of two
        #[arg(long)]
        many: bool,
    },
    /// Injects errors into the port above a guest's disk, and shows that it goes on
    ErrorSoak {
        /// How many
        #[arg(long, default_value_t = 100)]
        errors: u32,
    },
    /// Starts hostile frontends beside a guest that works, and shows that it is not disturbed
    HostileSoak {
        /// How many
        #[arg(long, default_value_t = 100)]
        guests: u32,
    },
    /// Crashes the stub at each place that it comes to, and shows that no guest notices
    CrashWalk {
        /// Only walks whose names contain this
        #[arg(long, default_value = "")]
        case: String,
    },
    /// Measures pcidom and xen-pciback in turn
    Benchmark {
        /// Time to measure in
        #[arg(long, value_enum, default_value = "both")]
        clocks: benchmark::Clocks,
        /// How often each of them is measured
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Only these groups of figures, with commas between them
        #[arg(long, default_value = "")]
        only: String,
        /// Keeps what the instruction clock gives, for later runs to be compared with
        #[arg(long)]
        keep: bool,
    },
    /// Draws the figures of the last run
    Chart,
    /// Downloads the packages and builds the archives that the full suite boots
    Fetch,
    /// Checks how an image is linked
    ImageCheck {
        /// The image
        image: PathBuf,
    },
    /// Shows how large files are, by section and by crate, and compares with the saved table
    Sizes {
        /// Makes what is found the table
        #[arg(long)]
        keep: bool,
        /// Images or programs, with their symbols
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Runs make targets one after the other (those with + in front beside the others) and adds up their cases
    Stages {
        /// The targets
        #[arg(required = true)]
        targets: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where the chosen cases of another release stand in the order of boots, which begins with those that take longest.
const WITH_THE_LONG_ONES: usize = 3;

/// Prints `SUITE  CASE` for each case of the fast suite and of those with a Linux dom0.
fn list_cases(filter: &str) -> Result<bool> {
    let mut lists = vec![("fast", fast::cases(filter)?)];
    for kind in Kind::SUITES {
        lists.push((kind.name(), full::cases(kind.name(), filter)?));
    }
    for suite in installed::BOOTS {
        lists.push((suite, full::cases(suite, filter)?));
    }
    let mut out = std::io::stdout().lock();
    for (suite, cases) in lists {
        for case in cases {
            writeln!(out, "{suite:14} {case}")?;
        }
    }
    Ok(true)
}

/// True when everything passed.
fn run(arguments: &Arguments) -> Result<bool> {
    layout::check_current_dir()?;
    let verbose = arguments.verbose;
    let release = Release::numbered(arguments.debian)?;
    let guests = arguments.guests.map(Release::numbered).transpose()?;
    match &arguments.what {
        What::Fast { case } => fast::run(release, case, verbose),
        What::Full { case, alone, and_chosen_on, machines } => {
            let mut boots: Vec<(&Release, Kind)> = Kind::SUITES.map(|kind| (release, kind)).to_vec();
            if let Some(other) = and_chosen_on {
                boots.insert(WITH_THE_LONG_ONES, (Release::numbered(*other)?, Kind::Chosen));
            }
            full::run(&boots, full::Wanted { filter: case, alone: *alone, guests }, *machines, verbose)
        }
        What::Chosen { case } => {
            full::run(&[(release, Kind::Chosen)], full::Wanted { filter: case, alone: false, guests }, Some(1), verbose)
        }
        What::Debian { case } => installed::run(release, case, verbose),
        What::Cases { case } => list_cases(case),
        What::Demo => demo::run(release, verbose),
        What::Soak { cycles } => soak::run(release, *cycles, verbose),
        What::ErrorSoak { errors } => soak::errors(release, *errors, verbose),
        What::HostileSoak { guests } => soak::hostile(release, *guests, verbose),
        What::CrashWalk { case } => soak::walk(release, case, verbose),
        What::CrashSoak { crashes, many } => soak::crash(release, *crashes, *many, verbose),
        What::Benchmark { clocks, rounds, only, keep } => {
            benchmark::run(release, &benchmark::Plan { clocks: *clocks, rounds: *rounds, only, keep: *keep }, verbose)
        }
        What::Chart => benchmark::chart(),
        What::Fetch => images::Images::build(release).map(|_| true),
        What::ImageCheck { image } => image_check::run(image),
        What::Sizes { keep, files } => sizes::run(files, *keep),
        What::Stages { targets } => stages::run(targets),
    }
}
