//! What dom0 asks for, in the way that Linux guests are asked (`tests/agent/src/guest.rs` has the nodes).
//!
//! | request | what |
//! |---|---|
//! | `found` | the devices: `ADDRESS IDS BAR` each, the last two as the first and the fifth dword read |
//! | `read ADDRESS OFFSET SIZE [SEGMENT]` | reads a register; SEGMENT as it is in the request |
//! | `write ADDRESS OFFSET SIZE VALUE` | writes one |
//! | `shut-down`, `start` | as mini-os, when a program of it closes the driver, and opens it again |
//! | `stress MILLISECONDS` | works on all devices as fast as it can (`stress`) |
//! | `hostile SEED MILLISECONDS` | does what no driver does (`hostile`) |

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::Write as _;

use pciif::Request;
use xen_types::{Errno, Sbdf};
use xenstore::{Nodes as _, StoreError};

use crate::driver_model::DriverModel;
use crate::front::{XenFront, ask};
use crate::{hostile, stress};

const REQUEST: &str = "data/bench/request";
const OUTPUT: &str = "data/bench/output";
const DONE: &str = "data/bench/done";
/// Size of one piece of output, as Linux guests have it.
const PIECE: usize = 1536;

/// What was asked last.
pub(crate) struct Requests {
    last: String,
}

impl Requests {
    /// Says that it listens.
    pub(crate) fn listen(front: &mut XenFront) -> Result<Self, StoreError<Errno>> {
        front.store.watch(REQUEST, "request")?;
        front.store.write("data/bench/ready", "1")?;
        Ok(Self { last: String::new() })
    }

    /// Carries out what is new and answers. False where nothing is.
    pub(crate) fn serve(&mut self, front: &mut XenFront, model: &mut DriverModel) -> Result<bool, StoreError<Errno>> {
        let Some(request) = front.store.read(REQUEST)? else { return Ok(false) };
        let Some((number, command)) = request.split_once(' ') else { return Ok(false) };
        if number == self.last {
            return Ok(false);
        }
        self.last = number.into();
        let (code, output) = match execute(command, front, model) {
            Ok(output) => (0, output),
            Err(why) => (1, why),
        };
        let mut pieces = 0;
        for piece in output.as_bytes().chunks(PIECE) {
            front.store.write(&format!("{OUTPUT}/{pieces}"), piece)?;
            pieces += 1;
        }
        front.store.write(DONE, format!("{number} {code} {pieces}"))?;
        Ok(true)
    }
}

fn execute(command: &str, front: &mut XenFront, model: &mut DriverModel) -> Result<String, String> {
    let words: Vec<&str> = command.split(' ').collect();
    match (&words[..], model) {
        (["found"], model) => found(front, model),
        (["read", address, register @ ..], _) => {
            let address = sbdf(address)?;
            let (offset, size, segment) = match register {
                [offset, size] => (offset, size, address.segment().to_string()),
                [offset, size, segment] => (offset, size, (*segment).into()),
                _ => return Err("read what?".into()),
            };
            let request = Request::conf_read(address, number(offset)?, number(size)?);
            ask(front, &Request { domain: number(&segment)?, ..request }).map(|value| format!("{value:08x}"))
        }
        (["write", address, offset, size, value], _) => {
            let request = Request::conf_write(sbdf(address)?, number(offset)?, number(size)?, number(value)?);
            ask(front, &request).map(|_| String::new())
        }
        (["shut-down"], DriverModel::MiniOs(driver)) => {
            driver.shut_down(front);
            Ok(String::new())
        }
        (["start"], DriverModel::MiniOs(driver)) if driver.is_off() => {
            driver.wants_devices = true;
            Ok(String::new())
        }
        (["stress", milliseconds], model) => {
            let devices = model.driver().devices(front);
            stress::run(front, &devices, number(milliseconds)?)
        }
        (["hostile", seed, milliseconds], model) => {
            let devices = model.driver().devices(front);
            hostile::run(front, &devices, number(seed)?, number(milliseconds)?)
        }
        _ => Err(format!("{command}: not now, or never")),
    }
}

fn found(front: &mut XenFront, model: &mut DriverModel) -> Result<String, String> {
    let mut lines = String::new();
    for device in model.driver().devices(front) {
        let [ids, bar] = [0, 0x10].map(|offset| ask(front, &Request::conf_read(device, offset, 4)));
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{device} {:08x} {:08x}", ids?, bar?);
    }
    Ok(lines)
}

fn sbdf(text: &str) -> Result<Sbdf, String> {
    text.parse().map_err(|_| format!("{text} is no address"))
}

fn number<T: core::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no such number"))
}
