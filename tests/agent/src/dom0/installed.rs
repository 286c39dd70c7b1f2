//! Cases on a Debian host that systemd has brought up (`tests/bench/src/installed/mod.rs`): this program is one of its units there, not its init.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Pid;

use super::{domain::Domain, fixture::Fixture, guests::command_line, report::Report, services::SHARE};
use crate::process;

/// The guest of these cases, its configuration, and its device as the README calls it.
pub(crate) const GUEST: &str = "guest";
pub(crate) const GUEST_CONFIG: &str = "/etc/xen/guest.cfg";
pub(crate) const DEVICE: &str = "0000:05:00.0";
/// How often something is looked at that nobody tells of.
const STEP: Duration = Duration::from_millis(200);
/// The host stops within this.
const UNTIL_DOWN: Duration = Duration::from_mins(2);

/// Runs the cases of the plan, saves the journal, and has the host restart, which ends QEMU.
pub(crate) fn run() -> Result<()> {
    let plan = fs::read_to_string(format!("{SHARE}/plan")).context("reading the plan")?;
    let (suite, options) = plan.trim().split_once(' ').unwrap_or((plan.trim(), ""));
    let mut report = Report::create()?;
    let mut fixture = Fixture::new()?;
    let done = super::run_cases(suite, options, &mut fixture, &mut report);
    let deadline = Instant::now() + UNTIL_DOWN;
    let journal =
        process::run(Command::new("journalctl").args(["-b", "--no-pager", "-o", "short-monotonic"]), deadline)?;
    fs::write(format!("{SHARE}/journal"), journal.stdout)?;
    // After a case that failed it may be there, and it does not shut down when it is asked: xendomains would wait for minutes.
    fixture.set_limit(UNTIL_DOWN);
    if let Some(guest) = fixture.find(GUEST)? {
        fixture.destroy(&guest)?;
    }
    process::check(Command::new("systemctl").args(["--no-block", "reboot"]), deadline)?;
    done
}

/// A unit of the host.
#[derive(Clone, Copy)]
pub(crate) struct Unit(pub(crate) &'static str);

pub(crate) const BROKER: Unit = Unit("pcidom.service");
pub(crate) const BACKEND: Unit = Unit("pcidom-backend.service");
pub(crate) const GUESTS: Unit = Unit("pcidom-guests.service");
pub(crate) const XENDOMAINS: Unit = Unit("xendomains.service");

impl Fixture {
    /// A property of a unit, as `systemctl show` prints it.
    pub(crate) fn property(&self, unit: Unit, name: &str) -> Result<String> {
        let value = self.run("systemctl", &["show", "--value", "-p", name, unit.0])?;
        Ok(value.trim().to_owned())
    }

    /// Moment (microseconds since the boot) at which a unit got so far.
    pub(crate) fn moment(&self, unit: Unit, name: &str) -> Result<u64> {
        let value = self.property(unit, name)?;
        value.parse().with_context(|| format!("{name} of {} is {value:?}", unit.0))
    }

    /// Fails unless the unit is active.
    pub(crate) fn check_active(&self, unit: Unit) -> Result<()> {
        let state = self.property(unit, "ActiveState")?;
        ensure!(state == "active", "{} is {state}: {}", unit.0, self.log_of(unit)?);
        Ok(())
    }

    /// The last lines of a unit's log.
    pub(crate) fn log_of(&self, unit: Unit) -> Result<String> {
        self.run("journalctl", &["-b", "--no-pager", "-o", "cat", "-n", "40", "-u", unit.0])
    }

    /// Kills a unit's main process and waits until systemd has started another one, which says that it is ready.
    pub(crate) fn kill_and_await(&self, unit: Unit) -> Result<()> {
        let before = self.property(unit, "MainPID")?;
        self.run("systemctl", &["kill", "-s", "KILL", unit.0])?;
        self.until(&format!("{} did not come back", unit.0), || {
            let [state, process] = ["ActiveState", "MainPID"].map(|name| self.property(unit, name));
            let process = process?;
            Ok(state? == "active" && process != before && process != "0")
        })
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, otherwise: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        while !is_so()? {
            ensure!(Instant::now() < self.deadline, "{otherwise}");
            thread::sleep(STEP);
        }
        Ok(())
    }

    /// The guest that runs and answers.
    pub(crate) fn running_guest(&mut self) -> Result<Domain> {
        let guest = self.find(GUEST)?.context("there is no guest")?;
        let deadline = self.deadline;
        self.store.wait_for(&guest.node("data/bench/ready"), deadline, |value| value.is_some())?;
        Ok(guest)
    }

    /// The driver domain that runs and is ready, whichever it is.
    pub(crate) fn driver_domain(&mut self) -> Result<Domain> {
        loop {
            if let Some(domain) = self.find("pcidom")?
                && self.store.text(&domain.node("data/pcidom/version"))?.is_some()
            {
                return Ok(domain);
            }
            ensure!(Instant::now() < self.deadline, "no driver domain is ready");
            thread::sleep(STEP);
        }
    }

    /// Waits until the guest is connected to this driver domain.
    pub(crate) fn await_connected(&mut self, guest: &Domain, stub: &Domain) -> Result<()> {
        let deadline = self.deadline;
        let back = stub.node(&format!("backend/pci/{}/0/state", guest.id));
        for node in [back, guest.node("device/pci/0/state")] {
            self.store.wait_for(&node, deadline, |state| state == Some("4"))?;
        }
        Ok(())
    }

    /// The process of this name, if there is one.
    pub(crate) fn process_called(&self, name: &str) -> Result<Option<Pid>> {
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Ok(number) = entry.file_name().to_string_lossy().parse() else { continue };
            // It may have ended meanwhile.
            if fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name) {
                return Ok(Pid::from_raw(number));
            }
        }
        Ok(None)
    }

    /// Runs a line as an administrator would type it, in the folder that the packages are in.
    pub(crate) fn type_in(&self, folder: &str, line: &str) -> Result<String> {
        println!("$ {line}");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", line])
            .current_dir(Path::new(SHARE).join(folder))
            .env("HOME", "/root")
            .env("DEBIAN_FRONTEND", "noninteractive");
        let outcome = process::run(&mut shell, self.deadline)?;
        let (out, err) = (outcome.text(), outcome.stderr.trim());
        println!("{out}{err}");
        if outcome.code() != 0 {
            bail!("{line:?} ended with {}: {} {err}", outcome.code(), out.trim());
        }
        Ok(out)
    }
}

/// A guest's configuration as an administrator has it.
pub(crate) fn guest_config(name: &str, device: &str) -> String {
    format!(
        "name = \"{name}\"\ntype = \"pv\"\nkernel = \"{SHARE}/guest/vmlinux\"\nramdisk = \"{SHARE}/guest/initrd.img\"\nmemory = 192\nvcpus = 1\n\
         extra = \"{}\"\npci = [ \"{device}\" ]\n",
        command_line("xen-pcifront")
    )
}
