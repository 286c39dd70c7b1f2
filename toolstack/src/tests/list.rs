//! Output of `list`.

use super::{add_all, attach_to_web, attached};
use crate::cli::list::{assignable, devices, json, table};
use crate::fake::{EDU, Machine, STUB, WEB};

#[test]
fn the_table_says_what_is_where() {
    let machine = Machine::new();
    add_all(&machine);
    attach_to_web(&machine, &[EDU]).unwrap();
    assert_eq!(
        table(&devices(&machine.host, None).unwrap()),
        "DEVICE        VDEV          GUEST    BACKEND    FRONTEND   STUB        PHASE     NOTE\n\
         0000:00:05.0  -             -        -          -          pcidom (3)  pool      free, cannot be reset\n\
         0000:00:06.0  0000:00:00.0  web (5)  Connected  Connected  pcidom (3)  attached  assigned 5\n\
         0000:00:07.0  -             -        -          -          pcidom (3)  pool      free"
    );
    assert_eq!(devices(&machine.host, Some("web")).unwrap().len(), 1);
    assert!(devices(&machine.host, Some("nobody")).is_err());
}

#[test]
fn the_json_form_has_a_version_and_its_fields_in_order() {
    let machine = Machine::new();
    attach_to_web(&machine, &[EDU]).unwrap();
    assert_eq!(
        json(&devices(&machine.host, None).unwrap()),
        r#"{
  "version": 1,
  "devices": [
    {
      "device": "0000:00:06.0",
      "vdev": "0000:00:00.0",
      "guest": {
        "id": 5,
        "name": "web"
      },
      "backend_state": "Connected",
      "frontend_state": "Connected",
      "stub": {
        "id": 3,
        "name": "pcidom"
      },
      "phase": "attached",
      "pool": "assigned 5",
      "problem": null,
      "leaked": null,
      "persistent": null,
      "policy": null,
      "physical_function": null,
      "name": null,
      "guard": null,
      "reset": null,
      "errors": null,
      "isolated": null
    }
  ]
}"#
    );
}

#[test]
fn what_keeps_a_device_from_others_is_said() {
    let machine = attached();
    machine.with(|world| {
        world.write("/local/domain/3/pool/0000-00-05-0/state", "absent 5");
        world.write("/tool/pcidom/device/0000-00-06-0/phase", "leaked");
        world.write("/tool/pcidom/device/0000-00-06-0/leaked", "web (domain 5): 3 mappings");
        world.write("/tool/pcidom/device/0000-00-07-0/persistent", "01234567-89ab-cdef-0123-456789abcdef");
    });
    let entries = devices(&machine.host, None).unwrap();
    let shown = table(&entries);
    assert!(shown.contains("attached  device gone"), "{shown}");
    assert!(shown.contains("leaked    still with web (domain 5): 3 mappings"), "{shown}");
    assert!(json(&entries).contains("\"persistent\": \"01234567-"));
}

#[test]
fn assignable_devices_are_those_that_nobody_has() {
    let machine = Machine::new();
    attach_to_web(&machine, &[EDU]).unwrap();
    machine.with(|world| world.write("/libxl/pci/0000-00-07-0/domid", "6"));
    assert_eq!(
        table(&assignable(&machine.host).unwrap()),
        "DEVICE        VDEV  GUEST  BACKEND  FRONTEND  STUB  PHASE   NOTE\n\
         0000:00:05.0  -     -      -        -         -     parked"
    );
}

#[test]
fn the_dead_are_named_and_nothing_is_changed() {
    let machine = attached();
    machine.with(|world| world.destroy(WEB));
    let before = machine.dump();
    assert!(
        table(&devices(&machine.host, None).unwrap())
            .contains("web (5)  Connected  -         pcidom (3)  attached  guest gone")
    );
    machine.dump().assert_same(&before, "");

    let machine = attached();
    machine.with(|world| world.destroy(STUB));
    let shown = table(&devices(&machine.host, None).unwrap());
    assert!(shown.contains("Connected  3     attached  stub gone"), "{shown}");
}
