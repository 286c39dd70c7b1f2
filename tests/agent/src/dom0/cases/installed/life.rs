//! The package's life: installed, upgraded, removed.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::super::case::Case;
use crate::dom0::{
    domain::Domain,
    fixture::Fixture,
    installed::{BACKEND, BROKER, DEVICE, GUEST, GUEST_CONFIG, guest_config},
    services::SHARE,
};

pub(super) const INSTALL: &[Case] = &[
    Case::new("multi_user_is_reached_with_xens_services", multi_user),
    Case::within(LONG, "the_readmes_commands_install_the_package_and_give_a_guest_its_device", readme),
];

pub(super) const END: &[Case] = &[
    Case::within(LONG, "an_upgrade_changes_the_broker_under_a_guest_that_reads", upgrade),
    Case::within(LONG, "a_driver_domain_of_another_contract_is_left_alone_and_told", other_contract),
    Case::within(LONG, "the_package_is_not_removed_while_a_guest_has_a_device", refused_removal),
    Case::within(LONG, "purge_leaves_nothing", purge),
];

/// Release of the earlier package (`tests/bench/deb-before.sh`), whose parts do not name their contract.
const BEFORE: &str = "0.0.9";
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

/// Whether a line of `pcidom list` has a free device: its last column begins with that, and says how the device was reset.
fn is_free(line: &str) -> bool {
    line.rsplit("  ").next().is_some_and(|note| note == "free" || note.starts_with("free, reset by "))
}

fn readme(fixture: &mut Fixture) -> Result<()> {
    fs::write(GUEST_CONFIG, guest_config(GUEST, "05:00.0"))?;
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
            ensure!(is_free(line), "after the detach: {output}");
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

/// Installs the earlier release and brings everything up with it, as a host is that has run it so far. The guest, with its disk.
fn go_back(fixture: &mut Fixture) -> Result<Domain> {
    let guest = fixture.running_guest()?;
    fixture.destroy(&guest)?;
    fixture.until("the device is not free", || Ok(fixture.pcidom(&["list"])?.lines().any(is_free)))?;
    fixture.type_in("package-before", "sudo apt install -y --allow-downgrades ./pcidom_*_amd64.deb")?;
    let stub = fixture.driver_domain()?;
    fixture.run("systemctl", &["restart", BACKEND.0])?;
    let before = fixture.driver_domain()?;
    ensure!(before.id != stub.id, "the driver domain is the one that was there");
    let version = fixture.store.text(&before.node("data/pcidom/version"))?;
    ensure!(version.as_deref() == Some(BEFORE), "it says that it is of {version:?}");
    fixture.type_in(".", &format!("sudo pcidom create {GUEST_CONFIG}"))?;
    let guest = fixture.running_guest()?;
    fixture.await_connected(&guest, &before)?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    Ok(guest)
}

fn upgrade(fixture: &mut Fixture) -> Result<()> {
    const READS: u32 = 20_000;
    let guest = go_back(fixture)?;
    let stub = fixture.driver_domain()?;
    let broker = fixture.property(BROKER, "MainPID")?;
    let address = "/sys/bus/pci/devices/0000:00:00.0/config";
    let reading = fixture.ask(&guest, &format!("read-often {address} 0 {READS}"))?;
    let said = fixture.type_in("package", "sudo apt install ./pcidom_*_amd64.deb")?;
    fixture.answer_well(&reading).context("the guest was disturbed")?;
    ensure!(said.contains("systemctl restart pcidom-backend"), "nothing is said of the running driver domain: {said}");
    ensure!(fixture.property(BROKER, "MainPID")? != broker, "the old broker goes on");
    for unit in [BROKER, BACKEND] {
        fixture.check_active(unit)?;
    }
    ensure!(fixture.driver_domain()? == stub, "the driver domain is another one");
    let status = fixture.pcidom(&["status"])?;
    let own = env!("CARGO_PKG_VERSION");
    for words in [format!("{BEFORE} (contract 1)"), format!("), {own} (contract 1)")] {
        ensure!(status.contains(&words), "no {words:?} in {status}");
    }
    // What goes through the new broker, and what the new command and the old driver domain do together.
    fixture.in_guest(&guest, "reload nvme 1")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")?;
    fixture.in_guest(&guest, "unload nvme")?;
    fixture.type_in(".", &format!("sudo pcidom detach {GUEST} 05:00.0"))?;
    fixture.type_in(".", &format!("sudo pcidom attach {GUEST} 05:00.0"))?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, "/dev/nvme0n1")
}

/// A driver domain says that it is of another contract, as one of a later release does.
fn other_contract(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.running_guest()?;
    let stub = fixture.driver_domain()?;
    let node = stub.node("data/pcidom/version");
    let version = fixture.store.text(&node)?.context("no version")?;
    fixture.run("xenstore-write", &[&node, "9.0.0 contract 9"])?;
    for command in
        [format!("detach {GUEST} 05:00.0"), format!("attach {GUEST} 00:05.0"), "assignable add 00:05.0".to_owned()]
    {
        let error =
            fixture.type_in(".", &format!("sudo pcidom {command}")).err().context("it is not refused")?.to_string();
        ensure!(error.contains("9.0.0 (contract 9)") && error.contains("install the release"), "{error}");
    }
    let checks = fixture.type_in(".", "sudo pcidom doctor || true")?;
    ensure!(checks.contains("failed   versions: the backend pcidom"), "{checks}");
    fixture.until("the broker says nothing", || {
        Ok(fixture.log_of(BROKER)?.contains("is not served: it is of 9.0.0 (contract 9)"))
    })?;
    // Who watches it neither adopts nor replaces it while a guest has a device.
    fixture.run("systemctl", &["kill", "-s", "KILL", BACKEND.0])?;
    fixture.until("the unit says nothing", || Ok(fixture.log_of(BACKEND)?.contains("is of release 9.0.0")))?;
    ensure!(fixture.driver_domain()? == stub, "the driver domain is another one");
    fixture.run("xenstore-write", &[&node, &version])?;
    fixture.until("the unit does not come back", || Ok(fixture.property(BACKEND, "ActiveState")? == "active"))?;
    // The broker serves it again within moments, and until then the driver gets no interrupts.
    loop {
        fixture.in_guest(&guest, "reload nvme 1")?;
        match fixture.await_disk(&guest, "/dev/nvme0n1") {
            Err(_) if Instant::now() < fixture.deadline => {}
            found => return found,
        }
    }
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
