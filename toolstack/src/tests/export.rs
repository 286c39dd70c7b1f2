//! The modes of export, with the real backend.

use super::{TIMEOUT, attached, request};
use crate::cli::arguments::{Cli, Command};
use crate::error::Error;
use crate::fake::{E1000, EDU, MachineWithStub, NVME, STUB, WEB, device};
use crate::ops::assignable;
use crate::ops::attach::{self, attach};
use crate::ops::connect::Connection;
use crate::ops::detach::{self, detach};
use crate::ops::recover::reclaim;
use crate::records::entries::Entries;
use crate::records::export::{Export, ExportMode};
use crate::store::Change;

const BACKEND: &str = "/local/domain/3/backend/pci/5/0";

fn with_pool() -> MachineWithStub {
    let machine = MachineWithStub::new();
    assignable::add(&machine.host, &[E1000, EDU, NVME].map(device), "pcidom").unwrap();
    machine
}

fn attach_in(machine: &MachineWithStub, mode: Option<ExportMode>, devices: &[&str]) -> Result<Connection, Error> {
    attach(&machine.host, &attach::Request { export: mode, ..request("web", devices) })
}

fn detach_these(machine: &MachineWithStub, devices: &[&str]) {
    let devices = devices.iter().map(|text| device(text)).collect();
    let request = detach::Request { guest: "web".to_owned(), backend: None, devices, timeout: TIMEOUT, force: false };
    detach(&machine.host, &request, &reclaim(&machine.host).unwrap()).unwrap();
}

fn node(machine: &MachineWithStub, name: &str) -> Option<String> {
    machine.read(&format!("{BACKEND}/{name}"))
}

/// Where the guest finds its devices.
fn found(machine: &MachineWithStub) -> Vec<String> {
    machine.with_peers(|peers| peers.guests[&WEB].found.iter().map(|(address, _)| address.to_string()).collect())
}

#[test]
fn the_mode_is_written_where_the_stub_looks_for_it() {
    for (mode, word, addresses) in [
        (None, None, ["0000:00:00.0", "0000:00:01.0"]),
        (Some(ExportMode::Vpci), Some("vpci"), ["0000:00:00.0", "0000:00:01.0"]),
        (Some(ExportMode::Slot), Some("slot"), ["0000:00:00.0", "0000:00:01.0"]),
        (Some(ExportMode::Passthrough), Some("passthrough"), [E1000, NVME]),
    ] {
        let machine = with_pool();
        assert_eq!(attach_in(&machine, mode, &[E1000, NVME]).unwrap(), Connection::Connected);
        assert_eq!(node(&machine, "export").as_deref(), word);
        assert_eq!(found(&machine), addresses);
        detach_these(&machine, &[E1000, NVME]);
        assert_eq!(node(&machine, "export"), None);
        machine.machine.assert_no_violations();
    }
}

#[test]
fn it_stays_until_the_last_device_is_gone() {
    let machine = with_pool();
    attach_in(&machine, Some(ExportMode::Passthrough), &[E1000]).unwrap();
    let error = attach_in(&machine, Some(ExportMode::Slot), &[EDU]).unwrap_err();
    assert!(matches!(&error, Error::OtherExport { mode, .. } if mode == "passthrough"), "{error}");
    attach_in(&machine, Some(ExportMode::Passthrough), &[EDU]).unwrap();
    attach_in(&machine, None, &[NVME]).unwrap();
    detach_these(&machine, &[E1000]);
    assert_eq!(found(&machine), [EDU, NVME]);
    assert_eq!((node(&machine, "root_num").as_deref(), node(&machine, "root-1")), (Some("1"), None));
    detach_these(&machine, &[EDU, NVME]);
    machine.with_peers(|peers| peers.guests.get_mut(&WEB).unwrap().forget()); // its device is gone
    attach_in(&machine, Some(ExportMode::Slot), &[E1000]).unwrap();
    assert_eq!(found(&machine), ["0000:00:00.0"]);
}

#[test]
fn without_a_choice_the_stubs_own_mode_is_kept_to() {
    let machine = with_pool();
    attach_in(&machine, None, &[E1000]).unwrap();
    let error = attach_in(&machine, Some(ExportMode::Slot), &[EDU]).unwrap_err();
    assert!(matches!(&error, Error::OtherExport { mode, .. } if mode == "vpci"), "{error}");
    attach_in(&machine, Some(ExportMode::Vpci), &[EDU]).unwrap();
    assert_eq!(node(&machine, "export"), None);
}

/// The `root-N` that come with another device.
fn new_roots(mode: &str, published: &[&str]) -> Vec<String> {
    let machine = attached();
    machine.with(|world| {
        world.remove(&format!("{BACKEND}/root-0"));
        for (index, root) in published.iter().enumerate() {
            world.write(&format!("{BACKEND}/root-{index}"), root);
        }
    });
    let entries = Entries::load(&machine.host, STUB, WEB).unwrap();
    let export = Export { mode: mode.to_owned(), is_chosen: true };
    let changes = entries.append(&export, &["0000:42:00.0".parse().unwrap()]);
    let writes = changes.into_iter().filter_map(|change| match change {
        Change::Write { path, value } => path.contains("/root-").then_some((path, value)),
        _ => None,
    });
    writes.map(|(path, value)| path.replace(&format!("{BACKEND}/root-"), "") + &value).collect()
}

#[test]
fn what_a_guest_was_told_about_buses_stays_as_it_is() {
    assert_eq!(new_roots("vpci", &["0000:00"]), [""; 0]);
    assert_eq!(new_roots("slot", &["0000:00", "0000:01"]), [""; 0], "it had more devices once");
    // One of these buses has devices still, the other had some.
    assert_eq!(new_roots("passthrough", &["0000:17", "0000:00"]), ["2"]);
    assert_eq!(new_roots("passthrough", &["0000:42", "0000:00"]), [""; 0]);
    // Left by an attach that failed.
    assert_eq!(new_roots("passthrough", &["0000:00", ""]), [""; 0]);
}

#[test]
fn the_command_line_names_the_mode() {
    let line = "pcidom attach --export slot web 00:05.0";
    let cli = <Cli as clap::Parser>::try_parse_from(line.split(' ')).unwrap();
    assert!(matches!(cli.command, Command::Attach(args) if args.export == Some(ExportMode::Slot)));
}
