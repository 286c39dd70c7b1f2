//! The suites on Xen with a Linux dom0, the stub and Linux guests: a boot for each kind of host.

use std::{
    collections::VecDeque,
    fs,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Result, anyhow, ensure};

use crate::{
    boot::{BENCH_ERROR, Boot, CPUS, Kind},
    command,
    images::Images,
    layout,
    qemu::Crashed,
    release::Release,
    report::Report,
    tally::Tally,
};

/// What is wanted of the cases.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Only those with one of these in their names (with commas between them); all if empty.
    pub(crate) filter: &'a str,
    /// Each in a dom0 from which everything was taken that others left.
    pub(crate) alone: bool,
    /// The release of the guests, where it is not that of dom0.
    pub(crate) guests: Option<&'static Release>,
}

/// The agent's plan for a suite.
pub(crate) fn plan(suite: &str, filter: &str, alone: bool) -> String {
    format!("{suite} case={filter} alone={}\n", u8::from(alone))
}

/// The names of a suite's cases that the filter selects, in the order in which they run.
pub(crate) fn cases(suite: &str, filter: &str) -> Result<Vec<String>> {
    let list = command::text(Command::new(layout::AGENT).args(["cases", suite, filter]))?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Boots the kinds of hosts that have selected cases, each on its release, `machines` at a time (as many as the host has room for, if that is not given). They are started in
/// the order given, so those that take long come first.
///
/// The machines share the host's CPUs out among them. With more CPUs than the host has, QEMU's emulation spends its time spinning: on locks that belong to a CPU which
/// the host has just stopped. Two machines with two CPUs each took five times as long on two CPUs as with one each.
pub(crate) fn run(
    boots: &[(&Release, Kind)],
    wanted: Wanted<'_>,
    machines: Option<usize>,
    verbose: bool,
) -> Result<bool> {
    let _lock = layout::lock()?;
    let mut queue = VecDeque::new();
    for &(release, kind) in boots {
        if !cases(kind.name(), wanted.filter)?.is_empty() {
            let images = Images::build_with_guests(release, wanted.guests.unwrap_or(release))?;
            queue.push_back((images, release, kind));
        }
    }
    ensure!(!queue.is_empty(), "no case has {:?} in its name", wanted.filter);
    let host_cpus = thread::available_parallelism().map_or(1, usize::from);
    // The consoles of several machines in one stream would be of no use.
    let machines = if verbose { 1 } else { machines.unwrap_or_else(|| room_for_machines(host_cpus)) };
    let machines = machines.clamp(1, queue.len());
    let cpus = (host_cpus / machines).clamp(1, CPUS);
    println!("bench: {machines} at a time, with {cpus} CPUs each");
    let queue = Mutex::new(queue);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || -> Result<Tally> {
        let mut sum = Tally::default();
        while let Some((images, release, kind)) = next() {
            let plan = plan(kind.name(), wanted.filter, wanted.alone);
            sum += boot(&images, release, kind, &plan, (MACHINES_LOST, from_case), cpus, verbose)?;
        }
        Ok(sum)
    };
    let mut sum = Tally::default();
    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..machines).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            sum += worker.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(())
    })?;
    println!("{sum}");
    Ok(sum.is_good())
}

/// How many machines a boot may lose to crashes of QEMU. More would say that a case makes them.
const MACHINES_LOST: u32 = 2;

/// How many machines can run beside each other: one for each CPU, as far as memory goes.
fn room_for_machines(host_cpus: usize) -> usize {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok());
    // QEMU takes more than the machine has, for the code that it translates.
    let each = u64::from(Kind::Full.memory() + TRANSLATED_MIB) << 10;
    let by_memory = available.map_or(1, |kib: u64| usize::try_from(kib / each).unwrap_or(1));
    host_cpus.min(by_memory).min(MOST_MACHINES)
}

/// Room for translated code, which QEMU bounds to this (MiB).
const TRANSLATED_MIB: u32 = 1024;
/// More would not end sooner: the longest boot takes as long as it takes.
const MOST_MACHINES: usize = 3;

/// How the cases go on in another machine: the plan of the first one, with a case's name and what it told last.
pub(crate) type Rest = fn(&str, &str, Option<&str>) -> Result<String>;

/// The plan for a suite's cases from this one on.
pub(crate) fn from_case(plan: &str, case: &str, _: Option<&str>) -> Result<String> {
    let plan = plan.trim_end();
    let plan = plan.split_once(" from=").map_or(plan, |(plan, _)| plan);
    Ok(format!("{plan} from={case}\n"))
}

/// One boot with its cases, and with what they print for their users. Where QEMU itself crashes another machine goes on, at most so `often`, with the `rest`.
pub(crate) fn boot(
    images: &Images,
    release: &Release,
    kind: Kind,
    plan: &str,
    (often, rest): (u32, Rest),
    cpus: usize,
    verbose: bool,
) -> Result<Tally> {
    let name = format!("{}-{}", kind.name(), release.number);
    let mut boot = Boot { images, name, plan: plan.to_owned(), kind, cpus, verbose };
    let started = Instant::now();
    let mut report = Report::default();
    let mut left = often;
    let result = loop {
        let result = boot.run(&mut |line| report.line(line).iter().for_each(|line| println!("{line}")));
        let Err(error) = &result else { break result };
        if left == 0 || !error.is::<Crashed>() {
            break result;
        }
        let Some((case, progress)) = report.interrupt() else { break result };
        left -= 1;
        layout::keep_logs(&boot.log_dir())?;
        println!("{BENCH_ERROR}{} ended in {case} ({error}), and another machine goes on with it", boot.name);
        boot.plan = rest(&boot.plan, &case, progress.as_deref())?;
    };
    if let Err(error) = &result {
        eprintln!("bench: {}: {error:#}", boot.name);
    }
    let (tally, missing) = report.finish(result.is_ok());
    if let Some(missing) = missing {
        println!("{missing}");
    }
    let cpu = result.as_ref().map_or(0, |cpu| cpu.as_secs());
    println!("boot {} took {} s ({cpu} s of processor time)", boot.name, started.elapsed().as_secs());
    if !tally.is_good() {
        let dir = boot.log_dir();
        eprintln!("bench: consoles are in {}", dir.display());
        layout::keep_logs(&dir)?;
    }
    Ok(tally)
}
