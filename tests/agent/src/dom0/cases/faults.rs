//! The stub's image crashes before and after each hypercall, and at each message of xenstored, of whatever it is at (docs/restart.md). The image is one that
//! crashes where it is told to (`kernel/src/faults.rs`).

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    attaching::Attaching,
    crashes::{CHANGING, FAULTS, KINDS, PLACES, expect_unnoticed},
    devices::{self, E1000, EDU, NVME},
    fixture::Fixture,
    guests::{Domain, GuestOptions},
    services::SHARE,
    snapshot::Snapshot,
    stub::NAME,
};

pub(super) const CASES: &[Case] = &[
    Case::within(LIMIT, "a_crash_before_and_after_each_call_of_a_request_is_not_noticed_by_the_guest", |fixture| {
        requests(fixture, false)
    }),
    Case::within(LIMIT, "a_crash_at_calls_of_detach_and_attach_is_not_noticed_by_the_guest", |fixture| {
        handshakes(fixture, false)
    }),
];

const DISK: &str = "/dev/nvme0n1";
/// For one crash and what is done then, and for a case.
const LIMIT: Duration = Duration::from_mins(8);
/// More places than anything comes to.
const MOST: usize = 400;

/// A stub that crashes where it is told to, and its console.
struct Campaign {
    /// At each place that there is, and not only at some.
    is_whole: bool,
    stub: Domain,
    log: File,
    /// What the console says behind the last wish.
    text: String,
    crashes: usize,
    worst: Duration,
}

impl Campaign {
    fn begin(fixture: &mut Fixture, is_whole: bool) -> Result<Self> {
        fixture.clear();
        fixture.set_limit(LIMIT);
        fixture.broker()?;
        let stub = fixture.start_stub_with(NAME, "restart=always", FAULTS)?;
        let mut log = File::open(format!("{SHARE}/console/guest-{NAME}.log"))?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self { is_whole, stub, log, text: String::new(), crashes: 0, worst: Duration::ZERO })
    }

    /// Has the stub crash at a place, and waits until it says that it will. How often it has crashed between the wish before and this one.
    fn want(&mut self, fixture: &mut Fixture, wish: &str) -> Result<usize> {
        let node = self.stub.node(&format!("data/pcidom/query/fault-{wish}"));
        let line = format!("fault wanted: {wish}\r\n");
        for _ in 0..20 {
            fixture.store.write(&node, b"1")?;
            // A crash at something else may take the wish with it.
            let deadline = Instant::now() + Duration::from_millis(500);
            while Instant::now() < deadline {
                let mut more = Vec::new();
                self.log.read_to_end(&mut more)?;
                self.text += &String::from_utf8_lossy(&more);
                if let Some((before, behind)) = self.text.split_once(&line) {
                    let crashes = before.matches(" PANIC at ").count();
                    self.crashes += crashes;
                    self.text = behind.to_owned();
                    return Ok(crashes);
                }
                sleep(Duration::from_millis(2));
            }
        }
        anyhow::bail!("the stub does not take the wish {wish}: {}", self.text)
    }

    /// Does the same again and again, with a crash at each `every`th of the places that it comes to, until it comes to no more of them. `least`: how many crashes
    /// there must be.
    fn walk(
        &mut self,
        fixture: &mut Fixture,
        what: &str,
        (every, least): (usize, usize),
        work: &mut dyn FnMut(&mut Fixture) -> Result<()>,
    ) -> Result<()> {
        let every = if self.is_whole { 1 } else { every };
        let mut crashes = 0;
        for place in PLACES {
            for number in (1..MOST).step_by(every) {
                let wish = format!("{}-{place}-{number}", KINDS[number / every % KINDS.len()]);
                fixture.set_limit(LIMIT);
                self.want(fixture, &wish)?;
                let started = Instant::now();
                work(fixture).with_context(|| format!("{what}, with {wish}"))?;
                self.worst = self.worst.max(started.elapsed());
                let now = self.want(fixture, "panic-none-1").with_context(|| format!("after {what} with {wish}"))?;
                ensure!(now < 2, "{now} crashes with {wish}");
                if now == 0 {
                    break;
                }
                crashes += 1;
            }
        }
        println!("agent: {what}: {crashes} crashes, {} ms at most", self.worst.as_millis());
        self.worst = Duration::ZERO;
        ensure!(crashes >= least, "only {crashes} crashes in {what}");
        Ok(())
    }
}

