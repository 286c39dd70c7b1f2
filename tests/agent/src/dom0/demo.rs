//! `make run`: what a user does, with the commands shown as they would be typed.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use super::{fixture::Fixture, guests::Domain, report::Report};
use crate::process;

/// The devices, in the short form that `lspci` prints.
const DEVICES: [&str; 3] = ["00:05.0", "00:06.0", "00:07.0"];

struct Demo<'a> {
    fixture: &'a mut Fixture,
    report: &'a mut Report,
}

/// Shows how devices get into a guest and back.
pub(crate) fn run(fixture: &mut Fixture, report: &mut Report) -> Result<()> {
    let mut demo = Demo { fixture, report };
    let result = demo.show();
    if let Err(error) = &result {
        report.line(format_args!("{error:#}"))?;
    }
    result
}

impl Demo<'_> {
    fn show(&mut self) -> Result<()> {
        self.say("The stub, a domain of 1 MiB, will serve PCI devices in place of dom0's kernel.")?;
        self.dom0("xl create /etc/xen/pcidom.cfg")?;
        let version = self.domain("pcidom")?.node("data/pcidom/version");
        self.fixture.store.wait_for(&version, self.fixture.deadline, |value| value.is_some())?;
        self.say("It takes three devices into its pool.")?;
        for device in DEVICES {
            self.dom0(&format!("pcidom assignable add {device}"))?;
        }
        self.dom0("pcidom assignable list")?;
        let [card, toy, disk] = DEVICES;
        self.say("A Debian guest, not started yet, gets two of them.")?;
        self.dom0("xl create -p /etc/xen/guest.cfg")?;
        self.dom0(&format!("pcidom attach -v guest {card} {toy}"))?;
        self.dom0("xl unpause guest")?;
        let guest = self.domain("guest")?;
        let deadline = self.fixture.deadline;
        self.fixture.store.wait_for(&guest.node("device/pci/0/state"), deadline, |state| state == Some("4"))?;
        self.fixture.store.wait_for(&guest.node("data/bench/ready"), deadline, |value| value.is_some())?;
        self.dom0("xl list")?;
        self.say("The guest's unchanged kernel finds them on its own bus 0.")?;
        self.guest(&guest, "lspci")?;
        self.say("The disk follows while the guest runs: both ends go from Connected through Reconfiguring and Reconfigured.")?;
        self.dom0(&format!("pcidom attach -v guest {disk}"))?;
        self.guest(&guest, "lspci -v -s 00:02.0")?;
        self.dom0("pcidom list")?;
        self.say("One leaves, the others stay; then all are back in the pool.")?;
        self.dom0(&format!("pcidom detach guest {card}"))?;
        self.guest(&guest, "lspci")?;
        self.dom0(&format!("pcidom detach guest {toy} {disk}"))?;
        self.guest(&guest, "lspci")?;
        self.dom0("pcidom list")?;
        self.dom0("xl destroy guest")?;
        self.report.line(format_args!("done"))
    }

    fn domain(&mut self, name: &str) -> Result<Domain> {
        self.fixture.find(name)?.with_context(|| format!("there is no {name}"))
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.report.line(format_args!("\n{text}"))
    }

    fn dom0(&mut self, command: &str) -> Result<()> {
        self.fixture.set_limit(Duration::from_mins(3));
        self.report.line(format_args!("dom0# {command}"))?;
        let outcome = process::run(Command::new("sh").args(["-c", command]), self.fixture.deadline)?;
        let said = outcome.text() + &outcome.stderr;
        // xl says what file it reads, and repeats one setting.
        let chatter = |line: &&str| line.starts_with("Parsing config") || line.starts_with("got a tsc mode");
        for line in said.lines().filter(|line| !chatter(line)) {
            self.report.line(format_args!("{line}"))?;
        }
        match outcome.code() {
            0 => Ok(()),
            code => bail!("that ended with {code}"),
        }
    }

    fn guest(&mut self, guest: &Domain, command: &str) -> Result<()> {
        self.report.line(format_args!("guest# {command}"))?;
        let output = self.fixture.in_guest(guest, command)?;
        // lspci misses the index of modules, which the guest's archive has no use for.
        for line in String::from_utf8_lossy(&output).lines().filter(|line| !line.contains("libkmod")) {
            self.report.line(format_args!("{line}"))?;
        }
        Ok(())
    }
}
