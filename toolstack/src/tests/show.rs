//! `pcidom show`: what a guest sees of a device, and what it wrote in vain.

use pciif::Request;
use serde_json::Value;
use xen_types::Sbdf;

use super::{add_all, attach_to_web, attached, request};
use crate::cli::show::show;
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, MachineWithStub, STUB, WEB, device};
use crate::ops::assignable;
use crate::ops::attach::attach;

fn json(machine: &Machine, name: &str) -> Value {
    serde_json::from_str(&show(&machine.host, device(name)).unwrap().json()).unwrap()
}

#[track_caller]
fn register(shown: &Value, offset: u16) -> &Value {
    let all = shown["registers"].as_array().unwrap();
    all.iter().find(|register| register["offset"] == offset).unwrap_or_else(|| panic!("nothing at {offset:#x}"))
}

fn with_stub(devices: &[&str], spec: &str) -> MachineWithStub {
    let machine = MachineWithStub::new();
    for name in devices {
        let mut config = machine.machine.config(name);
        config.bytes[0x34] = 0;
        config.set_word(6, 0);
        config.add_capability(0x40, 0x01, 0x50);
        config.add_capability(0x50, 0x09, 0);
        machine.machine.tree.write(format!("bus/pci/devices/{name}/config"), config.bytes);
    }
    assignable::add(&machine.host, &[device(E1000)], "pcidom").unwrap();
    attach(&machine.host, &request("web", &[spec])).unwrap();
    machine
}

