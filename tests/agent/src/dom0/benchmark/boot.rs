//! Starting the backend, and a guest that has a device from the start.

use std::{fs, time::Instant};

use anyhow::{Context, Result};

use super::{DEVICE, Session, contestant::Contestant, guests::guest_config, plug::milliseconds};
use crate::dom0::{guests::Domain, services::SHARE, stub};

impl Session<'_> {
    /// From the start of `xl create` until the stub says that it is ready, and the stub's own time from its first instruction to then.
    pub(super) fn measure_backend_boot(&mut self) -> Result<()> {
        let log = format!("{SHARE}/console/guest-{}.log", stub::NAME);
        // Earlier stubs have written to the same file.
        let earlier = fs::read_to_string(&log).unwrap_or_default().len();
        let started = Instant::now();
        self.fixture.xl(&["create", "/etc/xen/pcidom.cfg"])?;
        let id = self.fixture.xl(&["domid", stub::NAME])?.trim().parse()?;
        let domain = Domain { name: stub::NAME.to_owned(), id };
        self.fixture.domains.push(domain.clone());
        let deadline = self.fixture.deadline;
        let is_ready = |value: Option<&str>| value.is_some_and(|text| !text.is_empty());
        self.fixture.store.wait_for(&domain.node("data/pcidom/version"), deadline, is_ready)?;
        self.sample("backend_boot", "ms", milliseconds(started.elapsed()))?;
        let own = loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let line = text.get(earlier..).unwrap_or_default().lines().find(|line| line.contains("ready, "));
            if let Some(line) = line {
                // … INFO  ready, 4711 us after the first instruction
                let words = line.split_once("ready, ").and_then(|(_, rest)| rest.split_once(' '));
                break words.and_then(|(time, _)| time.parse().ok()).with_context(|| format!("no time in {line:?}"))?;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            anyhow::ensure!(Instant::now() < deadline, "the stub's console does not say that it is ready");
        };
        self.sample("stub_boot_to_ready", "us", own)?;
        self.measure_size(&domain)
    }

    /// From the first command until the guest's first program takes commands; the device is there by then.
    pub(super) fn measure_boot(&mut self) -> Result<()> {
        let name = "booted";
        let file = format!("/tmp/{name}.cfg");
        let started = Instant::now();
        match self.who {
            Contestant::Pciback => {
                fs::write(&file, guest_config(name, &format!("pci = [\"{DEVICE}\"]\n"))?)?;
                self.fixture.xl(&["create", &file])?;
            }
            Contestant::Pcidom => {
                fs::write(&file, guest_config(name, "")?)?;
                self.fixture.xl(&["create", "-p", &file])?;
                self.fixture.pcidom(&["attach", name, DEVICE])?;
                self.fixture.xl(&["unpause", name])?;
            }
        }
        let id = self.fixture.xl(&["domid", name])?.trim().parse()?;
        let guest = Domain { name: name.to_owned(), id };
        self.fixture.domains.push(guest.clone());
        let deadline = self.fixture.deadline;
        self.fixture.store.wait_for(&guest.node("data/bench/ready"), deadline, |value| value.is_some())?;
        let took = started.elapsed();
        self.fixture.in_guest(&guest, &format!("test -e {}", Self::config_file()))?;
        self.sample("guest_boot_with_device", "ms", milliseconds(took))?;
        self.measure_detach(&guest)?;
        self.fixture.destroy(&guest)
    }
}
