//! What the user sees.

use super::{add_all, attach_to_web, attached};
use crate::fake::{EDU, Machine, STUB, WEB};
use crate::list::{assignable, devices, json, table};

#[test]
fn the_table_says_what_is_where() {
    let machine = Machine::new();
    add_all(&machine);
    attach_to_web(&machine, &[EDU]).unwrap();
    assert_eq!(
        table(&devices(&machine.host, None).unwrap()),
        "DEVICE        VDEV          GUEST    BACKEND    FRONTEND   STUB        PHASE     NOTE\n\
         0000:00:05.0  -             -        -          -          pcidom (3)  pool      free\n\
         0000:00:06.0  0000:00:00.0  web (5)  Connected  Connected  pcidom (3)  attached  lent 5\n\
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
      "pool": "lent 5",
      "problem": null,
      "policy": null
    }
  ]
}"#
    );
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