#[test]
fn a_device_that_nobody_has_is_shown_as_a_guest_would_see_it() {
    let machine = Machine::new();
    let before = machine.dump();
    let shown = json(&machine, E1000);
    assert_eq!((&shown["guest"], &shown["stub"], &shown["vdev"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(
        (&shown["size"], &shown["policy"], &shown["denied_elsewhere"]),
        (&256.into(), &Value::Null, &Value::Null)
    );
    let bar = register(&shown, 0x10);
    assert_eq!((&bar["value"], &bar["answered_by"]), (&0xfeb4_0000_u32.into(), &"copy".into()));
    assert_eq!((&bar["virtual_bits"], &bar["device_bits"]), (&0x014a_0000.into(), &0.into()));
    let command = register(&shown, 4);
    assert_eq!(command["value"], 0, "decoding is the guest's to turn on, as it is told");
    let control = register(&shown, 0x42);
    assert_eq!(
        (&control["block"], &control["name"], &control["denied"]),
        (&"msi".into(), &"Message Control".into(), &Value::Null)
    );
    assert!(
        shown["registers"].as_array().unwrap().iter().all(|register| register["offset"] != 0xc0),
        "nothing is there"
    );
    let text = show(&machine.host, device(E1000)).unwrap().text();
    for want in [
        "guest     none: this is what one would see\n",
        "010     4      feb40000  copy    -       014a0000  -       header Base Address 0",
        "reads as the size after ones were written; the address stays",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
    machine.dump().assert_same(&before, "shown");
}

#[test]
fn a_guest_s_device_is_shown_with_what_it_wrote_in_vain() {
    let machine = with_stub(&[E1000], &format!("{E1000},quirk=54:2:ff,hide=pm"));
    let write = |offset, size, value| {
        machine.with_peers(|peers| {
            let request = Request::conf_write(Sbdf::from_devfn(0, 0, 0), offset, size, value);
            peers.guests[&WEB].ask(&mut peers.stub, &request).unwrap();
        });
    };
    (0..3).for_each(|_| write(0x2e, 2, 1));
    write(0x52, 2, 1);
    let nodes = || machine.with_peers(|peers| peers.xen.store().dump());
    let before = nodes();
    let shown = show(&machine.host, device(E1000)).unwrap();
    assert_eq!(nodes(), before);
    let json: Value = serde_json::from_str(&shown.json()).unwrap();
    assert_eq!(
        (&json["guest"]["name"], &json["stub"]["id"], &json["vdev"]),
        (&"web".into(), &STUB.0.into(), &"0000:00:00.0".into())
    );
    assert_eq!((&json["policy"], &json["denied_elsewhere"]), (&"permissive=0,hide=1,quirk=54:2:ff".into(), &0.into()));
    assert_eq!(register(&json, 0x2e)["denied"], 3);
    assert_eq!(register(&json, 0x04)["denied"], 0);
    assert_eq!((&register(&json, 0x40)["answered_by"], &register(&json, 0x40)["value"]), (&"hidden".into(), &0.into()));
    let quirk = register(&json, 0x54);
    assert_eq!((&quirk["device_bits"], &quirk["reason"]), (&0xff.into(), &"open by quirk=54:2:ff".into()));
    assert_eq!(register(&json, 0x34)["value"], 0x50, "the list as the guest has it");
    let text = shown.text();
    for want in ["web (5), as 0000:00:00.0", "policy    permissive=0,hide=1", "3       header Subsystem ID"] {
        assert!(text.contains(want), "{want}: {text}");
    }
}

/// The statistics in the guest and those shown are the same: both come from one view.
#[test]
fn what_is_shown_is_what_the_guest_reads() {
    let machine = with_stub(&[E1000, EDU], &format!("{E1000},hide=9"));
    let json: Value = serde_json::from_str(&show(&machine.host, device(E1000)).unwrap().json()).unwrap();
    for register in json["registers"].as_array().unwrap() {
        let [offset, width, value] = ["offset", "width", "value"].map(|name| register[name].as_i64().unwrap());
        if ![1, 2, 4].contains(&width) || offset < 4 || offset == 8 || (9..12).contains(&offset) {
            continue; // the simulated device has ids of its own, which dom0's does not
        }
        let read = machine.with_peers(|peers| {
            let at = i32::try_from(offset).unwrap();
            let request = Request::conf_read(Sbdf::from_devfn(0, 0, 0), at, i32::try_from(width).unwrap());
            peers.guests[&WEB].ask(&mut peers.stub, &request).unwrap().value
        });
        // Decoding is on: the guest's driver has done that, and its own bits are the stub's alone.
        if offset != 4 {
            assert_eq!(i64::from(read), value, "{register}");
        }
    }
}

#[test]
fn a_function_alone_in_its_slot_says_so() {
    let machine = Machine::new();
    add_all(&machine);
    let mut config = machine.config(E1000);
    config.bytes[0x0e] = 0x80;
    machine.tree.write(format!("bus/pci/devices/{E1000}/config"), config.bytes);
    let mut request = request("web", &[E1000]);
    request.export = Some(crate::records::export::ExportMode::Slot);
    attach(&machine.host, &request).unwrap();
    assert_eq!(register(&json(&machine, E1000), 0x0e)["value"], 0);
    attach_to_web(&machine, &[EDU]).unwrap();
}

#[test]
fn a_backend_that_does_not_count_is_no_error() {
    let machine = attached(); // its stub answers no questions
    let shown = show(&machine.host, device(E1000)).unwrap();
    assert!(shown.text().contains("denied    unknown: the backend does not answer"), "{}", shown.text());
}

#[test]
fn lists_that_make_no_sense_are_told() {
    let machine = Machine::new();
    let mut config = machine.config(E1000);
    config.bytes[0x51] = 0x40;
    machine.tree.write(format!("bus/pci/devices/{E1000}/config"), config.bytes);
    assert_eq!(json(&machine, E1000)["broken_pointer"], 0x40);
    assert!(show(&machine.host, device(E1000)).unwrap().text().contains("leads to 0x40, which is none"));
}

#[test]
fn what_is_no_function_for_guests_is_refused() {
    let machine = Machine::new();
    assert!(matches!(show(&machine.host, device("0000:00:19.0")), Err(Error::NoSuchDevice(_))));
    assert!(matches!(show(&machine.host, device("0000:00:00.0")), Err(Error::Bridge(_))));
    machine.tree.write(format!("bus/pci/devices/{E1000}/config"), vec![0xff; 256]);
    assert!(matches!(show(&machine.host, device(E1000)), Err(Error::Gone(_))));
}
