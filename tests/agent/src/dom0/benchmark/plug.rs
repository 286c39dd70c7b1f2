//! Attaching to a running guest, and detaching from it.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};

use super::{DEVICE, DRIVER, Session, contestant::Contestant, handshake::Handshake};
use crate::{dom0::guests::Domain, process};

/// The guest needs this to start listening for the driver.
const LISTENING: Duration = Duration::from_millis(500);

impl Session<'_> {
    /// From the start of the command until the guest's driver has the device.
    pub(super) fn measure_attach(&mut self, guest: &Domain) -> Result<()> {
        let backend = self.backend()?;
        let handshake = Handshake::watch(guest, backend, self.fixture.deadline)?;
        let request = self.fixture.ask(guest, &format!("await-bound {DRIVER}"))?;
        thread::sleep(LISTENING);
        let mut command = self.who.attach(guest, DEVICE);
        let deadline = self.fixture.deadline;
        let started = Instant::now();
        let steps = self.wants_steps();
        if steps {
            command.arg("-v");
        }
        let running = thread::spawn(move || -> Result<Instant> {
            let outcome = process::run(&mut command, deadline)?;
            let ended = Instant::now();
            if steps {
                println!("agent: attach:\n{}", outcome.stderr);
            }
            ensure!(outcome.code() == 0, "{command:?}: {}", outcome.stderr);
            Ok(ended)
        });
        let bound = self.fixture.answer_well(&request).map(|_| started.elapsed());
        let returned = running.join().map_err(|_| anyhow!("the thread panicked"))?? - started;
        self.sample("attach", "ms", milliseconds(bound?))?;
        self.sample("attach_command", "ms", milliseconds(returned))?;
        let scan = handshake.took()?;
        self.sample("bus_scan", "us", scan.as_secs_f64() * 1e6)?;
        self.measure_interrupts(guest)
    }

    /// Whether the steps of pcidom's commands are to be shown with their times, on dom0's console. Only when asked for by name, since
    /// that costs time too.
    pub(super) fn wants_steps(&self) -> bool {
        self.who == Contestant::Pcidom && self.only.contains(&"steps")
    }

    /// How long a command takes that must succeed, in milliseconds. `what` it is, for those who want to see its steps.
    pub(super) fn time_command(&self, what: &str, mut command: Command) -> Result<f64> {
        let steps = self.wants_steps();
        if steps {
            command.arg("-v");
        }
        let started = Instant::now();
        let outcome = process::run(&mut command, self.fixture.deadline)?;
        let took = started.elapsed();
        if steps {
            println!("agent: {what}:\n{}", outcome.stderr);
        }
        ensure!(outcome.code() == 0, "{command:?}: {}", outcome.stderr);
        Ok(milliseconds(took))
    }

    /// From the start of the command to its end, when the guest must not have the device any more.
    pub(super) fn measure_detach(&mut self, guest: &Domain) -> Result<()> {
        let took = self.time_command("detach", self.who.detach(guest, DEVICE))?;
        self.sample("detach", "ms", took)?;
        let left = self.fixture.addresses_in(guest)?;
        ensure!(left.is_empty(), "{} still has {left:?}", guest.name);
        Ok(())
    }
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
