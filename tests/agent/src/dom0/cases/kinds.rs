//! Nine kinds of devices, virtual functions among them, as a guest sees them in each export mode.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    devices::{
        AHCI, E1000, E1000E, EDU, NVME, PHYSICAL, PVSCSI, SHARED_MEMORY, VIRTUAL, XHCI, attribute, config, sysfs,
    },
    fixture::Fixture,
    guests::Domain,
};

pub(super) const CASES: &[Case] = &[
    Case::new("virtual_functions_are_taken_and_their_physical_one_is_not", virtual_function),
    Case::new("nine_kinds_of_devices_are_themselves_in_vpci_mode", |fixture| mode(fixture, "vpci")),
    Case::new("nine_kinds_of_devices_are_themselves_in_slot_mode", |fixture| mode(fixture, "slot")),
    Case::new("nine_kinds_of_devices_are_themselves_in_passthrough_mode", |fixture| mode(fixture, "passthrough")),
    Case::new("drivers_of_four_kinds_work_beside_each_other", drivers),
];

const KINDS: [&str; 9] = [E1000, EDU, NVME, E1000E, AHCI, XHCI, SHARED_MEMORY, PVSCSI, VIRTUAL];

/// Flags of a resource that a guest must see (`include/linux/ioport.h`): ports, memory, prefetchable, 64 bits.
const KIND_OF_RESOURCE: u64 = 0x100 | 0x200 | 0x2000 | 0x10_0000;
/// The line of the expansion ROM among them.
const ROM: usize = 6;

/// Has dom0 make a virtual function, if there is none.
fn make_virtual() -> Result<()> {
    if Path::new(&sysfs(VIRTUAL)).exists() {
        return Ok(());
    }
    let write = |path: &str, text: &str| fs::write(path, text).with_context(|| format!("writing {text} to {path}"));
    write(&format!("{}/driver_override", sysfs(PHYSICAL)), "pci-pf-stub")?;
    write("/sys/bus/pci/drivers/pci-pf-stub/bind", PHYSICAL)?;
    write(&format!("{}/sriov_numvfs", sysfs(PHYSICAL)), "1")
}

/// All of them in the pool.
fn pool(fixture: &mut Fixture) -> Result<()> {
    make_virtual()?;
    fixture.broker()?;
    let stub = fixture.stub()?;
    for device in KINDS {
        if fixture.pool_state(&stub, device)?.is_none() {
            fixture.pcidom(&["assignable", "add", device])?;
        }
        fixture.expect_free(device)?;
    }
    Ok(())
}

fn virtual_function(fixture: &mut Fixture) -> Result<()> {
    make_virtual()?;
    fixture.stub()?;
    fixture.pcidom_fails(&["assignable", "add", PHYSICAL], 1, "virtual functions")?;
    pool(fixture)?;
    // xen-pciback marks what it parks as assigned, and then Linux does not turn virtual functions off.
    let turned_off = fs::write(format!("{}/sriov_numvfs", sysfs(PHYSICAL)), "0");
    ensure!(
        turned_off.is_err() && Path::new(&sysfs(VIRTUAL)).exists(),
        "a virtual function was turned off in the pool"
    );
    let shown = fixture.pcidom(&["show", VIRTUAL])?;
    let ids = attribute(VIRTUAL, "vendor")?;
    let line = format!("000     2      {}", ids.trim_start_matches("0x"));
    ensure!(shown.contains(PHYSICAL) && shown.contains(&line), "show says {shown}");
    // As the specification has it, and what the guest must not see.
    let real = config(VIRTUAL)?;
    ensure!(real.starts_with(&[0xff; 4]), "its ids read as {:02x?} in hardware", real.get(..4));
    let listing = fixture.pcidom(&["list"])?;
    ensure!(listing.contains(&format!("virtual function of {PHYSICAL}")), "list says {listing}");
    Ok(())
}

