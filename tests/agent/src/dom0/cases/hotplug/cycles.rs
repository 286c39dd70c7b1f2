//! Devices come and go many times, and nothing grows.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Case, ONE};
use crate::dom0::{
    devices::{E1000, E1000E, EDU, NVME, PAIR},
    fixture::Fixture,
    guests::Domain,
    irqs::Irqs,
    snapshot::{Snapshot, debug_key},
};

pub(in super::super) const CASES: &[Case] =
    &[Case::within(Duration::from_mins(10), "nothing_grows_in_ten_cycles_of_attach_and_detach", few)];

/// They come and go together, each on its slot, two of them on one.
const DEVICES: [&str; 5] = [NVME, EDU, E1000E, PAIR[0], PAIR[1]];
/// One round takes a few seconds.
const LIMIT: Duration = Duration::from_mins(1);
const DISK: &str = "/dev/nvme0n1";
/// The figure that lists with room to spare are part of.
const HEAP: &str = "stub's heap_used";

/// Figures that must be after many cycles what they were before. Memory in KiB.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Figures(BTreeMap<String, u64>);

/// Two rounds: the figures are exact, so what grows by one a round shows as well as after fifty. `make soak` does as many as are asked for.
fn few(fixture: &mut Fixture) -> Result<()> {
    match cycles(fixture, 10, &mut |_| Ok(())) {
        // A list may have needed more room than ever in one of them, when many messages came at the same time. What grows with the cycles grows again.
        Err(error) if error.to_string().starts_with(HEAP) => {
            println!("agent: {error}; once more");
            cycles(fixture, 10, &mut |_| Ok(()))
        }
        result => result,
    }
}

/// So many cycles of a device on a running guest whose driver finds the disk each time, all devices at a time. `progress` hears of each hundred.
pub(crate) fn cycles(fixture: &mut Fixture, count: u32, progress: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    fixture.set_limit(2 * LIMIT);
    let guest = fixture.having(ONE, &[E1000])?;
    DEVICES.iter().try_for_each(|device| fixture.in_pool(device))?;
    fixture.in_guest(&guest, "load nvme")?;
    // What happens only once: caches, lists that keep their room.
    for _ in 0..3 {
        fixture.set_limit(LIMIT);
        round(fixture, &guest)?;
    }
    let stub = fixture.stub()?;
    let (before, figures) = (Snapshot::take(fixture, &stub)?, figures(fixture, &guest)?);
    let started = Instant::now();
    let mut done = 0;
    while done < count {
        fixture.set_limit(LIMIT);
        round(fixture, &guest).with_context(|| format!("after {done} cycles"))?;
        done += u32::try_from(DEVICES.len())?;
        if done % 100 == 0 {
            let each = started.elapsed() / done;
            progress(&format!("{done} cycles, {} ms each: {:?}", each.as_millis(), self::figures(fixture, &guest)?.0))?;
        }
    }
    let each = started.elapsed() / done.max(1);
    println!("agent: {done} cycles, {} ms each", each.as_millis());
    let after = self::figures(fixture, &guest)?;
    println!("agent: before {:?}", figures.0);
    println!("agent: after  {:?}", after.0);
    before.compare(&Snapshot::take(fixture, &stub)?)?;
    figures.compare(&after)
}

/// One cycle of each device: the disk comes, the driver finds it with its vectors, and it goes, and the others with it.
fn round(fixture: &mut Fixture, guest: &Domain) -> Result<()> {
    fixture.pcidom(&[&["attach", &*guest.name], &DEVICES[..]].concat())?;
    fixture.await_disk(guest, DISK)?;
    fixture.pcidom(&[&["detach", &*guest.name], &DEVICES[..]].concat()).map(drop)
}

impl Figures {
    /// All but this one.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// Memory may be a little more: what allocators keep, and the room that lists in the stub once needed (they come to rest:
    /// `tests/sim/tests/memory.rs`). Everything else is the same.
    pub(crate) fn compare(&self, later: &Self) -> Result<()> {
        for (name, before) in &self.0 {
            let after = later.0.get(name).copied().unwrap_or_default();
            let is_fine = match name.as_str() {
                "broker's KiB" => after <= before + 128,
                HEAP => after <= before + 1024,
                _ => after == *before,
            };
            ensure!(is_fine, "{name}: {before}, then {after}");
        }
        Ok(())
    }
}

pub(crate) fn figures(fixture: &mut Fixture, guest: &Domain) -> Result<Figures> {
    let mut all = BTreeMap::new();
    let mut note = |name: &str, value: u64| {
        all.insert(name.to_owned(), value);
    };
    note("xenstore nodes", fixture.run("xenstore-ls", &["-f"])?.lines().count() as u64);
    let irqs = Irqs::now(fixture)?;
    let (bound, unbound) = irqs.messages();
    note("messages bound", bound as u64);
    note("messages not bound", unbound as u64);
    note("guest's pirqs", irqs.bound_to(guest.id).len() as u64);
    // One line a port, of all domains (`xen/common/event_channel.c`, `domain_dump_evtchn_info`).
    let ports = debug_key(fixture, "e")?.iter().filter(|line| line.contains("]: s=")).count();
    note("event channels", ports as u64);
    let broker = fixture.broker_pid()?;
    note("broker's files", fs::read_dir(format!("/proc/{broker}/fd"))?.count() as u64);
    let status = fs::read_to_string(format!("/proc/{broker}/status"))?;
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    note("broker's KiB", resident.context("no VmRSS")?);
    // The stub's own: `"name": NUMBER` in the JSON form.
    let status = fixture.pcidom(&["status", "--json"])?;
    let (_, status) = status.split_once("\"statistics\":").with_context(|| format!("no statistics in {status}"))?;
    for name in
        ["heap_used", "mapped_pages", "ports", "grants", "watches", "transactions", "timers", "frontends", "devices"]
    {
        let number = status.split_once(&format!("\"{name}\":")).map(|(_, rest)| rest.trim_start());
        let digits = number.and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next());
        note(
            &format!("stub's {name}"),
            digits.and_then(|digits| digits.parse().ok()).with_context(|| format!("no {name} in {status}"))?,
        );
    }
    Ok(Figures(all))
}