fn requests(fixture: &mut Fixture, is_whole: bool) -> Result<()> {
    let mut campaign = Campaign::begin(fixture, is_whole)?;
    let guest = fixture.guest_with("reader", &[NVME, EDU])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, DISK)?;
    campaign.want(fixture, "panic-before-1")?;
    campaign.want(fixture, "panic-none-1")?;
    let before = Snapshot::take(fixture, &campaign.stub)?;
    let config = format!("/sys/bus/pci/devices/{}/config", fixture.virtual_address(&guest, EDU)?);
    let ids = devices::ids(EDU)?.to_le_bytes();
    campaign.walk(fixture, "a read", (1, 6), &mut |fixture| {
        let read = fixture.in_guest(&guest, &format!("read-often {config} 0 1"))?;
        ensure!(read == ids, "it reads {read:02x?}");
        Ok(())
    })?;
    // Cache Line Size, which only the broker writes: bit 4 the other way each time.
    let line_size = || Ok::<_, anyhow::Error>(std::fs::read(format!("/sys/bus/pci/devices/{EDU}/config"))?[0xc]);
    campaign.walk(fixture, "a write", (1, 12), &mut |fixture| {
        let wanted = line_size()? ^ 0x10;
        fixture.in_guest(&guest, &format!("time-access write {config} 12 1 1"))?;
        ensure!(line_size()? == wanted, "{:#x}, not {wanted:#x}", line_size()?);
        Ok(())
    })?;
    let mut seed = 0;
    campaign.walk(fixture, "MSI-X off and on", (9, 4), &mut |fixture| {
        seed += 1;
        fixture.in_guest(&guest, "reload nvme 1")?;
        fixture.await_disk(&guest, DISK)?;
        fixture.check_kind(&guest, "nvme0q", "pcifront-msi-x", 2)?;
        fixture.in_guest(&guest, &format!("disk-write {DISK} {seed} 1"))?;
        fixture.in_guest(&guest, &format!("disk-check {DISK} {seed} 1")).map(drop)
    })?;
    expect_unnoticed(fixture, &guest)?;
    println!("agent: {} crashes", campaign.crashes);
    before.compare_but(&Snapshot::take(fixture, &campaign.stub)?, &CHANGING)
}

fn handshakes(fixture: &mut Fixture, is_whole: bool) -> Result<()> {
    let mut campaign = Campaign::begin(fixture, is_whole)?;
    let guest = fixture.guest_with("reader", &[NVME, EDU])?;
    campaign.want(fixture, "panic-before-1")?;
    campaign.want(fixture, "panic-none-1")?;
    let before = Snapshot::take(fixture, &campaign.stub)?;
    campaign.walk(fixture, "a detach and an attach", (61, 6), &mut |fixture| {
        fixture.detach(&guest, &[EDU])?;
        fixture.expect_free(EDU)?;
        fixture.attach(&guest, &[EDU])?;
        fixture.expect_in_guest(&guest, &[NVME, EDU])
    })?;
    expect_unnoticed(fixture, &guest)?;
    println!("agent: {} crashes", campaign.crashes);
    before.compare_but(&Snapshot::take(fixture, &campaign.stub)?, &CHANGING)
}

/// A frontend connects anew each time, as after a kexec.
fn connects(fixture: &mut Fixture, is_whole: bool) -> Result<()> {
    let mut campaign = Campaign::begin(fixture, is_whole)?;
    fixture.in_pool(E1000)?;
    let modules = "xen-gntalloc,xen-evtchn";
    let other = fixture.create_guest("other", GuestOptions { modules, ..GuestOptions::default() })?;
    fixture.unpause(&other)?;
    let attaching = Attaching::start(&other, E1000)?;
    fixture.await_backend(&other, "3")?;
    let connect = |fixture: &mut Fixture, stub: u16| {
        fixture.in_guest(&other, &format!("front-open {stub}"))?;
        fixture.in_guest(&other, "front-state 3")?;
        fixture.await_backend(&other, "4")?;
        fixture.in_guest(&other, "front-state 4")?;
        fixture.in_guest(&other, "front-read 0000:00:00.0 0").map(drop)
    };
    let stub = campaign.stub.id;
    connect(fixture, stub)?;
    attaching.finish(fixture.deadline)?;
    campaign.walk(fixture, "a connect", (5, 12), &mut |fixture| {
        fixture.in_guest(&other, "front-state 1")?;
        fixture.await_backend(&other, "3")?;
        connect(fixture, stub)
    })?;
    println!("agent: {} crashes", campaign.crashes);
    fixture.destroy(&other)?;
    fixture.pcidom(&["reclaim"])?;
    fixture.await_freed(&other)?;
    fixture.expect_free(E1000)
}

/// What is done with a crash at each place, with its name.
pub(crate) type Walk = (&'static str, fn(&mut Fixture) -> Result<()>);

/// Everything that the cases do with a crash at some places, and connections.
pub(crate) const WALKS: [Walk; 3] = [
    ("a_crash_at_each_place_of_a_request_is_not_noticed_by_the_guest", |fixture| requests(fixture, true)),
    ("a_crash_at_each_place_of_a_detach_and_an_attach_is_not_noticed_by_the_guest", |fixture| {
        handshakes(fixture, true)
    }),
    ("a_crash_at_each_place_of_a_connect_is_not_noticed_by_the_frontend", |fixture| connects(fixture, true)),
];
