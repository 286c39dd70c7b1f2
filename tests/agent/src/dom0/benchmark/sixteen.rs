//! Sixteen devices in one command, against one.

use std::process::Command;

use anyhow::{Result, ensure};

use super::Session;
use crate::dom0::guests::Domain;

/// The two slots that these functions fill (`tests/bench/src/boot.rs`).
const SLOTS: [&str; 2] = ["0000:00:10", "0000:00:11"];
const FUNCTIONS: u8 = 8;

impl Session<'_> {
    /// From the start of each command to its end, for one device and for all of them, and the second as a multiple of the first. The guest has no others.
    pub(super) fn measure_sixteen(&mut self, guest: &Domain) -> Result<()> {
        let functions = |slot| (0..FUNCTIONS).map(move |function| format!("{slot}.{function}"));
        let devices: Vec<String> = SLOTS.into_iter().flat_map(functions).collect();
        let all: Vec<&str> = devices.iter().map(String::as_str).collect();
        let one = all.get(..1).unwrap_or_default();
        // The pool has all of them both times.
        self.time(&["assignable", "add"], &all)?;
        let times = [one, all.as_slice()].map(|devices| -> Result<[f64; 2]> {
            Ok([self.time(&["attach", &guest.name], devices)?, self.time(&["detach", &guest.name], devices)?])
        });
        let [one, sixteen] = times;
        for (what, (one, sixteen)) in ["attach", "detach"].into_iter().zip(one?.into_iter().zip(sixteen?)) {
            self.sample(&format!("{what}_one"), "ms", one)?;
            self.sample(&format!("{what}_sixteen"), "ms", sixteen)?;
            self.sample(&format!("{what}_sixteen_to_one"), "ratio", sixteen / one)?;
        }
        self.time(&["assignable", "remove"], &all)?;
        let left = self.fixture.addresses_in(guest)?;
        ensure!(left.is_empty(), "{} still has {left:?}", guest.name);
        Ok(())
    }

    /// How long the command takes with these devices, in milliseconds.
    fn time(&self, words: &[&str], devices: &[&str]) -> Result<f64> {
        let mut command = Command::new("pcidom");
        command.args(words).args(devices);
        self.time_command(&format!("{words:?} of {}", devices.len()), command)
    }
}
