//! What the admin allows a guest with one device, from the command line and from the quirks file.

use pciif::Request;
use xen_types::Sbdf;

use super::{TIMEOUT, attach_to_web, request};
use crate::cli::list;
use crate::error::{Error, ExitCause};
use crate::fake::{E1000, Machine, MachineWithStub, STUB, WEB, device};
use crate::ops::assignable;
use crate::ops::attach::attach;
use crate::ops::detach::{self, detach};
use crate::ops::recover::reclaim;

const POOL: &str = "/local/domain/3/pool/0000-00-05-0/policy";
const TABLE: &str = "/tool/pcidom/device/0000-00-05-0/policy";
const LIST: &str = "/tool/pcidom/device/0000-00-05-0/permitted-writes";

/// The e1000 has power management at 40h and something of its vendor at 50h.
fn with_capabilities(machine: &Machine) {
    let mut config = machine.config(E1000);
    config.bytes[0x34] = 0;
    config.set_word(6, 0);
    config.add_capability(0x40, 0x01, 0x50);
    config.add_capability(0x50, 0x09, 0);
    machine.tree.write(format!("bus/pci/devices/{E1000}/config"), config.bytes);
}

fn with_stub() -> MachineWithStub {
    let machine = MachineWithStub::new();
    with_capabilities(&machine.machine);
    assignable::add(&machine.host, &[device(E1000)], "pcidom").unwrap();
    machine
}

fn detach_from(machine: &MachineWithStub) {
    let devices = vec![device(E1000)];
    let request = detach::Request { guest: "web".to_owned(), backend: None, devices, timeout: TIMEOUT, force: false };
    detach(&machine.host, &request, &reclaim(&machine.host).unwrap()).unwrap();
}

/// What the guest reads at an offset of its only device.
fn guest_reads(machine: &MachineWithStub, offset: i32, size: i32) -> Option<u32> {
    machine.with_peers(|peers| {
        let request = Request::conf_read(Sbdf::from_devfn(0, 0, 0), offset, size);
        Some(peers.guests[&WEB].ask(&mut peers.stub, &request)?.value)
    })
}

#[test]
fn a_policy_goes_with_the_loan_and_ends_with_it() {
    let machine = with_stub();
    let nodes = |machine: &MachineWithStub| -> Vec<String> {
        let dump = machine.with_peers(|peers| peers.xen.store().dump());
        dump.into_iter().filter(|line| !line.starts_with("/local/domain/3/error")).collect()
    };
    let before = nodes(&machine);
    attach(&machine.host, &request("web", &[&format!("{E1000},hide=pm,quirk=52:2:ff")])).unwrap();
    let policy = Some("permissive=0,hide=1,quirk=52:2:ff".to_owned());
    assert_eq!((machine.read(POOL).as_deref(), machine.read(TABLE)), (Some("1 2 1000210000"), policy));
    assert_eq!((guest_reads(&machine, 0x34, 1), guest_reads(&machine, 0x40, 4)), (Some(0x50), Some(0)));
    let list = "identity:10d38086:2000001 power:40 command:4:2:414:0 plain:c:1:ff:0 open:52:2:ff:0";
    assert_eq!(machine.read(LIST).as_deref(), Some(list), "the hidden capability's registers are not in it");
    let listed = list::devices(&machine.host, None).unwrap();
    assert!(list::json(&listed).contains("\"policy\": \"permissive=0,hide=1,quirk=52:2:ff\""));
    assert!(list::table(&listed).ends_with("assigned 5, permissive=0,hide=1,quirk=52:2:ff"));
    detach_from(&machine);
    assert_eq!(nodes(&machine), before);
    // The next guest sees everything.
    machine.with_peers(|peers| peers.guests.get_mut(&WEB).unwrap().forget());
    attach(&machine.host, &request("web", &[E1000])).unwrap();
    assert_eq!((guest_reads(&machine, 0x34, 1), guest_reads(&machine, 0x40, 1)), (Some(0x40), Some(1)));
    assert_eq!((machine.read(POOL), machine.read(TABLE)), (None, None));
    let list = "identity:10d38086:2000001 power:40 command:4:2:414:0 plain:c:1:ff:0 pmcsr:44:2:9e03:8000";
    assert_eq!(machine.read(LIST).as_deref(), Some(list), "of the default policy as well");
    machine.machine.assert_no_violations();
}

#[test]
fn a_guest_is_shown_the_reset_that_dom0_would_use_and_may_start_it() {
    // The last one says what it would be shown if it had PCI Express, which it has not.
    let rows = [("af_flr pm bus", true, "12 "), ("device_specific af_flr", false, "2 "), ("flr pm bus", false, "a ")];
    for (methods, is_shown, permissive) in rows {
        let machine = MachineWithStub::new();
        let mut config = machine.machine.config(E1000);
        config.bytes[0x34] = 0;
        config.set_word(6, 0);
        config.add_capability(0x40, 0x13, 0);
        config.set(0x42, &[0x06, 0x03]);
        machine.machine.tree.write(format!("bus/pci/devices/{E1000}/config"), config.bytes);
        machine.machine.tree.write(format!("bus/pci/devices/{E1000}/reset_method"), format!("{methods}\n"));
        assignable::add(&machine.host, &[device(E1000)], "pcidom").unwrap();
        let policy = machine.read(POOL);
        attach(&machine.host, &request("web", &[E1000])).unwrap();
        let shown = guest_reads(&machine, 0x40, 4).unwrap() >> 25 & 1 != 0;
        let list = machine.read(LIST).unwrap();
        let is_listed = list.contains(" reset:44:1:1:0");
        assert_eq!((shown, is_listed), (is_shown, is_shown), "{methods}: {list}");
        assert_eq!(policy.as_deref() == Some("10 0 1000210000"), is_shown, "{methods}: {policy:?}");
        // The next guest as well, and one with a policy.
        detach_from(&machine);
        assert_eq!(machine.read(POOL), policy);
        machine.with_peers(|peers| peers.guests.get_mut(&WEB).unwrap().forget());
        attach(&machine.host, &request("web", &[&format!("{E1000},permissive=1")])).unwrap();
        assert_eq!(guest_reads(&machine, 0x40, 4).unwrap() >> 25 & 1 != 0, is_shown, "{methods}");
        let policy = machine.read(POOL).unwrap();
        assert!(policy.starts_with(permissive), "{methods}: {policy}");
    }
}

