//! Devices that dom0 cannot do without are not taken from it by accident.

use super::{TIMEOUT, request};
use crate::create::{Plan, Request, create};
use crate::error::Error;
use crate::fake::{E1000, Machine, SATA, device};
use crate::ops::assignable::{add, plan_add};
use crate::ops::attach::{self, attach};
use crate::records::configured_devices::ConfiguredDevice;

/// dom0's second network card, and a second disk controller.
const CARD: &str = "0000:00:02.0";
const DISKS: &str = "0000:00:03.0";

/// SATA has the disk sda with two partitions, DISKS the disk sdb; E1000 is taken back from xen-pciback as eth0, CARD is eth1.
fn dom0() -> Machine {
    let machine = Machine::new();
    machine.add_function(CARD, "0x020000", "igb", 17, &[]);
    machine.add_function(DISKS, "0x010601", "ahci", 18, &[]);
    let tree = &machine.tree;
    for (device, block) in [(SATA, "sda"), (SATA, "sda/sda1"), (SATA, "sda/sda2"), (DISKS, "sdb")] {
        let path = format!("devices/pci0000:00/{device}/ata1/block/{block}");
        let name = block.rsplit('/').next().unwrap();
        tree.write(format!("{path}/dev"), "");
        tree.write(format!("class/block/{name}.here"), "");
        tree.link(format!("class/block/{name}"), &format!("../../{path}"));
        tree.write(format!("root/dev/{name}"), "");
    }
    for (name, below) in [("dm-0", &["sda2"][..]), ("dm-1", &["dm-0"]), ("md0", &["sda2", "sdb"])] {
        tree.write(format!("devices/virtual/block/{name}/dev"), "");
        for slave in below {
            tree.write(format!("devices/virtual/block/{name}/slaves/{slave}"), "");
        }
        tree.link(format!("class/block/{name}"), &format!("../../devices/virtual/block/{name}"));
        tree.write(format!("root/dev/{name}"), "");
    }
    tree.write("devices/virtual/block/loop0/loop/backing_file", "/srv/images/a.img\n");
    tree.link("class/block/loop0", "../../devices/virtual/block/loop0");
    tree.write("dev/block/here", "");
    for (number, name) in
        [("8:1", "sda1"), ("8:2", "sda2"), ("8:16", "sdb"), ("253:1", "dm-1"), ("9:0", "md0"), ("7:0", "loop0")]
    {
        tree.link(format!("dev/block/{number}"), &format!("../../class/block/{name}"));
    }
    for (name, card) in [("eth1", CARD), ("eth2", DISKS)] {
        tree.write(format!("devices/pci0000:00/{card}/net/{name}/operstate"), "down\n");
        tree.write("class/net/bonding_masters", "");
        tree.link(format!("class/net/{name}"), &format!("../../devices/pci0000:00/{card}/net/{name}"));
    }
    machine
}

fn mounted(machine: &Machine, lines: &[&str]) {
    machine.tree.write("root/proc/1/mountinfo", lines.join("\n"));
}

fn routes(machine: &Machine, interfaces: &[&str]) {
    let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
    let line = |name: &&str| format!("{name}\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n");
    let other = "eth9\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    machine
        .tree
        .write("root/proc/1/net/route", head.to_owned() + &interfaces.iter().map(line).collect::<String>() + other);
}

