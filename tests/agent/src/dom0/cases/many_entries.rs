//! A device database that no message of xenstored holds: its names alone take more than 4 KiB.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Case;
use crate::dom0::{
    devices::{EDU, NVME},
    fixture::Fixture,
};

pub(super) const XENSTORED: &[Case] = &[case("four_hundred_devices_in_xenstored_stop_no_command", stop_no_command)];
pub(super) const OXENSTORED: &[Case] = &[case("four_hundred_devices_in_oxenstored_stop_no_command", stop_no_command)];

const fn case(name: &'static str, run: fn(&mut Fixture) -> Result<()>) -> Case {
    Case::within(Duration::from_mins(4), name, run)
}

/// Devices that are for a backend which does not run.
const ENTRIES: u32 = 400;

fn entry(index: u32) -> String {
    format!("/tool/pcidom/device/0000-{:02x}-{:02x}-{}", 0x80 + index / 256, index / 8 % 32, index % 8)
}

fn stop_no_command(fixture: &mut Fixture) -> Result<()> {
    fixture.broker()?;
    fixture.in_pool(EDU)?;
    let guest = fixture.having("many", &[NVME])?;
    for index in 0..ENTRIES {
        fixture.store.write(&format!("{}/backend", entry(index)), b"elsewhere")?;
    }
    let done = use_commands(fixture, &guest.name);
    for index in 0..ENTRIES {
        fixture.store.remove(&entry(index))?;
    }
    done
}

fn use_commands(fixture: &mut Fixture, guest: &str) -> Result<()> {
    fixture.pcidom(&["attach", guest, EDU])?;
    let listed = fixture.pcidom(&["list"])?;
    ensure!(listed.contains(EDU) && listed.contains(NVME), "{listed}");
    fixture.pcidom(&["detach", guest, EDU])?;
    fixture.pcidom(&["assignable", "remove", EDU])?;
    fixture.pcidom(&["assignable", "add", EDU])?;
    fixture.expect_free(EDU)?;
    // The broker has not ended over it either.
    let status = fixture.pcidom(&["status"])?;
    ensure!(status.contains("running (process"), "{status}");
    Ok(())
}