#[test]
fn a_list_that_no_node_holds_is_refused_before_anything_is_done() {
    let machine = Machine::new();
    with_capabilities(&machine);
    let mut config = machine.config(E1000);
    config.bytes.resize(4096, 0);
    config.add_capability(0x50, 0x10, 0);
    // ATS and a free dword behind it, as often as they fit: each gap is an entry of the list.
    for at in (0x100..0xff0_usize).step_by(12) {
        let next = if at + 24 < 0xff0 { at + 12 } else { 0 };
        config.set_word(at, 0x000f);
        config.set_word(at + 2, u16::try_from(next << 4 | 1).unwrap());
    }
    machine.tree.write(format!("bus/pci/devices/{E1000}/config"), config.bytes);
    let before = machine.dump();
    let error = attach_to_web(&machine, &[&format!("{E1000},permissive=1")]).unwrap_err();
    assert_eq!(error.cause(), ExitCause::Usage);
    let text = error.to_string();
    assert!(text.contains("a node of xenstore has room for 3840; quirks open less than permissive=1"), "{text}");
    machine.dump().assert_same(&before, "after the refusal");
    attach_to_web(&machine, &[E1000]).unwrap();
}

#[test]
fn a_policy_ends_with_a_guest_that_dies() {
    let machine = with_stub();
    attach(&machine.host, &request("web", &[&format!("{E1000},permissive=1")])).unwrap();
    assert_eq!(machine.read(POOL).as_deref(), Some("2 0 1000210000"));
    machine.with_peers(|peers| {
        peers.destroy(WEB);
        peers.settle();
    });
    reclaim(&machine.host).unwrap();
    assert_eq!([POOL, TABLE, LIST].map(|node| machine.read(node)), [None, None, None]);
}

#[test]
fn the_quirks_file_speaks_for_devices_of_its_kind() {
    let mut machine = with_stub();
    let file = machine.machine.tree.path().join("quirks");
    machine.host.quirks.clone_from(&file);
    // Ids as the simulated function has them.
    std::fs::write(&file, "8086:10d3 quirk=52:2:f0 hide=vpd\n8086:10d4 permissive=1\n").unwrap();
    attach(&machine.host, &request("web", &[&format!("{E1000},hide=pm")])).unwrap();
    assert_eq!(machine.read(TABLE).as_deref(), Some("permissive=0,hide=1,hide=3,quirk=52:2:f0"));
    detach_from(&machine);
    std::fs::write(&file, "# nothing\n8086:10d3 quirk=52:2\n").unwrap();
    let error = attach(&machine.host, &request("web", &[E1000])).unwrap_err();
    assert_eq!(error.cause(), ExitCause::Usage);
    assert!(error.to_string().ends_with("quirks:2: quirk cannot be \"52:2\""), "{error}");
}

#[test]
fn a_quirk_that_would_harm_others_is_refused_before_anything_is_done() {
    let machine = Machine::new();
    with_capabilities(&machine);
    let before = machine.dump();
    for quirk in ["10:4:fffffff0", "4:2:1", "44:2:100", "d:1:ff", "40:1:ff"] {
        let error = attach_to_web(&machine, &[&format!("{E1000},quirk={quirk}")]).unwrap_err();
        assert!(matches!(&error, Error::Usage(text) if text.contains("no guest may change")), "{quirk}: {error}");
    }
    machine.dump().assert_same(&before, "after refusals");
}

#[test]
fn an_attach_that_fails_leaves_no_policy() {
    let machine = Machine::new();
    with_capabilities(&machine);
    machine.with(|world| world.guest.silent = true);
    let mut request = request("web", &[&format!("{E1000},permissive=1")]);
    request.timeout = std::time::Duration::from_secs(1);
    attach(&machine.host, &request).unwrap_err();
    machine.with(|world| assert_eq!([POOL, TABLE, LIST].map(|node| world.value(node).is_some()), [false; 3]));
}

/// What a guest was allowed with a device is not the next one's, also where neither the guest nor the stub ends in order.
#[test]
fn a_policy_does_not_outlive_a_stub_that_died_with_the_guest() {
    let machine = Machine::new();
    assignable::add(&machine.host, &[device(E1000)], "pcidom").unwrap();
    attach_to_web(&machine, &[&format!("{E1000},permissive=1")]).unwrap();
    assert!(machine.with(|world| world.value(TABLE).is_some()));
    machine.with(|world| {
        world.destroy(WEB);
        world.destroy(STUB);
    });
    reclaim(&machine.host).unwrap();
    machine.with(|world| assert_eq!([TABLE, LIST].map(|node| world.value(node).is_some()), [false; 2]));
}
