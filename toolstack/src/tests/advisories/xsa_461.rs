//! XSA-461 (CVE-2024-31146): devices that share a page of registers, or an interrupt line, cannot be kept apart when they belong to different domains.
//!
//! Ours: a device whose registers are in a page with another's is attached together with that one or not at all, whoever has the other; `doctor` tells of lines that several share.

use super::{attach_to_web, detach_from_web};
use crate::doctor::{Opened, examine};
use crate::error::Error;
use crate::fake::{Machine, WEB, device};
use crate::ops::assignable;

const ONE: &str = "0000:00:08.0";
const NEXT: &str = "0000:00:09.0";

/// Two devices with registers in one page, on one line.
fn sharing(driver: &str) -> Machine {
    let machine = Machine::new();
    machine.add_function(ONE, "0x00ff00", "pciback", 20, &[(0xfe80_0000, 0x100, 0x200)]);
    machine.add_function(NEXT, "0x00ff00", driver, 20, &[(0xfe80_0100, 0x100, 0x200)]);
    machine
}

#[test]
fn a_page_of_two_devices_has_one_guest() {
    for driver in ["", "ahci", "pciback"] {
        let machine = sharing(driver);
        let error = attach_to_web(&machine, &[ONE]).unwrap_err();
        assert!(matches!(error, Error::SharedPage { page: 0xfe80_0000, .. }), "{driver}: {error}");
        machine.with(|world| assert!(world.iomem.iter().all(|(domain, _)| *domain != WEB), "no right to the page"));
    }
    let machine = sharing("pciback");
    attach_to_web(&machine, &[ONE, NEXT]).unwrap();
    // And one of them does not stay behind alone.
    detach_from_web(&machine, &[ONE, NEXT]).unwrap();
    machine.with(|world| assert!(world.iomem.iter().all(|(domain, _)| *domain != WEB)));
    machine.assert_no_violations();
}

#[test]
fn doctor_tells_of_a_line_that_is_shared() {
    let machine = sharing("pciback");
    attach_to_web(&machine, &[ONE, NEXT]).unwrap();
    machine.add_function("0000:00:0a.0", "0x020000", "pciback", 20, &[]);
    assignable::add(&machine.host, &[device("0000:00:0a.0")], "pcidom").unwrap();
    let text = examine(&Opened::of(machine.host), "pcidom", &[ONE.to_owned()]).text();
    assert!(text.lines().any(|line| line.contains("interrupt line") && line.contains("0000:00:0a.0")), "{text}");
}
