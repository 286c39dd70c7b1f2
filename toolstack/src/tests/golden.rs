//! The shapes in xenstore, node by node: docs/protocol.md §1.2 and §8.1, `docs/xenstore.md`.

use super::{attach_to_web, pause};
use crate::fake::{E1000, Machine, NVME, WEB};

/// Every node below `dir` with its value and rights.
fn tree(machine: &Machine, dir: &str) -> Vec<String> {
    let prefix = format!("{dir}/");
    machine.with(|world| {
        let below = world.store.nodes().filter(|(path, _)| *path == dir || path.starts_with(&prefix));
        below
            .map(|(path, node)| {
                let rights: Vec<String> = node.permissions().iter().map(ToString::to_string).collect();
                let value = node.text().unwrap();
                format!("{} = {value:?} {}", path.strip_prefix(&prefix).unwrap_or("."), rights.join(" "))
            })
            .collect()
    })
}

/// A paused guest and a stub that has not looked yet.
fn written() -> Machine {
    let machine = Machine::new();
    pause(&machine, WEB);
    machine.with(|world| {
        world.incidents.push(Box::new(|world| {
            let there = world.has_node("/local/domain/3/backend/pci/5/0");
            world.stub.silent |= there;
            false
        }));
    });
    let snapshot = Machine::new();
    machine.with(|world| {
        let copy = snapshot.world.clone();
        world.incidents.push(Box::new(move |world| {
            let there = world.has_node("/local/domain/3/backend/pci/5/0");
            if there {
                copy.borrow_mut().store.clone_from(&world.store);
            }
            there
        }));
    });
    attach_to_web(&machine, &[E1000, "0000:00:07.0@1f,power_mgmt=1,rdm_policy=relaxed,name=disk"]).unwrap_err();
    snapshot
}

#[test]
fn the_backend_directory_is_libxls() {
    assert_eq!(
        tree(&written(), "/local/domain/3/backend/pci/5/0"),
        [
            ". = \"\" n0 r3 r5",
            "dev-0 = \"0000:00:05.0\" n0 r3 r5",
            "dev-1 = \"0000:00:07.0\" n0 r3 r5",
            "domain = \"web\" n0 r3 r5",
            "frontend = \"/local/domain/5/device/pci/0\" n0 r3 r5",
            "frontend-id = \"5\" n0 r3 r5",
            "key-0 = \"0000:00:05.0\" n0 r3 r5",
            "key-1 = \"0000:00:07.0\" n0 r3 r5",
            "name-1 = \"disk\" n0 r3 r5",
            "num_devs = \"2\" n0 r3 r5",
            "online = \"1\" n0 r3 r5",
            "opts-0 = \"msitranslate=0,power_mgmt=0,permissive=0,rdm_policy=strict\" n0 r3 r5",
            "opts-1 = \"msitranslate=0,power_mgmt=1,permissive=0,rdm_policy=relaxed\" n0 r3 r5",
            "root-0 = \"\" n0 b3 r5",
            "root_num = \"\" n0 b3 r5",
            "state = \"1\" n0 b3 r5",
            "state-0 = \"1\" n0 b3 r5",
            "state-1 = \"1\" n0 b3 r5",
            "vdev-0 = \"\" n0 b3 r5",
            "vdev-1 = \"\" n0 b3 r5",
            "vdevfn-1 = \"f8\" n0 r3 r5",
        ]
    );
}

#[test]
fn the_frontend_directory_is_libxls() {
    assert_eq!(
        tree(&written(), "/local/domain/5/device/pci/0"),
        [
            ". = \"\" n5 r3",
            "backend = \"/local/domain/3/backend/pci/5/0\" n5 r3",
            "backend-id = \"3\" n5 r3",
            "state = \"1\" n5 r3",
        ]
    );
}

#[test]
fn the_pool_describes_each_device_to_the_stub_alone() {
    let machine = Machine::new();
    attach_to_web(&machine, &[E1000, NVME]).unwrap();
    assert_eq!(
        tree(&machine, "/local/domain/3/pool"),
        [
            ". = \"\" n0 r3",
            "0000-00-05-0 = \"\" n0 r3",
            "0000-00-05-0/ecam = \"b0028\" n0 r3",
            "0000-00-05-0/irq = \"21\" n0 r3",
            "0000-00-05-0/online = \"1\" n0 r3",
            "0000-00-05-0/resource-0 = \"0xfeb40000 0x20000 mem32\" n0 r3",
            "0000-00-05-0/resource-1 = \"0xc000 0x40 io\" n0 r3",
            "0000-00-05-0/state = \"assigned 5\" n0 b3",
            "0000-00-07-0 = \"\" n0 r3",
            "0000-00-07-0/ecam = \"b0038\" n0 r3",
            "0000-00-07-0/irq = \"23\" n0 r3",
            "0000-00-07-0/online = \"1\" n0 r3",
            "0000-00-07-0/resource-0 = \"0x8c0000000 0x4000 mem64\" n0 r3",
            "0000-00-07-0/state = \"assigned 5\" n0 b3",
        ]
    );
}

#[test]
fn the_table_is_dom0s_alone() {
    let machine = Machine::new();
    attach_to_web(&machine, &[E1000]).unwrap();
    assert_eq!(
        tree(&machine, "/tool/pcidom"),
        [
            ". = \"\" n0",
            "device = \"\" n0",
            "device/0000-00-05-0 = \"\" n0",
            "device/0000-00-05-0/backend = \"pcidom\" n0",
            "device/0000-00-05-0/frontend = \"5\" n0",
            "device/0000-00-05-0/permitted-writes = \"identity:0:0 msi:40:1 msix:50:1:0 command:4:2:414:0 plain:c:1:ff:0\" n0",
            "device/0000-00-05-0/phase = \"attached\" n0",
            "device/0000-00-05-0/stub = \"3\" n0",
        ]
    );
    assert_eq!(tree(&machine, "/libxl/pci/0000-00-05-0"), [". = \"\" n0", "domid = \"5\" n0"]);
}
