//! What `pcidom doctor` finds on a simulated machine.

use serde_json::Value;

use super::{attach_to_web, attached};
use crate::doctor::{Opened, examine};
use crate::error::ExitCause;
use crate::fake::{E1000, EDU, Machine, NVME, SATA, STUB, WEB, device};

/// Outcomes by subject and check: `0000:00:05.0 reset` is a warning.
struct Findings(Vec<(String, String, Value)>);

impl Findings {
    fn of(machine: Machine, names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let report = examine(&Opened::of(machine.host), "pcidom", &names);
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        let checks = json["checks"].as_array().unwrap().iter().map(|check| {
            let subject = check["subject"].as_str().map(|subject| format!("{subject} ")).unwrap_or_default();
            let name = format!("{subject}{}", check["name"].as_str().unwrap());
            (name, check["outcome"].as_str().unwrap().to_owned(), check.clone())
        });
        let findings = Self(checks.collect());
        let failed = findings.0.iter().any(|(_, outcome, _)| outcome == "failed");
        match report.check() {
            Ok(()) => assert!(!failed),
            Err(error) => assert!(failed && error.cause() == ExitCause::NotPermitted),
        }
        findings
    }

    fn outcome(&self, name: &str) -> &str {
        self.0.iter().find(|(known, ..)| known == name).map_or("not made", |(_, outcome, _)| outcome)
    }

    /// Text and hint.
    fn says(&self, name: &str) -> String {
        let check = &self.0.iter().find(|(known, ..)| known == name).unwrap().2;
        format!("{} {}", check["text"], check["hint"])
    }

    #[track_caller]
    fn assert(&self, name: &str, outcome: &str, words: &str) {
        assert_eq!(self.outcome(name), outcome, "{name}");
        let said = self.says(name);
        assert!(said.contains(words), "{name}: {said}");
    }
}

#[test]
fn a_host_that_is_fit_for_it() {
    let findings = Findings::of(Machine::new(), &[]);
    for name in ["iommu", "interrupt remapping", "ecam", "ecam protection", "xen-pciback", "backend", "vectors"] {
        assert_eq!(findings.outcome(name), "ok", "{name}");
    }
    for device in [E1000, EDU, NVME] {
        for name in ["device", "ecam", "group", "registers", "interrupt line", "phantom functions", "reserved memory"] {
            assert_eq!(findings.outcome(&format!("{device} {name}")), "ok", "{device} {name}");
        }
    }
    findings.assert(&format!("{NVME} reset"), "ok", "can be reset");
    findings.assert(&format!("{EDU} reset"), "warning", "no way to reset");
    assert_eq!(findings.outcome(&format!("{SATA} device")), "not made", "it is dom0's and nobody asked");
}

#[test]
fn hosts_that_are_not() {
    let machine = Machine::new();
    machine.with(|world| {
        world.iommu = false;
        world.destroy(STUB);
    });
    std::fs::remove_dir_all(machine.tree.path().join("bus/pci/drivers/pciback")).unwrap();
    std::fs::remove_file(machine.tree.path().join("firmware/acpi/tables/MCFG")).unwrap();
    let findings = Findings::of(machine, &[]);
    findings.assert("iommu", "failed", "VT-d");
    findings.assert("ecam", "failed", "MCFG");
    findings.assert("xen-pciback", "failed", "modprobe");
    findings.assert("backend", "failed", "xl create");
}

#[test]
fn devices_that_others_are_tied_to() {
    let machine = Machine::new();
    // Two functions of a slot, one of them dom0's; a line and a page that dom0's disk controller has too.
    machine.add_function("0000:00:08.0", "0x00ff00", "pciback", 16, &[(0xfeb9_1800, 0x100, 0x200)]);
    machine.add_function("0000:00:08.1", "0x00ff00", "driver", 0, &[]);
    let findings = Findings::of(machine, &["00:08.0"]);
    findings.assert("0000:00:08.0 group", "warning", "assignable add 0000:00:08.1");
    findings.assert("0000:00:08.0 interrupt line", "warning", SATA);
    findings.assert("0000:00:08.0 registers", "failed", SATA);
}

