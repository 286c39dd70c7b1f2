//! The package's life: installed, upgraded, removed.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use super::super::case::Case;
use crate::dom0::{
    fixture::Fixture,
    installed::{BACKEND, BROKER, DEVICE, GUEST, write_guest_config},
    services::SHARE,
};

pub(super) const INSTALL: &[Case] = &[
    Case::new("multi_user_is_reached_with_xens_services", multi_user),
    Case::within(LONG, "the_readmes_commands_install_the_package_and_give_a_guest_its_device", readme),
];

pub(super) const END: &[Case] = &[
    Case::within(LONG, "an_upgrade_changes_the_broker_under_a_guest_that_reads", upgrade),
    Case::within(LONG, "the_package_is_not_removed_while_a_guest_has_a_device", refused_removal),
    Case::within(LONG, "purge_leaves_nothing", purge),
];

/// apt, in an emulated machine.
const LONG: Duration = Duration::from_mins(10);

fn multi_user(fixture: &mut Fixture) -> Result<()> {
    fixture.run("systemctl", &["is-active", "multi-user.target"])?;
    let list = fixture.xl(&["list"])?;
    ensure!(list.contains("Domain-0"), "{list}");
    fixture.process_called("oxenstored")?.context("not the xenstored that Debian prefers")?;
    fixture.process_called("xenconsoled")?.context("no xenconsoled")?;
    Ok(())
}

fn readme(fixture: &mut Fixture) -> Result<()> {
    write_guest_config()?;
    let commands = fs::read_to_string(format!("{SHARE}/readme"))?;
    for command in commands.lines() {
        let output = fixture.type_in("package", command)?;
        if command.contains("apt install") {
            for unit in [BROKER, BACKEND] {
                fixture.check_active(unit)?;
            }
        }
        if command.ends_with("pcidom list") {
            let line = output.lines().find(|line| line.starts_with(DEVICE)).context("the pool has lost the device")?;
            ensure!(line.ends_with("free"), "after the detach: {output}");
        }
    }
    let list = fixture.pcidom(&["list", GUEST])?;
    ensure!(list.contains(DEVICE), "{list}");
    // For the next boot: a line about a device that is another one.
    let settings = "/etc/pcidom/pcidom.conf";
    let text = fs::read_to_string(settings)?;
    ensure!(text.contains(&format!("\ndevice = {DEVICE},vendor=1b36,device=0010")), "{text}");
    fs::write(settings, format!("{text}device = 0000:00:06.0,vendor=1234,device=beef\n"))?;
    let defaults = fs::read_to_string("/etc/default/xendomains")?;
    ensure!(defaults.lines().any(|line| line == "XENDOMAINS_SAVE="), "{defaults}");
    let guest = fixture.running_guest()?;
    fixture.destroy(&guest)
}

fn upgrade(fixture: &mut Fixture) -> Result<()> {
    const READS: u32 = 20_000;
    let guest = fixture.running_guest()?;
    fixture.in_guest(&guest, "load nvme")?;
    let stub = fixture.driver_domain()?;
    let broker = fixture.property(BROKER, "MainPID")?;
    let before = fixture.run("dpkg-query", &["-W", "-f", "${Version}", "pcidom"])?;
    let address = "/sys/bus/pci/devices/0000:00:00.0/config";
    let reading = fixture.ask(&guest, &format!("read-often {address} 0 {READS}"))?;
    let said = fixture.type_in("next-package", "sudo apt install ./pcidom_*_amd64.deb")?;
    fixture.answer_well(&reading).context("the guest was disturbed")?;
    let after = fixture.run("dpkg-query", &["-W", "-f", "${Version}", "pcidom"])?;
    ensure!(before != after, "it is {after} as before");
    ensure!(said.contains("systemctl restart pcidom-backend"), "nothing is said of the running driver domain: {said}");
    ensure!(fixture.property(BROKER, "MainPID")? != broker, "the old broker goes on");
    for unit in [BROKER, BACKEND] {
        fixture.check_active(unit)?;
    }
    ensure!(fixture.driver_domain()? == stub, "the driver domain is another one");
    // What goes through the new broker.
    fixture.in_guest(&guest, "reload nvme 1")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")
}

fn refused_removal(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.running_guest()?;
    fixture.in_guest(&guest, "load nvme")?;
    let error = fixture.type_in(".", "sudo apt remove -y pcidom 2>&1").err().context("it was removed")?.to_string();
    ensure!(error.contains("take them away first"), "{error}");
    for unit in [BROKER, BACKEND] {
        fixture.check_active(unit)?;
    }
    fixture.in_guest(&guest, "reload nvme 1")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")
}

fn purge(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.running_guest()?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.in_guest(&guest, "unload nvme")?;
    fixture.type_in(".", &format!("sudo pcidom detach {GUEST} 05:00.0"))?;
    fixture.destroy(&guest)?;
    fixture.type_in(".", "sudo apt purge -y pcidom 2>&1")?;
    let left = fixture.run(
        "find",
        &["/", "-xdev", "-iname", "*pcidom*", "-not", "-path", "/var/lib/dpkg/*", "-not", "-path", "/share/*"],
    )?;
    let left: Vec<&str> =
        left.lines().filter(|path| !path.starts_with("/var/log/") && !path.starts_with("/var/cache/")).collect();
    ensure!(left.is_empty(), "files are left: {left:?}");
    for path in ["/etc/pcidom", "/run/pcidom"] {
        ensure!(!Path::new(path).exists(), "{path} is left");
    }
    let dpkg = fixture.run("sh", &["-c", "dpkg -l pcidom 2>/dev/null | grep ^.. || true"])?;
    ensure!(!dpkg.contains("ii ") && !dpkg.contains("rc "), "{dpkg}");
    ensure!(
        fixture.store.text("/tool/pcidom")?.is_none(),
        "nodes are left: {:?}",
        fixture.store.children("/tool/pcidom")?
    );
    ensure!(fixture.find("pcidom")?.is_none(), "the driver domain is left");
    let driver = fs::read_link(format!("/sys/bus/pci/devices/{DEVICE}/driver"));
    let driver = driver.context("the device has no driver")?;
    ensure!(driver.ends_with("nvme"), "the device is with {}", driver.display());
    let units = fixture.run("systemctl", &["list-units", "--all", "--plain", "--no-legend", "pcidom*"])?;
    let left: Vec<&str> = units.lines().filter(|line| !line.contains(" inactive ")).collect();
    ensure!(left.is_empty(), "units are left: {left:?}");
    Ok(())
}