/// One guest has all of them in this mode, and lets go of them.
fn mode(fixture: &mut Fixture, mode: &str) -> Result<()> {
    pool(fixture)?;
    let guest = fixture.running("kinds")?;
    fixture.pcidom(&[&["attach", "--timeout", "60", "--export", mode, "kinds"], &KINDS[..]].concat())?;
    fixture.expect_connected(&guest)?;
    let mut found = fixture.addresses_in(&guest)?;
    found.sort();
    let mut told = Vec::new();
    for device in KINDS {
        told.push(fixture.virtual_address(&guest, device)?);
    }
    for (device, address) in KINDS.into_iter().zip(&told) {
        let is_right = match mode {
            "slot" => address.starts_with("0000:00:") && address.ends_with(".0"),
            "passthrough" => address == device,
            _ => address.starts_with("0000:00:") && address[10..] == device[10..],
        };
        ensure!(is_right, "{device} is at {address}");
        check(fixture, &guest, device, address)?;
    }
    told.sort();
    ensure!(found == told, "the guest has {found:?}, not {told:?}");
    let devices: Vec<&str> = KINDS.to_vec();
    fixture.detach(&guest, &devices)
}

/// Ids and resources are those that dom0 sees.
fn check(fixture: &mut Fixture, guest: &Domain, device: &str, address: &str) -> Result<()> {
    const NAMES: [&str; 6] = ["vendor", "device", "class", "subsystem_vendor", "subsystem_device", "revision"];
    let files = NAMES.map(|name| format!("{}/{name}", sysfs(address))).join(" ");
    let seen = fixture.in_guest(guest, &format!("cat {files} {}/resource", sysfs(address)))?;
    let seen = String::from_utf8_lossy(&seen).into_owned();
    let mut lines = seen.lines();
    for name in NAMES {
        let (seen, real) = (lines.next().unwrap_or_default(), attribute(device, name)?);
        ensure!(seen == real, "{name} of {device} is {seen} in the guest, {real} in dom0");
    }
    let real = attribute(device, "resource")?;
    let mut sized = 0;
    for (number, (seen, real)) in lines.zip(real.lines()).take(ROM + 1).enumerate() {
        let ([start, end, flags], [real_start, real_end, real_flags]) = (resource(seen)?, resource(real)?);
        let is_same = number == ROM || (flags ^ real_flags) & KIND_OF_RESOURCE == 0;
        ensure!(
            (start, end) == (real_start, real_end) && is_same,
            "resource {number} of {device}: {seen} in the guest, {real} in dom0"
        );
        sized += u32::from(real_start != 0);
        let is_special = match (device, number) {
            (SHARED_MEMORY, 2) => real_flags & 0x10_2200 == 0x10_2200,
            (PVSCSI, ROM) => real_start != 0,
            _ => true,
        };
        ensure!(is_special, "resource {number} of {device} is {real}, which is not what it is here for");
    }
    ensure!(sized > 0, "{device} has no resources in dom0 either");
    Ok(())
}

/// START END FLAGS.
fn resource(line: &str) -> Result<[u64; 3]> {
    let mut numbers = line.split_whitespace().map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16));
    let mut next = || numbers.next().context("too few numbers")?.with_context(|| format!("no resource: {line}"));
    Ok([next()?, next()?, next()?])
}

fn drivers(fixture: &mut Fixture) -> Result<()> {
    pool(fixture)?;
    let guest = fixture.having("kinds", &[E1000, NVME, E1000E, AHCI])?;
    for module in ["e1000", "e1000e", "nvme", "ahci", "sd_mod"] {
        fixture.in_guest(&guest, &format!("load {module}"))?;
    }
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    fixture.await_disk(&guest, "/dev/sda")?;
    for device in [E1000, E1000E] {
        fixture.interface_in(&guest, device)?;
    }
    for (disk, seed) in [("/dev/nvme0n1", "11"), ("/dev/sda", "12")] {
        fixture.in_guest(&guest, &format!("disk-write {disk} {seed} 1"))?;
        fixture.in_guest(&guest, &format!("disk-check {disk} {seed} 1"))?;
    }
    fixture.destroy(&guest)
}