#[test]
fn configuration_space_that_a_backend_could_write_is_told() {
    for (line, messages, words) in [
        (Some("dom0_mem=1G mmcfg=0"), None, "mmcfg=0"),
        (None, Some("(XEN) PCI: Not using MCFG for segment 0000 bus 00-3f\n"), "segment 0000 bus 00-3f"),
    ] {
        let machine = Machine::new();
        machine.with(|world| {
            world.xen_command_line = line.map(str::to_owned);
            world.xen_messages = messages.map(str::to_owned);
        });
        crate::ops::assignable::add(&machine.host, &[device(EDU)], "pcidom").unwrap();
        machine.with(|world| {
            let noted = world.notes.iter().any(|note| note.contains(words) && note.contains("could write"));
            assert!(noted, "{:?}", world.notes);
        });
        Findings::of(machine, &[]).assert("ecam protection", "warning", words);
    }
    let machine = Machine::new();
    machine.with(|world| world.xen_messages = Some(String::new()));
    Findings::of(machine, &[]).assert("ecam protection", "warning", "cannot be told");
}

#[test]
fn a_line_of_devices_that_may_go_to_several_guests_is_told() {
    let machine = Machine::new();
    let four = ["0000:00:0a.0", "0000:00:0b.0", "0000:00:0c.0", EDU];
    for name in &four[..3] {
        machine.add_function(name, "0x020000", "pciback", 22, &[]);
    }
    crate::ops::assignable::add(&machine.host, &four.map(device), "pcidom").unwrap();
    let findings = Findings::of(machine, &four);
    for name in four {
        findings.assert(&format!("{name} interrupt line"), "warning", "which nobody has and other guests may get");
        findings.assert(&format!("{name} interrupt line"), "warning", "give all of them to one guest");
    }

    // What one guest has may share the line; what is left may still go to another.
    let machine = Machine::new();
    machine.add_function(four[0], "0x020000", "pciback", 22, &[]);
    attach_to_web(&machine, &[EDU, four[0]]).unwrap();
    machine.add_function(four[1], "0x020000", "pciback", 22, &[]);
    machine.add_function(four[2], "0x020000", "pciback", 23, &[]);
    let findings = Findings::of(machine, &[EDU, four[2]]);
    findings.assert(&format!("{EDU} interrupt line"), "warning", four[1]);
    assert!(!findings.says(&format!("{EDU} interrupt line")).contains(four[0]));
    findings.assert(&format!("{} interrupt line", four[2]), "warning", NVME);
}

#[test]
fn what_keeps_guests_from_a_backend_outside_of_dom0_is_told() {
    let said = |messages: &str, line: &str| {
        let machine = Machine::new();
        machine.with(|world| {
            world.xen_messages = Some(messages.to_owned());
            world.xen_command_line = Some(line.to_owned());
        });
        Findings::of(machine, &[])
    };
    said("(XEN) Initialising XSM SILO mode\n", "").assert("xsm", "failed", "SILO");
    said("", "dom0_mem=1G xsm=silo").assert("xsm", "failed", "xsm=dummy");
    said("(XEN) Flask:  Starting in permissive mode.\n", "").assert("xsm", "warning", "Flask");
    assert_eq!(said("(XEN) XSM Framework v1.0.1 initialized\n", "xsm=silo xsm=dummy").outcome("xsm"), "ok");
}

