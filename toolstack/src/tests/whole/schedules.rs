//! Schedules: a seed each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::play::Play;
use super::step::Scheduled;
use super::{number, said};

/// How many `make test` goes through.
const SCHEDULES: u64 = 100;
/// Steps in each.
const STEPS: u64 = 10;

/// Why a schedule failed, and what was done until then.
struct Failure {
    why: String,
    done: Vec<String>,
}

fn play(seed: u64, steps: &[u64]) -> Result<(), Failure> {
    let mut play = Play::new(seed % 2 == 1);
    let played = catch_unwind(AssertUnwindSafe(|| {
        steps.iter().for_each(|number| play.take(&Scheduled::of(seed, *number)));
        play.end();
    }));
    played.map_err(|payload| {
        play.machine.machine.with(|world| play.done.extend(world.notes.iter().map(|note| format!("    said: {note}"))));
        Failure { why: said(&*payload), done: std::mem::take(&mut play.done) }
    })
}

/// The same failure in as few steps as leaving out one after the other comes to.
fn shrink(seed: u64, mut steps: Vec<u64>, mut failure: Failure) -> (Vec<u64>, Failure) {
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        match play(seed, &fewer) {
            Err(smaller) => (steps, failure) = (fewer, smaller),
            Ok(()) => at += 1,
        }
    }
    (steps, failure)
}

fn steps() -> Vec<u64> {
    let chosen = std::env::var("PCIDOM_STEPS").ok();
    let chosen = chosen.map(|text| text.split(',').map(|number| number.trim().parse().unwrap()).collect());
    chosen.unwrap_or_else(|| (0..STEPS).collect())
}

#[test]
fn whatever_happens_everybody_agrees_who_has_what() {
    let count = number("PCIDOM_SEEDS").unwrap_or_else(|| if number("PCIDOM_SEED").is_some() { 1 } else { SCHEDULES });
    let next = AtomicU64::new(number("PCIDOM_SEED").unwrap_or(0));
    let end = next.load(Ordering::Relaxed) + count;
    let has_failed = AtomicBool::new(false);
    let walk = || {
        while !has_failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let Err(failure) = play(seed, &steps()) else { continue };
            has_failed.store(true, Ordering::Relaxed);
            let (steps, Failure { why, done }) = shrink(seed, steps(), failure);
            let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
            panic!(
                "schedule {seed}: {why}\n{}\nagain: PCIDOM_SEED={seed} PCIDOM_STEPS={} cargo test -p pcidom --lib whole::schedules",
                done.join("\n"),
                steps.join(",")
            );
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(walk);
        }
    });
}