/// Why these cannot be taken; nothing where they can.
fn refused(machine: &Machine, devices: &[&str]) -> Option<String> {
    let devices: Vec<_> = devices.iter().map(|text| device(text)).collect();
    match plan_add(&machine.host, &devices, "pcidom", None) {
        Ok(_) => None,
        Err(error @ Error::UsedByDom0 { .. }) => Some(error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn file_systems_are_followed_to_the_device_that_they_are_on() {
    for (line, device, what) in [
        ("21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw", SATA, "its root file system is on sda1"),
        ("21 1 253:1 / / rw shared:1 - xfs /dev/mapper/vg-root rw", SATA, "its root file system is on dm-1"),
        ("21 1 8:16 / /srv/my\\040data rw - ext4 /dev/sdb rw", DISKS, "/srv/my data is on sdb"),
        ("21 1 9:0 / /home rw - ext4 /dev/md0 rw", DISKS, "/home is on md0"),
        ("21 1 0:25 / / rw - btrfs /dev/sda2 rw,subvol=/@", SATA, "its root file system is on sda2"),
    ] {
        let machine = dom0();
        assert_eq!(refused(&machine, &[SATA, DISKS]), None, "{line}");
        mounted(&machine, &["20 1 0:5 / /proc rw - proc proc rw", line]);
        let want = format!("{device} is in use by dom0: {what}");
        assert_eq!(refused(&machine, &[SATA, DISKS]).as_deref(), Some(want.as_str()), "{line}");
        assert_eq!(refused(&machine, &[CARD]), None, "{line}");
    }
}

#[test]
fn what_stands_on_files_and_on_several_devices_is_followed_too() {
    let machine = dom0();
    mounted(&machine, &["21 1 8:16 / /srv rw - ext4 /dev/sdb rw", "22 1 7:0 / /mnt rw - ext4 /dev/loop0 rw"]);
    assert!(refused(&machine, &[DISKS]).unwrap().contains("/srv is on sdb"));
    let machine = dom0();
    machine.tree.write("fs/btrfs/01/devices/sda2", "");
    machine.tree.write("fs/btrfs/01/devices/sdb", "");
    mounted(&machine, &["21 1 0:25 / / rw - btrfs /dev/sda2 rw"]);
    assert!(refused(&machine, &[DISKS]).unwrap().contains("its root file system is on sdb"));
    let machine = dom0();
    mounted(&machine, &["21 1 8:1 / / rw - ext4 /dev/sda1 rw", "22 1 0:40 / /mnt rw - zfs pool/data rw", "nonsense"]);
    assert_eq!(refused(&machine, &[DISKS]), None);
}

#[test]
fn swap_is_on_a_partition_or_in_a_file() {
    let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
    for (line, want) in [
        ("/dev/sdb                partition\t9\t0\t-2", "it swaps to /dev/sdb on sdb"),
        ("/dev/dm-1 partition\t9\t0\t-2", "it swaps to /dev/dm-1 on dm-1"),
        ("/srv/swap file\t9\t0\t-2", "it swaps to /srv/swap on sdb"),
    ] {
        let machine = dom0();
        mounted(&machine, &["21 1 0:9 / / rw - tmpfs tmpfs rw", "21 1 8:16 / /srv rw - ext4 /dev/sdb rw"]);
        if !line.contains("/srv") {
            mounted(&machine, &["21 1 0:9 / / rw - tmpfs tmpfs rw"]);
        }
        machine.tree.write("root/proc/swaps", format!("{head}{line}\n"));
        let told = refused(&machine, &[SATA, DISKS]).unwrap();
        assert!(told.contains(want) || line.contains("/srv") && told.contains("/srv is on sdb"), "{told}");
    }
}

#[test]
fn the_only_network_card_is_the_one_of_the_default_route() {
    let machine = dom0();
    assert_eq!(refused(&machine, &[CARD]), None, "it is down, and there is no route");
    routes(&machine, &["eth1"]);
    let want = format!("{CARD} is in use by dom0: its default route goes by eth1, and by no other card");
    assert_eq!(refused(&machine, &[CARD]), Some(want.clone()));
    // Below a bridge and a VLAN.
    machine.tree.write("devices/virtual/net/xenbr0/lower_vlan7", "");
    machine.tree.write("devices/virtual/net/vlan7/lower_eth1", "");
    for name in ["xenbr0", "vlan7"] {
        machine.tree.link(format!("class/net/{name}"), &format!("../../devices/virtual/net/{name}"));
    }
    routes(&machine, &["xenbr0"]);
    assert_eq!(refused(&machine, &[CARD]), Some(want.replace("eth1", "xenbr0")));
    // A bond goes on with its other card, but not without both.
    machine.tree.write("devices/virtual/net/xenbr0/lower_eth2", "");
    assert_eq!(refused(&machine, &[CARD]), None);
    assert!(refused(&machine, &[CARD, DISKS]).is_some());
    routes(&machine, &[]);
    machine.tree.write(format!("devices/pci0000:00/{CARD}/net/eth1/operstate"), "up\n");
    let only = format!("{CARD} is in use by dom0: eth1 is its only network card that is up");
    assert_eq!(refused(&machine, &[CARD]), Some(only));
    let all = "00000000000000000000000000000000";
    machine.tree.write(
        "root/proc/1/net/ipv6_route",
        format!(
            "{all} 00 {all} 00 fe80 00000400 1 0 00000003 eth2\n{all} 00 {all} 00 {all} ffffffff 1 0 00200200 lo\n"
        ),
    );
    assert_eq!(refused(&machine, &[CARD]), None, "the route is another card's");
    assert!(refused(&machine, &[DISKS]).unwrap().contains("its default route goes by eth2"));
}

#[test]
fn every_command_that_takes_a_device_from_dom0_asks_and_can_be_told_to_take_it() {
    let seized = format!("{SATA},seize=1");
    let machine = dom0();
    mounted(&machine, &["21 1 8:1 / / rw - ext4 /dev/sda1 rw"]);
    let before = machine.dump();
    let guest = Request {
        config: None,
        overrides: vec!["name='new'".to_owned(), format!("pci=['{seized}']")],
        backend: "pcidom".to_owned(),
        timeout: TIMEOUT,
        paused: false,
        for_xl: Vec::new(),
        console: false,
    };
    let creates = || create(&machine.host, &guest, Plan::read(&guest).unwrap(), &mut None);
    for outcome in [
        add(&machine.host, &[device(SATA)], "pcidom"),
        attach(&machine.host, &request("web", &[&seized])).map(drop),
        attach::plan(&machine.host, &request("web", &[&seized])).map(drop),
        creates(),
    ] {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::UsedByDom0 { .. }), "{error}");
        assert!(error.hint().unwrap().contains("--seize-in-use"));
    }
    machine.dump().assert_same(&before, "");
    // Devices that dom0 has given away already are not looked at.
    add(&machine.host, &[device(E1000)], "pcidom").unwrap();
    let config = machine.tree.path().join("pcidom.cfg");
    let domain = crate::ops::driver_domain::DriverDomain { config, name: "pcidom".to_owned() };
    let line = |words: &str| ConfiguredDevice::parse(&format!("{SATA}{words}")).unwrap();
    machine.tree.write(format!("bus/pci/devices/{SATA}/vendor"), "0x8086\n");
    machine.tree.write(format!("bus/pci/devices/{SATA}/device"), "0x2922\n");
    assert!(matches!(domain.add(&machine.host, &line("")), Err(Error::UsedByDom0 { .. })));
    domain.add(&machine.host, &line(",seize_in_use=1")).unwrap();
    assert!(!machine.host.seize_in_use.get(), "the next line has its own word");
    crate::ops::assignable::remove(&machine.host, &[device(SATA)], true).unwrap();
    machine.host.seize_in_use.set(true);
    creates().unwrap();
    machine.assert_no_violations();
}

#[test]
fn a_card_behind_a_port_is_found_and_so_is_a_disk_with_several_paths() {
    let machine = dom0();
    // The port is a bridge, which nobody takes, and no second way to the network.
    std::fs::remove_file(machine.tree.path().join("class/net/eth1")).unwrap();
    machine.tree.write(format!("devices/pci0000:00/0000:00:1c.0/{CARD}/net/eth1/operstate"), "up\n");
    machine.tree.link("class/net/eth1", &format!("../../devices/pci0000:00/0000:00:1c.0/{CARD}/net/eth1"));
    routes(&machine, &["eth1"]);
    assert!(refused(&machine, &[CARD]).unwrap().contains("its default route goes by eth1"));

    let machine = dom0();
    machine.tree.write(format!("devices/pci0000:00/{DISKS}/nvme/nvme7/cntlid"), "1\n");
    let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys7";
    machine.tree.write(format!("{subsystem}/nvme7n1/dev"), "");
    machine.tree.link(format!("{subsystem}/nvme7"), &format!("../../../pci0000:00/{DISKS}/nvme/nvme7"));
    machine.tree.link("class/block/nvme7n1", &format!("../../{subsystem}/nvme7n1"));
    machine.tree.link("dev/block/259:0", "../../class/block/nvme7n1");
    machine.tree.write("root/dev/nvme7n1", "");
    mounted(&machine, &["21 1 259:0 / / rw - ext4 /dev/nvme7n1 rw"]);
    assert!(refused(&machine, &[DISKS]).unwrap().contains("its root file system is on nvme7n1"));
}
