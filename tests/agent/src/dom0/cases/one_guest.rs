//! One guest with all three devices.

use anyhow::{Result, ensure};

use super::Case;
use crate::dom0::{
    devices::{ALL, attribute, sysfs},
    fixture::Fixture,
    guests::Domain,
    interrupts::EventCounts,
};

pub(super) const CASES: &[Case] = &[
    Case::new("three_devices_appear_on_bus_0", appear_on_bus_0),
    Case::new("bars_have_their_addresses_and_sizes", bars),
    Case::new("dom0_takes_no_part_in_reads", dom0_takes_no_part),
];

/// The guest of this group and the next.
pub(super) fn guest(fixture: &mut Fixture) -> Result<Domain> {
    fixture.guest_with("three", &ALL)
}

fn appear_on_bus_0(fixture: &mut Fixture) -> Result<()> {
    let guest = guest(fixture)?;
    let mut found = fixture.addresses_in(&guest)?;
    found.sort();
    // Three different physical slots: three slots, each with a function 0.
    ensure!(found == ["0000:00:00.0", "0000:00:01.0", "0000:00:02.0"], "the guest has {found:?}");
    for device in ALL {
        let address = fixture.virtual_address(&guest, device)?;
        for name in ["vendor", "device", "class", "subsystem_vendor", "subsystem_device", "revision"] {
            let value = fixture.in_guest(&guest, &format!("cat {}/{name}", sysfs(&address)))?;
            let value = String::from_utf8_lossy(&value).trim_end().to_owned();
            ensure!(value == attribute(device, name)?, "{name} of {device} is {value} in the guest");
        }
    }
    Ok(())
}

/// The guest's kernel finds addresses and sizes by sizing the BARs; dom0's found them on the real ones.
fn bars(fixture: &mut Fixture) -> Result<()> {
    let guest = guest(fixture)?;
    for device in ALL {
        let address = fixture.virtual_address(&guest, device)?;
        let seen = fixture.in_guest(&guest, &format!("cat {}/resource", sysfs(&address)))?;
        let seen = String::from_utf8_lossy(&seen).into_owned();
        let real = attribute(device, "resource")?;
        let mut sized = 0;
        // BAR 0 to 5: START END FLAGS.
        for (number, (seen, real)) in seen.lines().zip(real.lines()).take(6).enumerate() {
            ensure!(seen == real, "BAR {number} of {device}: {seen} in the guest, {real} in dom0");
            sized += u32::from(!real.starts_with("0x0000000000000000"));
        }
        ensure!(sized > 0, "{device} has no BAR in dom0 either");
    }
    Ok(())
}

/// While a guest reads configuration space, dom0 gets no events beyond those of asking the guest to do it: these are counted
/// first, with a request that takes as long and reads nothing.
fn dom0_takes_no_part(fixture: &mut Fixture) -> Result<()> {
    const READS: u64 = 1000;
    let guest = guest(fixture)?;
    let file = format!("{}/config", sysfs(&fixture.virtual_address(&guest, ALL[0])?));
    // The first time is for whatever happens only once.
    fixture.in_guest(&guest, &format!("read-often {file} 0 10"))?;
    let before = EventCounts::now()?;
    fixture.in_guest(&guest, "sleep 1")?;
    let idle = EventCounts::now()?;
    fixture.in_guest(&guest, &format!("read-often {file} 0 {READS}"))?;
    let busy = EventCounts::now()?;
    let (idle, busy) = (idle.since(&before), busy.since(&idle));
    println!("agent: events in dom0: {idle:?} without reads, {busy:?} with {READS}");
    // Each read that dom0 took part in would be at least one event. A twentieth of that is more than its noise, and would
    // still be noticed.
    for (name, count) in &busy.0 {
        let noise = idle.0.get(name).copied().unwrap_or_default();
        ensure!(*count <= noise + READS / 20, "{name}: {count} events, {noise} when idle");
    }
    Ok(())
}
