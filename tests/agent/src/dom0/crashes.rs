//! A stub that crashes again and again while its guests are at work (docs/restart.md): what must not change meanwhile, and what must be as before afterwards.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{
    cases::figures,
    devices::{self, E1000E, EDU, NVME},
    fixture::Fixture,
    guests::{Domain, Request},
    scale::Scale,
    snapshot::Snapshot,
    stub::NAME,
};
use crate::store::Store;

const DISK: &str = "/dev/nvme0n1";
/// Until the stub is there again.
const PATIENCE: Duration = Duration::from_secs(10);
/// A line of the stub's configuration: the image that crashes where it is told to (`kernel/src/faults.rs`).
pub(crate) const FAULTS: &str = "kernel = \"/usr/lib/xen/boot/pcidom-faults.elf\"\n";
/// Kinds of crashes and places to crash at, by the words of `kernel/src/faults.rs`.
pub(crate) const KINDS: [&str; 3] = ["panic", "ud", "pf"];
pub(crate) const PLACES: [&str; 3] = ["before", "after", "answer"];
/// How often the stub comes to such a place until it crashes there.
const TIMES: [u32; 7] = [1, 2, 3, 5, 8, 13, 21];
/// One crash of so many is an NMI. Starting `xl`, which sends it, takes longer than all the rest of a crash.
const NMI_EVERY: u32 = 5;
/// Crashes between two looks at what guests say, and configuration reads meanwhile, which take as long.
const ROUND: u32 = 25;
const READS: u32 = 8_000;
/// The same with sixty-four guests, which are all looked at.
const MANY_ROUND: u32 = 10;
/// A round takes a few seconds.
const LIMIT: Duration = Duration::from_mins(4);
/// Facts that change with each crash.
pub(crate) const CHANGING: [&str; 3] = ["data/pcidom/restarts", "data/pcidom/statistics", "data/pcidom/query"];
/// How long all small guests work in a round.
const STRESS_MS: u32 = 4_000;

/// How often a stub says that it was started again, and how long the last time took until it was ready.
pub(crate) fn restarts(fixture: &mut Fixture, stub: &Domain) -> Result<(u32, Duration)> {
    let Some(text) = fixture.store.text(&stub.node("data/pcidom/restarts"))?.filter(|text| !text.is_empty()) else {
        return Ok((0, Duration::ZERO));
    };
    let mut words = text.split(' ');
    let mut number = || words.next().context("too short")?.parse::<u64>().context("no number");
    let (count, took) = (number()?, number()?);
    Ok((u32::try_from(count)?, Duration::from_nanos(took)))
}

/// Has Xen interrupt the stub, and waits until it is there again.
pub(crate) fn interrupt(fixture: &mut Fixture, stub: &Domain) -> Result<Duration> {
    crash(fixture, stub, |fixture| fixture.xl(&["trigger", NAME, "nmi"]).map(drop))
}

/// Has the stub crash at one of the places that it comes to, another one for each number, and waits until it is there again. Its image is that of [`FAULTS`], and it is at work.
fn fault(fixture: &mut Fixture, stub: &Domain, number: u32) -> Result<Duration> {
    let mut rest = usize::try_from(number)?;
    let mut choose = |count: usize| {
        let chosen = rest % count;
        rest /= count;
        chosen
    };
    let (kind, place) = (KINDS[choose(KINDS.len())], PLACES[choose(PLACES.len())]);
    // xenstored says something to it much less often than it makes a hypercall.
    let times = TIMES[choose(if place == "answer" { 3 } else { TIMES.len() })];
    let node = stub.node(&format!("data/pcidom/query/fault-{kind}-{place}-{times}"));
    crash(fixture, stub, |fixture| fixture.store.write(&node, b"1")).context(node)
}

fn crash(fixture: &mut Fixture, stub: &Domain, cause: impl FnOnce(&mut Fixture) -> Result<()>) -> Result<Duration> {
    let (before, _) = restarts(fixture, stub)?;
    // A watch, and no looks again and again: those would have xenstored at work when the stub wants its answers.
    let node = stub.node("data/pcidom/restarts");
    let mut store = Store::open()?;
    store.watch(&node)?;
    cause(fixture)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (count, took) = restarts(fixture, stub)?;
        if count > before {
            ensure!(count == before + 1, "{count} restarts after {before}");
            ensure!(took < PATIENCE, "it says that it was ready after {took:?}");
            return Ok(took);
        }
        ensure!(store.wait(deadline)?, "the stub does not come back");
    }
}

