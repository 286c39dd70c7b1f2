//! A stub that misbehaves gets nothing by it (`tests/guests/malicious-stub`).

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use pci_config::{Policy, fakes::Memory, permitted_writes};

use super::Case;
use crate::dom0::{
    devices::{ALL, E1000, EDU, NVME, component, config},
    fixture::Fixture,
    guests::Domain,
    irqs::Irqs,
    services::SHARE,
};

pub(super) const CASES: &[Case] = &[
    Case::new("a_malicious_stub_is_refused_everything_that_is_not_its_own", malicious),
    Case::new("a_stub_that_hangs_is_started_again_by_the_broker", hanging),
];

/// What it tries, and the answer (`pciif.h`). "Its own" ones show that the broker serves it at all.
const ANSWERS: &[(&str, &str)] = &[
    ("its own device", "0"),
    ("its own device's cache line size", "0"),
    ("another stub's device", "-1"),
    ("a write to another stub's device", "-1"),
    ("another stub's device quiesced", "-1"),
    ("an interrupt of another stub's device", "-1"),
    ("a device of dom0", "-1"),
    ("a device that does not exist", "-1"),
    ("a bus that cannot be", "-1"),
    ("a segment that cannot be", "-1"),
    ("a function that cannot be", "-1"),
    ("a BAR", "-3"),
    ("half a BAR", "-3"),
    ("the ROM's BAR", "-3"),
    ("decoding", "-3"),
    ("decoding, wrapped in what is allowed", "-3"),
    ("decoding, as a byte", "-3"),
    ("the status register", "-3"),
    ("the interrupt line", "-3"),
    ("the message control word", "-3"),
    ("the message address", "-3"),
    ("the message data", "-3"),
    ("nothing at all", "-3"),
    ("no size", "-2"),
    ("three bytes", "-2"),
    ("a negative size", "-2"),
    ("an odd offset", "-2"),
    ("a negative offset", "-2"),
    ("an offset beyond the end", "-2"),
    ("the last offset there is", "-2"),
    ("4,096 vectors", "-5"),
    ("all the vectors there are in 32 bits", "-5"),
    ("more vectors than the table has", "-5"),
    ("a table index out of range", "-5"),
    ("one table index twice", "-5"),
    ("no vector", "-5"),
    ("MSI-X of a device without", "-5"),
    ("MSI of a device without", "-5"),
    ("4,096 messages", "-5"),
    ("three messages", "-5"),
    ("what a device has lost that xen-pciback does not hold", "-1"),
    ("a read, which is not the broker's", "-4"),
    ("command 11", "-4"),
    ("command 0x103", "-4"),
    ("the last command there is", "-4"),
    ("a storm of events", "0"),
    ("garbage flags", "0"),
    ("a ring that was announced wrongly for a while", "0"),
];