#[test]
fn a_dom0_that_may_not_write_or_is_of_another_kind_is_told() {
    let of = |files: &[(&str, &str)]| {
        let machine = Machine::new();
        files.iter().for_each(|(name, text)| machine.tree.write(name, text));
        Findings::of(machine, &[])
    };
    for mode in ["none [integrity] confidentiality\n", "none integrity [confidentiality]\n"] {
        of(&[("kernel/security/lockdown", mode)]).assert("lockdown", "failed", "Secure Boot");
    }
    assert_eq!(of(&[("kernel/security/lockdown", "[none] integrity confidentiality\n")]).outcome("lockdown"), "ok");
    of(&[("hypervisor/guest_type", "PVH\n")]).assert("dom0's kind", "warning", "PVH");
    of(&[("hypervisor/guest_type", "PV\n")]).assert("dom0's kind", "ok", "PV");
}

#[test]
fn the_store_s_daemon_and_its_limits_are_told() {
    let of = |comm: &str, settings: &str, quota: Option<&str>| {
        let machine = Machine::new();
        machine.tree.write("root/run/xen/xenstored.pid", "417\n");
        machine.tree.write("root/proc/417/comm", format!("{comm}\n"));
        machine.tree.write("root/etc/xen/oxenstored.conf", settings);
        machine.with(|world| world.store_limits = quota.map(str::to_owned));
        Findings::of(machine, &[])
    };
    of("oxenstored", "# quota-maxwatch = 7\nquota-maxwatch = 200\n", None).assert(
        "xenstored",
        "ok",
        "196 are for guests",
    );
    of("oxenstored", "", None).assert("xenstored", "ok", "96 are for guests");
    of("oxenstored", "quota-maxwatch = 10\n", None).assert("xenstored", "warning", "oxenstored.conf");
    of("oxenstored", "quota-activate = false\nquota-maxwatch = 1\n", None).assert("xenstored", "ok", "oxenstored");
    of("oxenstored", "quota-transaction = 2\n", None).assert("xenstored", "failed", "needs 4");
    let quota =
        "            nodes:     1000 maximum number of nodes\n          watches:      128 maximum number of watches\n";
    of("xenstored", "", Some(quota)).assert("xenstored", "ok", "124 are for guests");
    of("xenstored", "", None).assert("xenstored", "ok", "cannot be told");
    Findings::of(Machine::new(), &[]).assert("xenstored", "ok", "no process of dom0");
}

#[test]
fn lists_of_hidden_devices_that_hide_nothing_are_told() {
    let of = |xen: &str, kernel: &str, modprobe: &str| {
        let machine = Machine::new();
        machine.tree.write("root/proc/cmdline", kernel);
        machine.tree.write("root/etc/modprobe.d/local.conf", modprobe);
        machine.with(|world| world.xen_command_line = Some(xen.to_owned()));
        Findings::of(machine, &[])
    };
    let good = format!("quiet xen-pciback.hide=({EDU})({NVME})\n");
    of("", &good, "").assert("hide=", "ok", "understands");
    of("", "quiet", "").assert("hide=", "ok", "nothing");
    of("xen-pciback.hide=(0000:03:00.0)", "", "").assert("hide=", "warning", "command line of dom0's kernel");
    of("", "xen-pciback.hide=0000:03:00.0", "").assert("hide=", "failed", "(SSSS:BB:DD.F)");
    of("", "xen_pciback.hide=(0000:7f:00.0)", "").assert("hide=", "warning", "0000:7f:00.0");
    of("", "", "options xen-pciback permissive=1 hide=(03:00.0\n").assert("hide=", "failed", "/etc/modprobe.d");
}

