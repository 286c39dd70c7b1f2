//! Many small guests on one stub, with four functions each.

use std::{ops::Range, process::Command, sync::mpsc, thread, time::Instant};

use anyhow::{Result, ensure};

use super::{
    fixture::Fixture,
    guests::{Domain, Request},
    small_guests::{self, Found},
    stub,
};
use crate::process;

/// Guests.
pub(crate) const GUESTS: u8 = 64;
/// Functions of each.
const FUNCTIONS: u8 = 4;
/// Functions of the one slot behind each port (`tests/bench/src/boot.rs`), whose buses are numbered from 1.
const SLOT: u8 = 8;
/// Memory that is enough for the stub, in MiB.
const STUB_MIB: u32 = 2;

/// The guests, which run and are connected.
pub(crate) struct Scale {
    guests: Vec<Domain>,
}

impl Scale {
    /// Brings a stub with these words on its command line, and all of them up.
    pub(crate) fn gather(fixture: &mut Fixture, words: &str) -> Result<Self> {
        fixture.start_stub_with(stub::NAME, words, &format!("memory = {STUB_MIB}\n"))?;
        let names: Vec<String> = (0..GUESTS).map(|number| format!("small{number}")).collect();
        let files = names.iter().map(|name| small_guests::configure(name, "mini-os")).collect::<Result<Vec<_>>>()?;
        let deadline = fixture.deadline;
        // Each guest is made while the one before gets its devices: dom0 has two CPUs, and xl and pcidom take long for other reasons.
        let (made, is_made) = mpsc::channel();
        let make = move || files.iter().all(|file| made.send(xl(&["create", "-p", file], deadline)).is_ok());
        let guests = thread::scope(|scope| {
            scope.spawn(make);
            let mut guests = Vec::new();
            for (number, name) in (0..).zip(&names) {
                is_made.recv()??;
                let guest = fixture.adopt(name)?;
                // Straight from dom0, so that the pool grows with the guests.
                let devices = devices_of(number).into_iter().map(|device| device + ",seize=1").collect::<Vec<_>>();
                let mut attach = vec!["attach", &*guest.name];
                attach.extend(devices.iter().map(String::as_str));
                fixture.pcidom(&attach)?;
                fixture.xl(&["unpause", &guest.name])?;
                guests.push(guest);
            }
            anyhow::Ok(guests)
        })?;
        for guest in &guests {
            fixture.await_frontend(guest, "4")?;
            fixture.expect_connected(guest)?;
        }
        // Only now: it looks at the whole table with each device that comes, and nobody needs it for that.
        fixture.broker()?;
        Ok(Self { guests })
    }

    /// Each guest has its own devices and no others.
    pub(crate) fn expect_own_devices(&self, fixture: &mut Fixture) -> Result<()> {
        for (number, guest) in (0..).zip(&self.guests) {
            let addresses = (0..).map(|function| format!("0000:00:00.{function}"));
            let wanted = devices_of(number)
                .iter()
                .zip(addresses)
                .map(|(device, address)| Found::expected(device, &address))
                .collect::<Result<Vec<_>>>()?;
            let mut found = fixture.found_by(guest)?;
            // Functions keep their numbers in the slot, so those of the second half start at 4.
            for (function, found) in (0..).zip(&mut found) {
                ensure!(found.address.ends_with(&format!(".{}", first_of(number) + function)), "{found:x?}");
                found.address = format!("0000:00:00.{function}");
            }
            ensure!(found == wanted, "{} finds {found:x?}, not {wanted:x?}", guest.name);
        }
        Ok(())
    }

    /// These guests work on their devices at the same time, for so long. What each of them says.
    pub(crate) fn stress(&self, fixture: &mut Fixture, who: Range<usize>, milliseconds: u32) -> Result<Vec<String>> {
        let requests = self.begin_stress(fixture, who, milliseconds)?;
        Self::end_stress(fixture, &requests)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Range<usize> {
        0..self.guests.len()
    }

    /// Has these guests begin to work.
    pub(crate) fn begin_stress(
        &self,
        fixture: &mut Fixture,
        who: Range<usize>,
        milliseconds: u32,
    ) -> Result<Vec<Request>> {
        let command = format!("stress {milliseconds}");
        self.guests.get(who).unwrap_or_default().iter().map(|guest| fixture.ask(guest, &command)).collect()
    }

    /// What each says in the end. No answer that they got was wrong.
    pub(crate) fn end_stress(fixture: &mut Fixture, requests: &[Request]) -> Result<Vec<String>> {
        let mut answers = Vec::new();
        for request in requests {
            let answer = String::from_utf8(fixture.answer_well(request)?)?;
            let is_right = answer.contains(" turns, 0 wrong, ") && !answer.starts_with("0 ");
            ensure!(is_right, "{}: {answer}", request.guest().name);
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Ends this many of them, whose devices must be free then. The others end with the machine.
    pub(crate) fn end(&self, fixture: &mut Fixture, count: u8) -> Result<()> {
        let stub = fixture.stub()?;
        for guest in self.guests.iter().take(count.into()) {
            fixture.destroy(guest)?;
        }
        fixture.pcidom(&["reclaim"])?;
        for device in (0..count).flat_map(devices_of) {
            let state = fixture.pool_state(&stub, &device)?;
            ensure!(state.as_deref() == Some("free"), "{device} is {state:?}, not free");
        }
        Ok(())
    }
}

fn xl(arguments: &[&str], deadline: Instant) -> Result<()> {
    process::check(Command::new("xl").args(arguments), deadline).map(drop)
}

/// The first function of a guest's in its slot.
fn first_of(guest: u8) -> u8 {
    guest % (SLOT / FUNCTIONS) * FUNCTIONS
}

fn devices_of(guest: u8) -> Vec<String> {
    let bus = 1 + guest / (SLOT / FUNCTIONS);
    let first = first_of(guest);
    (first..first + FUNCTIONS).map(|function| format!("0000:{bus:02x}:00.{function}")).collect()
}
