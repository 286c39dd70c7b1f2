//! Virtual functions of SR-IOV devices: what they do not say themselves comes from dom0's kernel.

use pciif::Request;
use serde_json::Value;
use xen_types::Sbdf;

use super::{TIMEOUT, attach_to_web, request};
use crate::cli::list;
use crate::cli::show::show;
use crate::doctor::{Opened, examine};
use crate::error::Error;
use crate::fake::{EDU, Machine, MachineWithStub, NVME, PHYSICAL, WEB, device};
use crate::ops::assignable;
use crate::ops::attach::attach;
use crate::ops::detach::{self, detach};
use crate::ops::recover::reclaim;

fn guest_reads(machine: &MachineWithStub, offset: i32, size: i32) -> u32 {
    machine.with_peers(|peers| {
        let request = Request::conf_read(Sbdf::from_devfn(0, 0, 0), offset, size);
        peers.guests[&WEB].ask(&mut peers.stub, &request).unwrap().value
    })
}

#[test]
fn a_guest_sees_a_function_like_any_other() {
    let machine = MachineWithStub::new();
    machine.machine.make_virtual(NVME);
    assignable::add(&machine.host, &[device(NVME)], "pcidom").unwrap();
    assert_eq!(machine.read("/local/domain/3/pool/0000-00-07-0/ids").as_deref(), Some("111b36"));
    attach(&machine.host, &request("web", &[NVME])).unwrap();
    assert_eq!((guest_reads(&machine, 0, 4), guest_reads(&machine, 2, 2)), (0x0011_1b36, 0x0011));
    assert_eq!((guest_reads(&machine, 0x10, 4), guest_reads(&machine, 0x14, 4)), (0xc000_0004, 8));
    assert_eq!(guest_reads(&machine, 0x3c, 2), 0, "no line and no pin");
    // Hard-wired in hardware: nobody has tried.
    assert_eq!(machine.machine.config(NVME).word(4) & 3, 0);
    let shown: Value = serde_json::from_str(&show(&machine.host, device(NVME)).unwrap().json()).unwrap();
    assert_eq!((&shown["physical_function"], &shown["registers"][0]["value"]), (&PHYSICAL.into(), &0x1b36.into()));
    assert_eq!(shown["registers"][1]["value"], 0x0011);
    let listed = list::table(&list::devices(&machine.host, None).unwrap());
    assert!(listed.ends_with("assigned 5, virtual function of 0000:00:0d.0"), "{listed}");
    let devices = vec![device(NVME)];
    let request = detach::Request { guest: "web".to_owned(), backend: None, devices, timeout: TIMEOUT, force: false };
    detach(&machine.host, &request, &reclaim(&machine.host).unwrap()).unwrap();
    assert_eq!(machine.read("/local/domain/3/pool/0000-00-07-0/state").as_deref(), Some("free"));
    assert_eq!(machine.machine.config(NVME).word(4) & 3, 0);
    machine.machine.assert_no_violations();
}

#[test]
fn the_physical_function_stays_with_dom0() {
    let machine = Machine::new();
    machine.make_virtual(NVME);
    let before = machine.dump();
    let error = assignable::add(&machine.host, &[device(PHYSICAL)], "pcidom").unwrap_err();
    assert!(matches!(error, Error::HasVirtualFunctions { count: 1, .. }), "{error}");
    let error = attach_to_web(&machine, &[&format!("{PHYSICAL},seize=1")]).unwrap_err();
    assert!(matches!(error, Error::HasVirtualFunctions { .. }), "{error}");
    machine.dump().assert_same(&before, "refused");
    // Somebody has parked it nevertheless.
    let driver = format!("bus/pci/devices/{PHYSICAL}/driver");
    std::fs::remove_file(machine.tree.path().join(&driver)).unwrap();
    machine.tree.link(&driver, "../../drivers/pciback");
    for outcome in [
        assignable::add(&machine.host, &[device(EDU), device(NVME)], "pcidom").map(drop),
        attach_to_web(&machine, &[NVME]).map(drop),
    ] {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::PhysicalFunctionAway { .. }), "{error}");
        assert!(error.hint().unwrap().contains(PHYSICAL));
    }
    machine.with(|world| assert_eq!(world.children("/local/domain/3/pool"), [""; 0]));
}

#[test]
fn the_doctor_looks_at_the_physical_function() {
    let outcome = |change: &dyn Fn(&Machine)| {
        let machine = Machine::new();
        machine.make_virtual(NVME);
        change(&machine);
        let json = examine(&Opened::of(machine.host), "pcidom", &[NVME.to_owned()]).json();
        let json: Value = serde_json::from_str(&json).unwrap();
        let checks = json["checks"].as_array().unwrap().iter();
        let about: Vec<Value> = checks.filter(|check| check["subject"] == NVME).cloned().collect();
        let find = |name: &str| about.iter().find(|check| check["name"] == name).unwrap().clone();
        assert_eq!(find("device")["outcome"], "ok", "its ids read as ones and it is there");
        find("physical function")
    };
    let good = outcome(&|_| ());
    assert_eq!(good["outcome"], "ok");
    assert!(good["text"].as_str().unwrap().contains("0000:00:0d.0, which dom0's nvme has"), "{good}");
    let set = |machine: &Machine, offset, value| {
        let mut config = machine.config(PHYSICAL);
        config.set_word(offset, value);
        machine.tree.write(format!("bus/pci/devices/{PHYSICAL}/config"), config.bytes);
    };
    for (offset, value) in [(0x108, 0x0001), (0x108, 0x0008), (0x004, 0x0004), (0x100, 0x000e)] {
        let bad = outcome(&|machine| set(machine, offset, value));
        assert_eq!(bad["outcome"], "failed", "{offset:#x} {value:#x}");
        assert!(bad["hint"].as_str().unwrap().contains("sriov_numvfs"));
    }
}

#[test]
fn the_quirks_file_knows_them_by_their_ids() {
    let mut machine = Machine::new();
    machine.make_virtual(NVME);
    let file = machine.tree.path().join("quirks");
    machine.host.quirks.clone_from(&file);
    std::fs::write(&file, "1b36:0011 hide=msi\n").unwrap();
    attach_to_web(&machine, &[NVME]).unwrap();
    machine.with(|world| {
        let policy = world.value("/tool/pcidom/device/0000-00-07-0/policy").map(str::to_owned);
        assert_eq!(policy.as_deref(), Some("permissive=0,hide=5"));
    });
}
