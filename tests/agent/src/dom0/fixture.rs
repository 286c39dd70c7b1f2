//! Test fixture: dom0's commands, xenstore, and the domains that exist.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use super::{
    broker::{self, Broker},
    domain::Domain,
    report::BenchError,
};
use crate::{
    process::{self, Outcome},
    store::Store,
};

/// The state of dom0 that cases share. What a case leaves (the stub, guests) is there for the next, which asks for it in a way
/// that makes it where it is missing; after a failure everything is taken down.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    /// Domains that exist because of us, oldest first.
    pub(crate) domains: Vec<Domain>,
    /// When the running case has to end.
    pub(crate) deadline: Instant,
    /// Numbers the commands given to guests.
    pub(crate) requests: u32,
    /// The broker, once a case needed it.
    pub(crate) broker: Option<Broker>,
    /// What the case before has written to the NVMe disk, by its seed, for a case about the guest that reads it.
    pub(crate) disk_seed: Option<u64>,
}

impl Fixture {
    /// Before the first case.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            store: Store::open()?,
            domains: Vec::new(),
            deadline: Instant::now(),
            requests: 0,
            broker: None,
            disk_seed: None,
        })
    }

    /// Gives what comes next so much time.
    pub(crate) fn set_limit(&mut self, limit: Duration) {
        self.deadline = Instant::now() + limit;
        // A xenstored that answers no more ends a case like any other program that does not.
        self.store.set_deadline(self.deadline);
    }

    /// Runs a command of dom0, which must succeed, and returns its output.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        process::check(Command::new(program).args(arguments), self.deadline)
    }

    /// Runs `xl`, which must succeed, and returns its output.
    pub(crate) fn xl(&self, arguments: &[&str]) -> Result<String> {
        self.run("xl", arguments)
    }

    /// Runs the tool, however it ends.
    pub(crate) fn try_pcidom(&self, arguments: &[&str]) -> Result<Outcome> {
        process::run(Command::new("pcidom").args(arguments), self.deadline)
    }

    /// Runs the tool, which must succeed, and returns its output.
    pub(crate) fn pcidom(&self, arguments: &[&str]) -> Result<String> {
        self.run("pcidom", arguments)
    }

    /// Runs the tool, which must end with `code` and say something with `word` in it.
    pub(crate) fn pcidom_fails(&self, arguments: &[&str], code: i32, word: &str) -> Result<()> {
        let outcome = self.try_pcidom(arguments)?;
        let said = outcome.stderr.trim();
        if outcome.code() != code || !said.to_lowercase().contains(&word.to_lowercase()) {
            bail!(
                "pcidom {} ended with {} (not {code}) and said {said:?} (with no {word:?})",
                arguments.join(" "),
                outcome.code()
            );
        }
        Ok(())
    }

    /// The broker, started where none runs.
    pub(crate) fn broker(&mut self) -> Result<&Broker> {
        let running = self.broker.take().and_then(|mut broker| broker.is_running().then_some(broker));
        let broker = match running {
            Some(broker) => broker,
            None => Broker::start(self.deadline)?,
        };
        Ok(self.broker.insert(broker))
    }

    /// The broker's process.
    pub(crate) fn broker_pid(&mut self) -> Result<u32> {
        Ok(self.broker()?.pid())
    }

    /// Kills the broker with SIGKILL, if one runs.
    pub(crate) fn kill_broker(&mut self) {
        self.broker = None;
    }

    /// Log lines of brokers during `work`.
    pub(crate) fn broker_lines(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<Vec<String>> {
        self.broker()?;
        let before = broker::log_text()?.len();
        work(self)?;
        Ok(broker::log_text()?.get(before..).unwrap_or_default().lines().map(str::to_owned).collect())
    }

    /// Waits until a broker says a line with `word` in it during `work` or after it.
    pub(crate) fn broker_says(&mut self, word: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(50);
        self.broker()?;
        let before = broker::log_text()?.len();
        work(self)?;
        loop {
            let said = broker::log_text()?.get(before..).unwrap_or_default().to_owned();
            if said.contains(word) {
                return Ok(());
            }
            ensure!(Instant::now() < self.deadline, "the broker does not say {word:?}, but {said:?}");
            thread::sleep(PAUSE);
        }
    }

    /// Ends a domain at once and waits until it is gone.
    pub(crate) fn destroy(&mut self, domain: &Domain) -> Result<()> {
        self.xl(&["destroy", &domain.name])?;
        self.domains.retain(|other| other != domain);
        let deadline = self.deadline;
        // xenstored drops the directory's owner's nodes when Xen says that the domain is gone.
        self.store.wait_for(&domain.node("vm"), deadline, |value| value.is_none())?;
        Ok(())
    }

    /// Waits until Xen has freed a domain that was ended: as long as somebody has a page of it mapped, it is there, and so are its grants and rights.
    pub(crate) fn await_freed(&self, domain: &Domain) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(50);
        let id = domain.id.to_string();
        // Its name is the line's first word, its number the second.
        while self.xl(&["list"])?.lines().any(|line| line.split_whitespace().nth(1) == Some(&id)) {
            ensure!(Instant::now() < self.deadline, "{} was ended, and Xen still has it", domain.name);
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Takes down what a failed case left.
    pub(crate) fn clear(&mut self) {
        self.set_limit(Duration::from_mins(1));
        // Whatever goes wrong here shows in the next case.
        if let Err(error) = self.destroy_all() {
            println!("agent: {error:#}");
        }
        self.kill_broker();
    }

    /// Ends all domains but dom0, also those that a command under test has made. The youngest first, and stubs last, so that they can let go of what guests had.
    fn destroy_all(&mut self) -> Result<()> {
        let known = std::mem::take(&mut self.domains);
        let mut all = Vec::new();
        for id in self.store.children("/local/domain")? {
            let id: u16 = id.parse()?;
            let name = self.store.text(&format!("/local/domain/{id}/name"))?;
            let is_stub = self.store.text(&format!("/local/domain/{id}/data/pcidom/version"))?.is_some();
            let name = known.iter().find(|domain| domain.id == id).map_or(name, |domain| Some(domain.name.clone()));
            all.push((is_stub, std::cmp::Reverse(id), name.unwrap_or_default()));
        }
        all.sort();
        for (_, std::cmp::Reverse(id), name) in all.into_iter().filter(|(_, id, _)| id.0 != 0) {
            let is_there = self.run("xl", &["list", &id.to_string()]).is_ok();
            if is_there && let Err(error) = self.destroy(&Domain { name: id.to_string(), id }) {
                println!("agent: ending {name}: {error:#}");
            }
        }
        Ok(())
    }

    /// Makes dom0 what it was before the first case: no domains, no broker, all devices with dom0's drivers, and nothing in xenstore about them.
    pub(crate) fn start_afresh(&mut self) -> Result<()> {
        self.clear();
        self.disk_seed = None;
        let result = self.return_devices();
        result.map_err(|error| BenchError(format!("taking everything down: {error:#}")).into())
    }

    fn return_devices(&mut self) -> Result<()> {
        const PCIBACK: &str = "/sys/bus/pci/drivers/pciback";
        for entry in fs::read_dir(PCIBACK)? {
            let device = entry?.file_name().to_string_lossy().into_owned();
            if device.contains(':') {
                self.xl(&["pci-assignable-remove", "-r", &device])?;
                // Written by whoever parked it.
                fs::write(format!("/sys/bus/pci/devices/{device}/driver_override"), "\n")?;
            }
        }
        // Both tools' notes about devices.
        self.store.remove("/tool/pcidom")?;
        self.store.remove("/libxl/pci")
    }
}
