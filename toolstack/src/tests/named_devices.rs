//! What the user names, found on the machine.

use super::{attached, detach_from_web};
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, NVME, WEB, device};
use crate::ops::named_devices::{to_attach, to_detach};
use crate::records::device_words::DeviceRequest;

fn requests(texts: &[&str]) -> Vec<DeviceRequest> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn found(machine: &Machine, texts: &[&str]) -> Result<Vec<String>, Error> {
    Ok(to_attach(&machine.host, &requests(texts))?.iter().map(|spec| spec.device.to_string()).collect())
}

#[test]
fn a_star_stands_for_the_functions_that_are_there() {
    let machine = Machine::new();
    machine.add_function("0000:00:08.0", "0x00ff00", "pciback", 16, &[]);
    machine.add_function("0000:00:08.3", "0x00ff00", "pciback", 16, &[]);
    assert_eq!(found(&machine, &["00:08.*", EDU]).unwrap(), ["0000:00:08.0", "0000:00:08.3", EDU]);
    let specs = to_attach(&machine.host, &requests(&["00:08.*@5,power_mgmt=1"])).unwrap();
    assert_eq!(specs.iter().map(|spec| spec.vdevfn()).collect::<Vec<_>>(), [Some(0x28), Some(0x2b)]);
    assert!(specs.iter().all(|spec| spec.power_mgmt));
    assert!(matches!(found(&machine, &["00:09.*"]), Err(Error::NoSuchDevice(_))));
}

#[test]
fn names_are_those_that_xl_gave() {
    let machine = Machine::new();
    machine.with(|world| world.write("/libxl/pci/0000-00-07-0/name", "disk"));
    assert_eq!(found(&machine, &["name=disk"]).unwrap(), [NVME]);
    let error = found(&machine, &["name=disc"]).unwrap_err();
    assert_eq!(error.to_string(), "no assignable device is called disc");
}

#[test]
fn a_star_takes_from_a_guest_what_it_has_of_the_slot() {
    let machine = attached();
    let wanted = |texts: &[&str], guest| to_detach(&machine.host, &requests(texts), guest).unwrap();
    assert_eq!(wanted(&["00:07.*", E1000, "bdf=00:06.0"], "web"), [NVME, E1000, EDU].map(device));
    assert_eq!(wanted(&["00:07.*"], "db"), [device(NVME)], "which db does not have, and detach says so");
    machine.with(|world| world.destroy(WEB));
    assert_eq!(wanted(&["00:07.*"], "web"), [device(NVME)]);
    detach_from_web(&machine, &["00:07.0"]).unwrap();
}

#[test]
fn what_is_named_twice_is_taken_once() {
    let machine = attached();
    let devices = to_detach(&machine.host, &requests(&[EDU, "00:06.*", NVME, EDU]), "web").unwrap();
    assert_eq!(devices, [device(EDU), device(NVME)]);
}