fn malicious(fixture: &mut Fixture) -> Result<()> {
    let stub = fixture.stub_with_pool()?;
    for device in [EDU, NVME] {
        fixture.free(device)?;
    }
    fixture.pcidom(&["assignable", "remove", EDU, NVME])?;
    let irqs = Irqs::now(fixture)?.messages();
    let spaces = spaces()?;
    let mut tried = Vec::new();
    let lines = fixture.broker_lines(|fixture| {
        let malicious = start(fixture, NAME, "")?;
        tried = said(fixture, &malicious)?;
        Ok(())
    })?;
    let mut wrong = Vec::new();
    for (index, (name, answer)) in ANSWERS.iter().enumerate() {
        let wanted = format!("{name} err={answer}");
        if tried.get(index) != Some(&wanted) {
            wrong.push(format!("{:?}, not {wanted:?}", tried.get(index)));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    for line in &lines {
        println!("agent: the broker said: {line}");
    }
    let mut once = lines.clone();
    once.sort();
    once.dedup();
    // Several dozen attempts, of which the broker tells a few kinds apart.
    ensure!(once.len() == lines.len() && (5..20).contains(&lines.len()), "not each once: {lines:?}");
    ensure!(Irqs::now(fixture)?.messages() == irqs, "messages were mapped");
    ensure!(self::spaces()? == spaces, "a register has changed");
    // The real stub has not noticed.
    end(fixture, NAME)?;
    let guest = fixture.guest_with("after", &ALL)?;
    ensure!(fixture.addresses_in(&guest)?.len() == ALL.len(), "not all devices are back");
    ensure!(fixture.domains.contains(&stub), "the stub is another one");
    fixture.destroy(&guest)
}

/// Its processor is busy and it answers nothing: the broker has Xen interrupt it, and its image is started again.
fn hanging(fixture: &mut Fixture) -> Result<()> {
    fixture.stub_with_pool()?;
    for device in [EDU, NVME] {
        fixture.free(device)?;
    }
    fixture.pcidom(&["assignable", "remove", EDU, NVME])?;
    let lines = fixture.broker_lines(|fixture| {
        let hanging = start(fixture, HANGING, "hang")?;
        let said = said(fixture, &hanging)?;
        ensure!(said == ["hangs", "started again", "done"], "it said {said:?}");
        Ok(())
    })?;
    let told = |line: &&String| line.contains("hangs and is interrupted");
    ensure!(lines.iter().filter(told).count() == 1, "the broker said {lines:?}");
    end(fixture, HANGING)
}

/// Takes it away, with what the broker's table has of it.
fn end(fixture: &mut Fixture, name: &str) -> Result<()> {
    let malicious =
        fixture.domains.iter().find(|domain| domain.name == name).cloned().context("the malicious stub is gone")?;
    for device in [EDU, NVME] {
        fixture.store.remove(&format!("/tool/pcidom/device/{}", component(device)))?;
    }
    fixture.destroy(&malicious)
}

const NAME: &str = "malicious";
const HANGING: &str = "hanging";

/// Starts it and has the broker's table say that it serves two devices, to itself.
fn start(fixture: &mut Fixture, name: &str, words: &str) -> Result<Domain> {
    let description = format!(
        "name = \"{name}\"\ntype = \"pv\"\nkernel = \"/usr/lib/xen/boot/malicious-stub.elf\"\nmemory = 2\nvcpus = 1\n\
         extra = \"msi={EDU} msix={NVME} foreign={E1000} {words}\"\non_crash = \"destroy\"\non_reboot = \"destroy\"\n"
    );
    let malicious = fixture.create_paused(name, &description)?;
    let id = malicious.id.to_string();
    for device in [EDU, NVME] {
        fixture.store.write(&malicious.node(&format!("pool/{}", component(device))), b"")?;
        let dir = format!("/tool/pcidom/device/{}", component(device));
        let list = permitted_writes(&Memory::of(&config(device)?, false), &Policy::default()).to_node()?;
        for (node, value) in [("permitted-writes", &*list), ("phase", "attached"), ("frontend", &*id), ("stub", &*id)] {
            fixture.store.write(&format!("{dir}/{node}"), value.as_bytes())?;
        }
    }
    fixture.xl(&["unpause", name])?;
    Ok(malicious)
}

/// What it says on its console, up to the end: the texts behind `malicious stub: `.
fn said(fixture: &Fixture, malicious: &Domain) -> Result<Vec<String>> {
    let path = format!("{SHARE}/console/guest-{}.log", malicious.name);
    loop {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<String> = text
            .lines()
            .filter_map(|line| Some(line.split_once("malicious stub: ")?.1.trim_end().to_owned()))
            .collect();
        if lines.last().is_some_and(|line| line == "done") {
            return Ok(lines);
        }
        ensure!(std::time::Instant::now() < fixture.deadline, "it said {lines:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Configuration spaces of all devices, without the register that the malicious stub may write.
fn spaces() -> Result<Vec<Vec<u8>>> {
    ALL.iter()
        .map(|device| {
            let mut space = config(device)?;
            *space.get_mut(0x0c).context("an empty configuration space")? = 0;
            Ok(space)
        })
        .collect()
}
