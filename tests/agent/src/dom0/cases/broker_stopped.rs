//! A stopped broker delays only the guest whose request it has.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::{Case, network};
use crate::dom0::{
    devices::{E1000, EDU, sysfs},
    fixture::Fixture,
    guests::Domain,
};

pub(super) const CASES: &[Case] =
    &[Case::new("reads_of_one_guest_are_as_fast_while_another_waits_for_a_stopped_broker", another_waits)];

/// What `read-latency` says: how many reads, then microseconds for the median, nine of ten and the longest.
struct Latency {
    reads: u64,
    longest: u64,
    text: String,
}

impl Latency {
    fn parse(text: &[u8]) -> Result<Self> {
        let numbers: Vec<u64> = std::str::from_utf8(text)?.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [reads, median, most, longest] = numbers[..] else { bail!("{numbers:?}") };
        let text = format!("{reads} reads, median {median} us, 90 % within {most} us, longest {longest} us");
        Ok(Self { reads, longest, text })
    }
}

fn another_waits(fixture: &mut Fixture) -> Result<()> {
    let waiting = network::guest(fixture)?;
    let reading = fixture.guest_with("reading", &[EDU])?;
    let quiet = reads(fixture, &reading)?;
    // Bus mastering off and on: writes that need the broker. The first shows that they work.
    let register = format!("{}/config", sysfs(&fixture.virtual_address(&waiting, E1000)?));
    let write = |word: &str| format!("printf '\\{word}\\0' | dd of={register} bs=1 seek=4 conv=notrunc 2>&1");
    fixture.in_guest(&waiting, &write("3"))?;
    fixture.in_guest(&waiting, &write("7"))?;
    fixture.broker()?.signal(Signal::STOP)?;
    let request = fixture.ask(&waiting, &format!("{}; {}; {}", write("3"), write("7"), write("3")))?;
    let busy = reads(fixture, &reading);
    fixture.broker()?.signal(Signal::CONT)?;
    let busy = busy?;
    let (code, said) = fixture.answer(&request)?;
    println!("agent: while nobody waits: {}; while another guest waits: {}", quiet.text, busy.text);
    println!("agent: the guest that waited got {code}: {}", String::from_utf8_lossy(&said).trim().replace('\n', " | "));
    // How fast is for the benchmarks to say: the guest that waits spins, and takes one of two emulated CPUs.
    ensure!(busy.reads * 10 > quiet.reads, "{}, and {} when nobody waits", busy.text, quiet.text);
    // What the other guest waits for is a second and a half.
    ensure!(busy.longest < 500_000, "{}", busy.text);
    fixture.in_guest(&waiting, &write("7")).context("with the broker back")?;
    fixture.destroy(&reading)
}

fn reads(fixture: &mut Fixture, guest: &Domain) -> Result<Latency> {
    let file = format!("{}/config", sysfs(&fixture.virtual_address(guest, EDU)?));
    Latency::parse(&fixture.in_guest(guest, &format!("read-latency {file} 0 2000"))?)
}