#[test]
fn ports_that_let_requests_past_the_iommu_are_told() {
    let port = |control: Option<u16>| {
        let mut image = fakes::Memory::conventional();
        image.add_capability(0x40, 0x10, 0);
        image.set_word(0x42, 0x0042);
        image.bytes.resize(4096, 0);
        if let Some(control) = control {
            image.set_word(0x100, 0x000d);
            image.set_word(0x102, 0x0001);
            image.set_word(0x106, control);
        }
        image
    };
    for (control, outcome) in [(None, "warning"), (Some(0x0001), "warning"), (Some(0x001d), "ok"), (Some(0x005f), "ok")]
    {
        let machine = Machine::new();
        const PORT: &str = "0000:00:1c.0";
        machine.add_function(PORT, "0x060400", "", 0, &[]);
        machine.tree.write(format!("bus/pci/devices/{PORT}/config"), port(control).bytes);
        // As sysfs has it: the device's folder is in that of its port.
        let devices = machine.tree.path().join("bus/pci/devices");
        std::fs::rename(devices.join(EDU), devices.join(PORT).join(EDU)).unwrap();
        machine.tree.link(format!("bus/pci/devices/{EDU}"), &format!("{PORT}/{EDU}"));
        let findings = Findings::of(machine, &[EDU]);
        findings.assert(&format!("{EDU} acs"), outcome, if outcome == "ok" { "no port" } else { PORT });
    }
}

#[test]
fn devices_that_are_not_there_or_not_for_guests() {
    let machine = Machine::new();
    machine.tree.write(format!("bus/pci/devices/{EDU}/config"), vec![0xff; 256]);
    let findings = Findings::of(machine, &[EDU, SATA, "00:00.0", "00:09.0"]);
    findings.assert(&format!("{EDU} device"), "failed", "does not answer");
    assert_eq!(findings.outcome(&format!("{EDU} reset")), "not made");
    findings.assert(&format!("{SATA} device"), "warning", "dom0's ahci has it");
    findings.assert("0000:00:00.0 device", "failed", "bridge");
    findings.assert("0000:00:09.0 device", "failed", "no PCI device");
}

#[test]
fn devices_with_many_vectors_or_phantom_functions_or_reserved_memory() {
    let machine = Machine::new();
    let mut config = machine.config(NVME);
    config.set_word(0x52, 0x003f);
    config.add_capability(0x60, 0x10, 0);
    config.bytes[0x51] = 0x60;
    config.set_word(0x64, 1 << 3);
    machine.tree.write(format!("bus/pci/devices/{NVME}/config"), config.bytes);
    let mut table = vec![0; 48];
    table.extend([1, 0, 32, 0, 0, 0, 0, 0].iter().chain(&[0; 16]).chain(&[1, 8, 0, 0, 0, 0, 7, 0]));
    machine.tree.write("firmware/acpi/tables/XMAR", table);
    let findings = Findings::of(machine, &[NVME, EDU]);
    findings.assert(&format!("{NVME} vectors"), "warning", "extra_guest_irqs=64");
    findings.assert(&format!("{NVME} phantom functions"), "warning", "XSA-449");
    findings.assert(&format!("{NVME} reserved memory"), "warning", "RMRR");
    findings.assert(&format!("{EDU} reserved memory"), "ok", "none");
}

#[test]
fn guests_as_they_were_created() {
    let machine = attached();
    let findings = Findings::of(machine, &["web", "windows", "0", "nobody"]);
    for name in ["guest", "passthrough", "e820_host", "bounce buffers", "connection"] {
        assert_eq!(findings.outcome(&format!("web {name}")), "ok", "{name}");
    }
    findings.assert("windows guest", "failed", "not a PV guest");
    findings.assert("0 guest", "failed", "dom0");
    findings.assert("nobody guest", "failed", "no guest nobody");

    let machine = Machine::new();
    machine.with(|world| world.passthrough.remove(&WEB));
    Findings::of(machine, &["web"]).assert("web passthrough", "failed", "passthrough=");
}

#[test]
fn the_form_for_people_is_a_line_a_check_with_hints() {
    let machine = Machine::new();
    machine.with(|world| world.iommu = false);
    let text = examine(&Opened::of(machine.host), "pcidom", &[EDU.to_owned()]).text();
    assert!(text.starts_with("failed   iommu: Xen uses no IOMMU on this host"), "{text}");
    assert!(text.contains("\n         hint: enable VT-d"), "{text}");
    assert!(text.contains(&format!("\nwarning  {EDU}: reset: ")), "{text}");
}
