//! Scenarios in which each call to Xen, xenstore, sysfs and the clock fails once.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::play::Play;
use super::step::{Drive, Step};
use super::{number, said};
use crate::fake::{E1000, EDU, NVME};

/// Every so-manyth point of a scenario fails in `make test`, each scenario from another one on.
const STRIDE: usize = 20;
/// So many points fail at least.
const FEWEST: usize = 500;

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// The call to Xen, sysfs or the clock with this number, of whoever makes it.
    Call(usize),
    /// The request to xenstored with this number.
    Request(usize),
}

impl fmt::Display for Point {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(number) => write!(formatter, "call:{number}"),
            Self::Request(number) => write!(formatter, "request:{number}"),
        }
    }
}

impl FromStr for Point {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("request", number)) => number.parse().map(Self::Request),
            _ => text.trim_start_matches("call:").parse().map(Self::Call),
        }
    }
}

const fn attach(devices: Vec<&'static str>) -> Step {
    Step::Attach { guest: 0, devices, persistent: false }
}

const fn detach(devices: Vec<&'static str>, force: bool) -> Step {
    Step::Detach { guest: 0, devices, force }
}

/// Each from a machine with three devices in the pool, two guests and a broker.
fn scenarios() -> Vec<(&'static str, Vec<Step>)> {
    let vectors = || vec![Step::Drive(0, 0, Drive::BusMaster), Step::Drive(0, 0, Drive::Msix)];
    let with_vectors = |then: Vec<Step>| [vec![attach(vec![NVME])], vectors(), then].concat();
    vec![
        ("pool", vec![Step::Pool(EDU), Step::List]),
        ("attach", vec![attach(vec![E1000, EDU])]),
        ("add", vec![attach(vec![E1000]), attach(vec![EDU])]),
        ("detach", vec![attach(vec![E1000, EDU]), detach(vec![EDU], false), detach(vec![E1000], false)]),
        ("force", vec![attach(vec![E1000, EDU]), Step::Sleep(0), detach(vec![EDU], true)]),
        ("drive", with_vectors(vec![Step::Drive(0, 0, Drive::MsixOff), Step::Drive(0, 0, Drive::Denied)])),
        ("vectors", with_vectors(vec![detach(vec![NVME], false)])),
        ("death", with_vectors(vec![Step::Reboot(0), Step::Pass(1_000)])),
        ("reload", with_vectors(vec![Step::Reload(0), Step::Drive(0, 0, Drive::Msix)])),
        ("crash", with_vectors(vec![Step::Crash, Step::Pass(1_000), Step::Drive(0, 0, Drive::MsixOff)])),
        ("broker", with_vectors(vec![Step::Kill, Step::Start, Step::Drive(0, 0, Drive::MsixOff)])),
        (
            "persistent",
            vec![Step::Attach { guest: 0, devices: vec![E1000], persistent: true }, Step::Reboot(0), attach(vec![EDU])],
        ),
    ]
}

/// How a scenario went.
#[derive(Debug, Default)]
struct Played {
    calls: usize,
    requests: usize,
    by_call: BTreeMap<(&'static str, &'static str), usize>,
    has_struck: bool,
}

fn play(steps: &[Step], fails: Option<Point>) -> Result<Played, String> {
    let mut play = Play::new(fails.is_some());
    let mut played = Played::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let before = play.machine.with_peers(|peers| {
            let mut store = peers.xen.store();
            let before = store.requests();
            match fails {
                Some(Point::Request(number)) => store.fail_request(Some(before + 1 + number as u64)),
                _ => store.fail_request(None),
            }
            before
        });
        play.machine.with_peers(|peers| match fails {
            Some(Point::Call(number)) => peers.xen.count_points(Some(number)),
            _ => peers.xen.count_points(None),
        });
        steps.iter().for_each(|step| play.take(&step.clone().into()));
        play.machine.with_peers(|peers| {
            let store = peers.xen.store();
            played.requests = usize::try_from(store.requests() - before).unwrap();
            let has_failed = !store.will_fail();
            drop(store);
            played.calls = peers.xen.points();
            played.by_call = peers.xen.points_by_call();
            played.has_struck = match fails {
                Some(Point::Call(_)) => peers.xen.end_points().is_some(),
                _ => has_failed,
            };
        });
        play.end();
    }));
    match outcome {
        Ok(()) => Ok(played),
        Err(payload) => {
            let struck = play.machine.with_peers(|peers| peers.xen.end_points());
            let notes = play.machine.machine.with(|world| world.notes.join("\n    said: "));
            Err(format!("{}\nfailed: {struck:?}\n{}\n    said: {notes}", said(&*payload), play.done.join("\n")))
        }
    }
}

/// What is to fail: a scenario's number, and where in it.
fn jobs(scenarios: &[(&'static str, Vec<Step>)], totals: &mut BTreeMap<String, usize>) -> Vec<(usize, Point)> {
    let stride = number("PCIDOM_STRIDE").map_or(STRIDE, |stride| usize::try_from(stride).unwrap().max(1));
    let only = std::env::var("PCIDOM_POINT").ok();
    let mut jobs = Vec::new();
    for (number, (name, steps)) in scenarios.iter().enumerate() {
        if let Some(only) = &only {
            if let Some(point) = only.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')) {
                jobs.push((number, point.parse().unwrap()));
            }
            continue;
        }
        let whole = play(steps, None).unwrap_or_else(|why| panic!("{name}, and nothing fails: {why}"));
        for ((who, call), count) in &whole.by_call {
            *totals.entry(format!("{who}: {call}")).or_default() += count;
        }
        *totals.entry("requests to xenstored".to_owned()).or_default() += whole.requests;
        let calls = (0..whole.calls).map(Point::Call);
        let points = calls.chain((0..whole.requests).map(Point::Request));
        jobs.extend(points.skip(number * 7 % stride).step_by(stride).map(|point| (number, point)));
    }
    jobs
}

#[test]
fn each_call_to_xen_xenstore_sysfs_and_the_clock_may_fail_once() {
    let scenarios = scenarios();
    let mut totals = BTreeMap::new();
    let jobs = jobs(&scenarios, &mut totals);
    let (next, struck, has_failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let keeps_going = number("PCIDOM_KEEP_GOING").is_some();
    let walk = || {
        while let Some((number, point)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if has_failed.load(Ordering::Relaxed) && !keeps_going {
                return;
            }
            let (name, steps) = &scenarios[*number];
            match play(steps, Some(*point)) {
                Ok(played) => drop(struck.fetch_add(usize::from(played.has_struck), Ordering::Relaxed)),
                Err(why) => {
                    has_failed.store(true, Ordering::Relaxed);
                    eprintln!(
                        "{name}, {point} fails: {why}\nagain: PCIDOM_POINT={name}:{point} cargo test -p pcidom --lib whole::points\n"
                    );
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(walk);
        }
    });
    assert!(!has_failed.into_inner(), "see above");
    let struck = struck.into_inner();
    println!(
        "{struck} calls failed, each in a scenario of its own, of {}: {totals:#?}",
        totals.values().sum::<usize>()
    );
    assert!(struck == jobs.len(), "{} points were not reached", jobs.len() - struck);
    assert!(jobs.len() == 1 || struck > FEWEST, "{struck}");
}
