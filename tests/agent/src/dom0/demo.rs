//! `make run`: what a user does, with the commands shown as they would be typed.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{fixture::Fixture, guests::Domain, report::Report, services::SHARE};
use crate::process;

/// The devices, in the short form that `lspci` prints.
const DEVICES: [&str; 3] = ["00:05.0", "00:06.0", "00:07.0"];

/// The disk as its driver names it, and a file on it.
const DISK: &str = "/dev/nvme0n1";
const FILE: &str = "/mnt/file";
/// What the driver's queues have raised so far.
const INTERRUPTS: &str = "grep nvme /proc/interrupts";

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
        self.say("The broker carries out what Xen lets only dom0 do; on a host a systemd unit runs it.")?;
        self.report.line(format_args!("dom0# pcidom serve &"))?;
        self.fixture.broker()?;
        self.say("A Debian guest, not started yet, gets two of them.")?;
        self.dom0("xl create -p /etc/xen/guest.cfg")?;
        self.dom0(&format!("pcidom attach -v guest {card} {toy}"))?;
        let guest = self.start("guest")?;
        self.dom0("xl list")?;
        self.say("The guest's unchanged kernel finds them on its own bus 0.")?;
        self.guest(&guest, "lspci")?;
        self.say("The disk follows while the guest runs: both ends go from Connected through Reconfiguring and Reconfigured.")?;
        self.dom0(&format!("pcidom attach -v guest {disk}"))?;
        self.guest(&guest, "lspci -v -s 00:02.0")?;
        self.dom0("pcidom list")?;
        self.say("The guest's own driver works with it by MSI-X: a file system, and a file of 4 MiB.")?;
        self.mount(&guest, &format!("mke2fs -F {DISK} > /dev/null"))?;
        self.guest(&guest, &format!("dd if=/dev/urandom of={FILE} bs=64k count=64 2> /dev/null"))?;
        let written = self.guest(&guest, &format!("sha256sum {FILE}"))?;
        self.guest(&guest, INTERRUPTS)?;
        self.guest(&guest, "umount /mnt")?;
        self.say("One device leaves, the others stay.")?;
        self.dom0(&format!("pcidom detach guest {card}"))?;
        self.guest(&guest, "lspci")?;
        self.say("The disk goes to another running guest, which finds the file.")?;
        self.dom0("xl create -p /etc/xen/guest.cfg 'name=\"other\"'")?;
        let other = self.start("other")?;
        self.dom0(&format!("pcidom detach guest {disk}"))?;
        self.dom0(&format!("pcidom attach other {disk}"))?;
        self.mount(&other, "test -b /dev/nvme0n1")?;
        let read = self.guest(&other, &format!("sha256sum {FILE}"))?;
        ensure!(written == read, "the file has changed on its way");
        self.guest(&other, INTERRUPTS)?;
        self.guest(&other, "umount /mnt")?;
        self.say("All of them go back to the pool. What the backend says of itself, and its console:")?;
        self.dom0(&format!("pcidom detach guest {toy}"))?;
        self.dom0(&format!("pcidom detach other {disk}"))?;
        self.dom0("pcidom list")?;
        self.dom0("pcidom status")?;
        self.dom0(&format!("cat {SHARE}/console/guest-pcidom.log"))?;
        self.dom0("xl destroy other")?;
        self.dom0("xl destroy guest")?;
        self.report.line(format_args!("done"))
    }

    /// Lets a guest run, until its driver is connected and its first program has an ear for commands.
    fn start(&mut self, name: &str) -> Result<Domain> {
        self.dom0(&format!("xl unpause {name}"))?;
        let guest = self.domain(name)?;
        let deadline = self.fixture.deadline;
        if self.fixture.store.text(&guest.node("device/pci/0/state"))?.is_some() {
            self.fixture.store.wait_for(&guest.node("device/pci/0/state"), deadline, |state| state == Some("4"))?;
        }
        self.fixture.store.wait_for(&guest.node("data/bench/ready"), deadline, |value| value.is_some())?;
        Ok(guest)
    }

    /// Loads the disk's driver, which a full system does by itself, and mounts what is on it once that was prepared.
    fn mount(&mut self, guest: &Domain, prepare: &str) -> Result<()> {
        for module in ["nvme", "crc32c_generic", "ext4"] {
            self.fixture.in_guest(guest, &format!("load {module}"))?;
        }
        self.fixture.await_disk(guest, DISK)?;
        self.fixture.in_guest(guest, "mkdir -p /mnt")?;
        self.guest(guest, &format!("{prepare} && mount -t ext2 {DISK} /mnt")).map(drop)
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

    /// Shows what a command in a guest prints, and gives it back.
    fn guest(&mut self, guest: &Domain, command: &str) -> Result<Vec<u8>> {
        self.report.line(format_args!("{}# {command}", guest.name))?;
        let output = self.fixture.in_guest(guest, command)?;
        // lspci misses the index of modules, which the guest's archive has no use for.
        for line in String::from_utf8_lossy(&output).lines().filter(|line| !line.contains("libkmod")) {
            self.report.line(format_args!("{line}"))?;
        }
        Ok(output)
    }
}