/// Crashes the stub so often, at hypercalls, at answers of xenstored, and with NMIs at any moment, while one guest reads configuration space and gets and loses a device, and another one moves data with
/// MSI-X. `progress` hears of each hundred.
pub(crate) fn with_few(fixture: &mut Fixture, count: u32, progress: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    fixture.clear();
    fixture.set_limit(LIMIT);
    fixture.broker()?;
    let stub = fixture.start_stub_with(NAME, "restart=always", FAULTS)?;
    let reader = fixture.guest_with("reader", &[EDU])?;
    let disk = fixture.guest_with("disk", &[NVME])?;
    fixture.in_pool(E1000E)?;
    fixture.in_guest(&disk, "load nvme")?;
    fixture.await_disk(&disk, DISK)?;
    // What the first ones add is there then, and the heap is that of a life in which nothing has happened yet.
    fixture.attach(&reader, &[E1000E])?;
    fixture.detach(&reader, &[E1000E])?;
    fixture.in_guest(&reader, "true")?; // what dom0 says to guests has nodes of its own
    for _ in 0..2 {
        interrupt(fixture, &stub)?;
    }
    let (before, figures_before) = (Snapshot::take(fixture, &stub)?, figures(fixture, &disk)?);
    let mut load = Load::start(fixture, reader, disk.clone(), &stub)?;
    let result = load.crash(fixture, &stub, count, progress);
    let moves = load.stop(fixture);
    result?;
    let moves = moves?;
    println!("agent: a device came and went {moves} times meanwhile");
    ensure!(moves > 0, "no device came and went");
    interrupt(fixture, &stub)?;
    // Our wishes: all at once, as each one that goes by itself is told to the stub by its name.
    fixture.store.remove(&stub.node("data/pcidom/query"))?;
    before.compare_but(&Snapshot::take(fixture, &stub)?, &CHANGING)?;
    // Each life has a heap of its own, in which lists have the room that this one needed.
    figures_before.without("stub's heap_used").compare(&figures(fixture, &disk)?)
}

/// What two guests do meanwhile.
struct Load {
    reader: Domain,
    disk: Domain,
    config: String,
    ids: [u8; 4],
    seed: u32,
    reads: Option<Request>,
    is_over: Arc<AtomicBool>,
    plug: JoinHandle<Result<u32>>,
    states: JoinHandle<Result<Vec<(String, String)>>>,
}

impl Load {
    fn start(fixture: &mut Fixture, reader: Domain, disk: Domain, stub: &Domain) -> Result<Self> {
        let ids = devices::ids(EDU)?.to_le_bytes();
        let config = format!("/sys/bus/pci/devices/{}/config", fixture.virtual_address(&reader, EDU)?);
        let is_over = Arc::new(AtomicBool::new(false));
        let nodes = [&reader, &disk]
            .map(|guest| [guest.node("device/pci/0/state"), stub.node(&format!("backend/pci/{}/0/state", guest.id))]);
        let states = {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || watch(&nodes.concat(), &is_over))
        };
        let plug = {
            let (is_over, guest) = (Arc::clone(&is_over), reader.name.clone());
            thread::spawn(move || plug(&guest, &is_over))
        };
        Ok(Self { reader, disk, config, ids, seed: 0, reads: None, is_over, plug, states })
    }

    fn crash(
        &mut self,
        fixture: &mut Fixture,
        stub: &Domain,
        count: u32,
        progress: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let started = Instant::now();
        let (mut done, mut times) = (0, Vec::new());
        while done < count {
            fixture.set_limit(LIMIT);
            self.reads = Some(fixture.ask(&self.reader, &format!("read-often {} 0 {READS}", self.config))?);
            self.seed += 1;
            let write = fixture.ask(&self.disk, &format!("disk-write {DISK} {} 2", self.seed))?;
            for number in 0..ROUND.min(count - done) {
                let took = if number % NMI_EVERY == 0 { interrupt(fixture, stub) } else { fault(fixture, stub, done) };
                let took = took.with_context(|| format!("after {done} crashes"))?;
                times.push(took);
                done += 1;
                // Frontends are served some time after it is ready, longer on a slow host: a crash before that, again and again, would keep a guest waiting
                // for more than the two seconds that it has. And not in step with anything.
                sleep(took + Duration::from_millis(u64::from(number * number * 7 % 60)));
            }
            let read = self.reads.take().map(|request| fixture.answer_well(&request)).transpose()?.unwrap_or_default();
            ensure!(read == self.ids, "{} reads {read:02x?} after {done} crashes", self.reader.name);
            fixture.answer_well(&write)?;
            fixture.in_guest(&self.disk, &format!("disk-check {DISK} {} 2", self.seed))?;
            expect_unnoticed(fixture, &self.reader)?;
            expect_unnoticed(fixture, &self.disk)?;
            fixture.expect_connected(&self.disk)?; // the other one changes its devices meanwhile
            if done % 100 == 0 {
                progress(&summary(done, started.elapsed(), &mut times))?;
            }
        }
        println!("agent: {}", summary(done, started.elapsed(), &mut times));
        Ok(())
    }

    /// How often a device came and went. The states of the other guest have not changed.
    fn stop(self, fixture: &mut Fixture) -> Result<u32> {
        self.is_over.store(true, Ordering::Relaxed);
        let moves = self.plug.join().map_err(|_| anyhow!("a thread panicked"))??;
        let seen = self.states.join().map_err(|_| anyhow!("a thread panicked"))??;
        let of =
            |node: &str| seen.iter().filter(|(path, _)| path == node).map(|(_, value)| &**value).collect::<Vec<_>>();
        let stub = fixture.stub()?;
        for node in [self.disk.node("device/pci/0/state"), stub.node(&format!("backend/pci/{}/0/state", self.disk.id))]
        {
            ensure!(of(&node) == ["4"], "{node}: {:?}", of(&node));
        }
        let changes = of(&self.reader.node("device/pci/0/state"));
        let rounds = changes.iter().filter(|state| **state == "7").count();
        ensure!(changes.iter().all(|state| matches!(*state, "4" | "7")), "{}: {changes:?}", self.reader.name);
        ensure!(rounds <= 2 * usize::try_from(moves)?, "{rounds} rounds for {moves} moves");
        Ok(moves)
    }
}

