//! XSA-400 (CVE-2022-26358 to 26361): memory that firmware reserved for a device (RMRR, unity maps) must stay mapped for it as long as it works, and did not.
//!
//! That is Xen's, which has mended it. Ours: such a device goes to no guest unless the admin says `rdm_policy=relaxed`; `doctor` tells of it with the number, and it still comes into the pool and back.

use super::attach_to_web;
use crate::doctor::{Opened, examine};
use crate::fake::{Machine, NVME, SATA, device};
use crate::ops::assignable;

#[test]
fn reserved_memory_is_no_guests_without_a_word_of_the_admins() {
    let machine = Machine::new();
    machine.with(|world| world.shared_reserved.insert(device(SATA)));
    assignable::add(&machine.host, &[device(SATA)], "pcidom").unwrap();
    let error = attach_to_web(&machine, &[SATA]).unwrap_err();
    assert!(error.hint().unwrap().contains("rdm_policy=relaxed"), "{error}");
    machine.with(|world| assert_eq!(world.owners[&device(SATA)], xen_types::DomId::IO));
    attach_to_web(&machine, &[&format!("{SATA},rdm_policy=relaxed")]).unwrap();
    machine.assert_no_violations();
}

#[test]
fn doctor_tells_of_it() {
    let machine = Machine::new();
    // A DMAR table with an RMRR for 00:07.0.
    let mut table = vec![0; 48];
    table.extend([1, 0, 32, 0, 0, 0, 0, 0].iter().chain(&[0; 16]).chain(&[1, 8, 0, 0, 0, 0, 7, 0]));
    machine.tree.write("firmware/acpi/tables/XMAR", table);
    let text = examine(&Opened::of(machine.host), "pcidom", &[NVME.to_owned()]).text();
    assert!(text.contains("RMRR") && text.contains("XSA-400"), "{text}");
}
