//! A small guest with a driver that is not Linux' (`tests/drivers`), or that of many small guests. The command line says which: `driver=netbsd`,
//! `driver=mini-os`, `driver=mini-os-later` or `driver=freebsd`.
//!
//! It lives as its driver would, and does what dom0 asks for besides (`requests`).
#![no_std]
#![no_main]

extern crate alloc;

mod driver_model;
mod front;
mod hostile;
mod requests;
mod stress;

use alloc::string::String;

use driver_model::DriverModel;
use front::XenFront;
use kernel::console;
use kernel::control::{ShutdownReason, shutdown};
use requests::Requests;

kernel::image!(main);

/// Time for the console to take what was said.
const PATIENCE_NS: u64 = 1_000_000_000;

fn main(info: &'static kernel::BootInfo) -> ! {
    let why = match run(info.command_line()) {
        Ok(never) => match never {},
        Err(why) => why,
    };
    log::error!("frontend: {why}");
    console::flush(PATIENCE_NS);
    shutdown(ShutdownReason::Crash)
}

/// Lives until the guest would panic, and says why it does.
fn run(command_line: &str) -> Result<core::convert::Infallible, String> {
    let mut model = DriverModel::parse(command_line).ok_or("the command line names no driver that there is")?;
    let mut front = XenFront::new().map_err(|_| "no xenstore")?;
    let mut requests = Requests::listen(&mut front).map_err(|_| "xenstore refuses a watch")?;
    log::info!("frontend: ready");
    loop {
        front.look();
        while model.step(&mut front).map_err(|panic| panic.0)? {}
        let has_served = requests.serve(&mut front, &mut model).map_err(|_| "xenstore does not take an answer")?;
        // It may have been told to do something.
        if has_served {
            continue;
        }
        front.wait().map_err(|_| "no more events from xenstore")?;
    }
}