/// Gives a guest a device and takes it back, until it is over.
fn plug(guest: &str, is_over: &AtomicBool) -> Result<u32> {
    let mut moves = 0;
    while !is_over.load(Ordering::Relaxed) {
        for verb in ["attach", "detach"] {
            let done = Command::new("pcidom").args([verb, guest, E1000E]).output()?;
            if !done.status.success() {
                bail!("{verb} after {moves} moves: {}", String::from_utf8_lossy(&done.stderr).trim());
            }
        }
        moves += 1;
    }
    Ok(moves)
}

/// The values that these nodes have, one after the other, until it is over.
fn watch(nodes: &[String], is_over: &AtomicBool) -> Result<Vec<(String, String)>> {
    let mut store = Store::open()?;
    for node in nodes {
        store.watch(node)?;
    }
    let mut seen: Vec<(String, String)> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        for node in nodes {
            let value = store.text(node)?.unwrap_or_default();
            let last = seen.iter().rev().find(|(path, _)| path == node);
            if last.is_none_or(|(_, last)| *last != value) {
                seen.push((node.clone(), value));
            }
        }
        store.wait(Instant::now() + Duration::from_millis(200))?;
    }
    Ok(seen)
}

/// The guest has seen nothing of it.
pub(crate) fn expect_unnoticed(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    let said = fixture.in_guest(guest, "dmesg | grep -E 'not responding|timeout|polled|controller is down' || true")?;
    ensure!(said.is_empty(), "{} says {:?}", guest.name, String::from_utf8_lossy(&said));
    Ok(())
}

fn summary(done: u32, took: Duration, times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100).map_or(0, Duration::as_micros);
    let (each, p50, max) = (took / done.max(1), at(50), at(100));
    format!("{done} crashes survived, one each {} ms; ready again after {p50} us, {max} at most", each.as_millis())
}

/// Crashes a stub with sixty-four guests so often, while all of them work on their devices as fast as they can.
pub(crate) fn with_many(fixture: &mut Fixture, count: u32, progress: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    fixture.set_limit(4 * LIMIT);
    let scale = Scale::gather(fixture, "restart=always")?;
    let stub = fixture.stub()?;
    for _ in 0..2 {
        interrupt(fixture, &stub)?;
    }
    scale.expect_own_devices(fixture)?;
    let before = Snapshot::take(fixture, &stub)?;
    let started = Instant::now();
    let (mut done, mut times, mut longest) = (0, Vec::new(), 0);
    while done < count {
        fixture.set_limit(LIMIT);
        let requests = scale.begin_stress(fixture, scale.all(), STRESS_MS)?;
        for number in 0..MANY_ROUND.min(count - done) {
            let took = interrupt(fixture, &stub).with_context(|| format!("after {done} crashes"))?;
            times.push(took);
            done += 1;
            // As above: it takes a while to serve sixty-four that have all waited.
            sleep(2 * took + Duration::from_millis(u64::from(number * 7)));
        }
        for answer in Scale::end_stress(fixture, &requests).with_context(|| format!("after {done} crashes"))? {
            let max = answer.split(' ').skip_while(|word| *word != "max").nth(1).context("no longest time")?;
            longest = longest.max(max.parse::<u64>()?);
        }
        if done % 100 == 0 {
            let summary = summary(done, started.elapsed(), &mut times);
            progress(&format!("{summary}; the longest answer took {} us", longest / 1000))?;
        }
    }
    println!("agent: {}; the longest answer took {} us", summary(done, started.elapsed(), &mut times), longest / 1000);
    scale.expect_own_devices(fixture)?;
    before.compare_but(&Snapshot::take(fixture, &stub)?, &CHANGING)
}
