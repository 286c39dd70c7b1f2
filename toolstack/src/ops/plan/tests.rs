//! Plans, from given written down by hand.

use std::time::Duration;

use pcidom_abi::Intent;
use xen_types::{DomId, Mfn, Sbdf};

use super::attach::{AttachInput, AttachedDevice};
use super::release::{Assignment, Connection, Known, Rights};
use super::{Entering, Looked, OnFailure, Plan, Right, Step};
use crate::device::resources::{DeviceResources, GuestRights};
use crate::error::DomainName;
use crate::ops::connect::Until;
use crate::ops::device_status::DeviceStatus;
use crate::ops::patience::Patience;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table::{Keep, Target};
use crate::records::export::Export;
use crate::records::reset_note::ResetNote;
use crate::sysfs::{Decode, PCIBACK};
use crate::xen::{Frames, Permission, Ports};

const TIMEOUT: Duration = Duration::from_secs(30);
const MEMORY: Decode = Decode { io: false, memory: true };

fn domain(id: u16, name: &str) -> DomainName {
    DomainName { id: DomId(id), name: Some(name.to_owned()) }
}

fn stub() -> DomainName {
    domain(3, "pcidom")
}

fn web() -> DomainName {
    domain(5, "web")
}

fn device(text: &str) -> Sbdf {
    text.parse().unwrap()
}

/// A network card with registers, ports and an interrupt; its neighbour on the same line; a disk with 64-bit registers.
fn card() -> DeviceResources {
    resources("00:05.0", Some(21), &["0xfeb40000 0x20000 mem32", "0xc000 0x40 io"])
}

fn neighbour() -> DeviceResources {
    resources("00:05.1", Some(21), &["0xfeb60000 0x1000 mem32"])
}

fn disk() -> DeviceResources {
    resources("00:07.0", Some(23), &["0x8c0000000 0x4000 mem64"])
}

fn resources(name: &str, gsi: Option<u32>, registers: &[&str]) -> DeviceResources {
    let resources = (0..).zip(registers).map(|(index, text)| (index, text.parse().unwrap())).collect();
    DeviceResources { device: device(name), resources, gsi, ids: None }
}

fn memory(first: u64, count: u64) -> Right {
    Right::Memory(Frames { first: Mfn(first), count })
}

fn attached(resources: DeviceResources) -> AttachedDevice {
    AttachedDevice {
        spec: DeviceSpec::plain(resources.device),
        resources,
        is_fresh: true,
        reset: None,
        persistent: None,
    }
}

fn input(devices: Vec<AttachedDevice>) -> AttachInput {
    AttachInput {
        stub: stub(),
        guest: web(),
        target: None,
        has_connection: false,
        export: Export { mode: "vpci".to_owned(), is_chosen: false },
        devices,
        has: GuestRights::default(),
        keeps: Some(Vec::new()),
        patience: Patience::new(TIMEOUT, 1),
        until: Until::Used,
        intents: Vec::new(),
    }
}

fn attach(given: &AttachInput) -> Vec<Step> {
    let plan = super::attach::attach(given);
    assert_eq!(plan.on_failure, OnFailure::Undo);
    plan.steps
}

fn granted(steps: &[Step]) -> Vec<Right> {
    steps.iter().filter_map(|step| if let Step::Grant { right, .. } = step { Some(*right) } else { None }).collect()
}

fn keep(spec: &DeviceSpec) -> Keep {
    Keep { guest: "0a5e2f3c-7f7b-4a55-8f4e-000000000005".to_owned(), spec: spec.clone(), export: None }
}

#[test]
fn one_device_goes_to_a_guest_registers_first_and_directories_last() {
    let (stub, guest, of, device) = (stub(), web(), disk(), disk().device);
    let grant = |right| Step::Grant { guest: web(), right };
    assert_eq!(
        attach(&input(vec![attached(disk())])),
        [
            Step::Reserve {
                stub: stub.clone(),
                guest: guest.clone(),
                target: None,
                devices: vec![device],
                keeps: Some(Vec::new()),
                before: vec![(device, None)],
                resets: Vec::new(),
            },
            Step::Reset { stub: stub.clone(), device, decode: MEMORY, is_fresh: true },
            Step::PrepareForDriver { device, decode: MEMORY },
            Step::PermitWrites { devices: vec![DeviceSpec::plain(device)] },
            Step::AuditOnUndo { guest: guest.clone(), resources: vec![of.clone()] },
            grant(memory(0x8c_0000, 4)),
            grant(Right::MappedInterrupt(23)),
            grant(Right::Interrupt(23)),
            Step::Assign { guest: guest.clone(), device, is_relaxed: false },
            Step::WriteDirectories {
                stub: stub.clone(),
                guest: guest.clone(),
                export: Export { mode: "vpci".to_owned(), is_chosen: false },
                devices: vec![DeviceSpec::plain(device)],
                resources: vec![of],
            },
            Step::TellNeeds { guest: guest.clone() },
            Step::AwaitGuest {
                stub,
                guest,
                devices: vec![device],
                patience: Patience::new(TIMEOUT, 1),
                until: Until::Used
            },
            Step::RecordAttached { devices: vec![device], intents: Vec::new() },
        ]
    );
}

#[test]
fn several_devices_go_together_and_what_they_share_is_given_once() {
    let steps = attach(&input(vec![attached(card()), attached(neighbour()), attached(disk())]));
    let expected = [
        memory(0xf_eb40, 0x21), // those of the neighbour begin where the card's end
        memory(0x8c_0000, 4),
        Right::Ports(Ports { first: 0xc000, count: 0x40 }),
        Right::MappedInterrupt(21),
        Right::Interrupt(21),
        Right::MappedInterrupt(23),
        Right::Interrupt(23),
    ];
    assert_eq!(granted(&steps), expected);
    let assigned: Vec<Sbdf> = steps
        .iter()
        .filter_map(|step| if let Step::Assign { device, .. } = step { Some(*device) } else { None })
        .collect();
    assert_eq!(assigned, [card().device, neighbour().device, disk().device]);
    let waited = |step: &&Step| matches!(step, Step::AwaitGuest { devices, .. } if *devices == assigned);
    assert_eq!(steps.iter().filter(waited).count(), 1);
}

#[test]
fn a_guest_is_not_given_again_what_another_device_of_it_has() {
    let mut given = input(vec![attached(neighbour())]);
    given.has = GuestRights::of(&[card()]);
    given.has_connection = true;
    let steps = attach(&given);
    assert_eq!(granted(&steps), [memory(0xf_eb60, 1)], "the interrupt is the card's too");
    assert!(steps.iter().any(|step| matches!(step, Step::AddEntries { .. })));
    let not_there = |step: &Step| !matches!(step, Step::WriteDirectories { .. } | Step::TellNeeds { .. });
    assert!(steps.iter().all(not_there), "it has its directories, and was told with its first device");
}

#[test]
fn a_virtual_function_has_no_decoders_and_no_line() {
    let of = DeviceResources { ids: Some(0x0011_1b36), ..resources("00:0d.1", None, &["0xfe000000 0x4000 mem64"]) };
    let steps = attach(&input(vec![attached(of.clone())]));
    let prepare = Step::PrepareForDriver { device: of.device, decode: Decode::default() };
    assert!(steps.contains(&prepare), "{steps:#?}");
    assert_eq!(granted(&steps), [memory(0xf_e000, 4)]);
}

#[test]
fn options_of_a_device_have_their_steps() {
    let spec: DeviceSpec = "00:07.0,permissive=1,rdm_policy=relaxed".parse().unwrap();
    let used = AttachedDevice { is_fresh: false, spec: spec.clone(), ..attached(disk()) };
    let steps = attach(&input(vec![used]));
    let device = spec.device;
    assert_eq!(
        steps[1..4],
        [
            Step::SetPolicy { stub: stub(), device, policy: spec.policy },
            Step::AwaitVerdict { stub: stub(), devices: vec![device] },
            Step::Reset { stub: stub(), device, decode: MEMORY, is_fresh: false },
        ]
    );
    assert!(steps.contains(&Step::Assign { guest: web(), device, is_relaxed: true }));
}

#[test]
fn a_persistent_assignment_is_noted_and_a_reattach_leaves_the_note() {
    let mut given = input(vec![attached(disk())]);
    let persistent = keep(&given.devices[0].spec);
    given.keeps = Some(vec![persistent.clone()]);
    let noted = |steps: &[Step]| match &steps[0] {
        Step::Reserve { keeps, before, .. } => (keeps.clone(), before.clone()),
        step => panic!("{step:?}"),
    };
    assert_eq!(noted(&attach(&given)), (Some(vec![persistent.clone()]), vec![(disk().device, None)]));
    given.devices[0].persistent = Some(persistent.clone());
    assert_eq!(noted(&attach(&given)).1, [(disk().device, Some(persistent))], "what is undone brings it back");
    // The broker's unit has it come again: nothing is noted, nothing told, and nobody waited for but the stub.
    given.keeps = None;
    given.until = Until::Exported;
    let steps = attach(&given);
    assert_eq!(noted(&steps), (None, Vec::new()));
    assert!(!steps.iter().any(|step| matches!(step, Step::TellNeeds { .. })));
    assert!(steps.iter().any(|step| matches!(step, Step::AwaitGuest { until: Until::Exported, .. })));
}

fn assignment(devices: &[&DeviceResources]) -> Assignment {
    Assignment {
        stub: stub(),
        stub_alive: true,
        guest: web(),
        guest_alive: true,
        target: None,
        devices: devices.iter().map(|resources| resources.device).collect(),
        staying: Vec::new(),
        connection: Connection::Ends { by_force: false },
        stays_persistent: false,
    }
}

fn present(devices: &[&DeviceResources]) -> Known {
    Known { present: devices.iter().map(|resources| (*resources).clone()).collect(), ..Known::default() }
}

fn release(assignment: &Assignment, known: &Known, rights: Rights) -> Vec<Step> {
    let plan = super::release::release(assignment, known, rights, Looked::Through);
    assert_eq!(plan.on_failure, OnFailure::LeaveToNext);
    plan.steps
}

#[test]
fn a_guest_is_asked_first_and_its_rights_go_after_its_view() {
    let (disk, device) = (disk(), disk().device);
    let leaving = assignment(&[&disk]);
    let asked = super::release::ask(&leaving, TIMEOUT, false).steps;
    let ask = Step::AskGuest { stub: stub(), guest: web(), devices: vec![device], timeout: TIMEOUT, by_force: false };
    assert_eq!(asked, [ask]);
    let revoke = |right| Step::Revoke { guest: web(), right, may_be_absent: false };
    assert_eq!(
        release(&leaving, &present(&[&disk]), Rights::Complete),
        [
            Step::NoteInterrupts { resources: vec![disk.clone()], no_longer_persistent: vec![device] },
            Step::Quiesce { guest: DomId(5), device, resources: Some(disk.clone()) },
            Step::RemoveEntries { stub: stub(), guest: web(), devices: vec![device] },
            Step::AwaitReturn { stub: stub(), guest: DomId(5), devices: vec![device] },
            Step::Unassign { guest: web(), device, may_be_absent: false },
            revoke(Right::Interrupt(23)),
            revoke(Right::MappedInterrupt(23)),
            revoke(memory(0x8c_0000, 4)),
            Step::Audit { guest: web(), resources: vec![disk] },
            Step::BeginReset { device, decode: MEMORY },
            Step::Close { stub: stub(), guest: web(), by_force: false },
            Step::ReturnToPool {
                stub: stub(),
                is_stub_there: true,
                guest: web(),
                devices: vec![device],
                looked: Looked::Through
            },
        ]
    );
}

#[test]
fn the_rights_of_an_hvm_guest_are_also_its_stub_domains_and_its_dma_is_its_own() {
    let (disk, device, target) = (disk(), disk().device, domain(9, "windows"));
    let steps = attach(&AttachInput { target: Some(target.clone()), ..input(vec![attached(disk.clone())]) });
    let grants = |guest: &DomainName| {
        steps.iter().filter(|step| matches!(step, Step::Grant { guest: to, .. } if to == guest)).count()
    };
    assert_eq!((grants(&web()), grants(&target)), (3, 3));
    assert!(steps.contains(&Step::Assign { guest: target.clone(), device, is_relaxed: false }));
    let at = |wanted: fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
    let (waits, plugs, done) = (
        at(|step| matches!(step, Step::AwaitGuest { .. })),
        at(|step| matches!(step, Step::Plug { .. })),
        at(|step| matches!(step, Step::RecordAttached { .. })),
    );
    assert!(waits < plugs && plugs < done);
    // Back: first the guest, then its stub domain; then everything of both.
    let alive = |guest_alive, is_alive| Assignment {
        guest_alive,
        target: Some(Target { guest: target.clone(), is_alive }),
        ..assignment(&[&disk])
    };
    let asked = super::release::ask(&alive(true, true), TIMEOUT, false).steps;
    assert!(matches!(&asked[..], [Step::Unplug { .. }, Step::AskGuest { .. }]), "{asked:?}");
    for (guest_alive, is_alive) in [(true, true), (true, false), (false, true), (false, false)] {
        let leaving = alive(guest_alive, is_alive);
        let steps = release(&leaving, &present(&[&disk]), Rights::Uncertain);
        let from = |guest: &DomainName| {
            steps.iter().filter(|step| matches!(step, Step::Revoke { guest: from, .. } if from == guest)).count()
        };
        assert_eq!((from(&web()), from(&target)), (if guest_alive { 3 } else { 0 }, if is_alive { 3 } else { 0 }));
        let unassign = Step::Unassign { guest: target.clone(), device, may_be_absent: true };
        let quarantine = Step::Quarantine { device, was_parked: true };
        assert_eq!((steps.contains(&unassign), steps.contains(&quarantine)), (is_alive, !is_alive));
    }
    // The device model has unmapped the guest's interrupt by then.
    let steps = release(&alive(true, true), &present(&[&disk]), Rights::Complete);
    let absent = steps.iter().filter(|step| matches!(step, Step::Revoke { may_be_absent: true, .. }));
    let unmapped = Step::Revoke { guest: target.clone(), right: Right::MappedInterrupt(23), may_be_absent: true };
    assert_eq!(absent.collect::<Vec<_>>(), [&unmapped]);
    // Where there is no device model any more, nobody can be asked.
    let asked = super::release::ask(&alive(false, true), TIMEOUT, false).steps;
    assert!(!asked.iter().any(|step| matches!(step, Step::Unplug { .. })));
}

fn revoked(steps: &[Step]) -> Vec<(Right, bool)> {
    let revoked = |step: &Step| match step {
        Step::Revoke { right, may_be_absent, .. } => Some((*right, *may_be_absent)),
        _ => None,
    };
    steps.iter().filter_map(revoked).collect()
}

#[test]
fn what_a_staying_device_needs_stays() {
    let (card, neighbour) = (card(), neighbour());
    let leaving = Assignment { connection: Connection::Stays, staying: vec![card.device], ..assignment(&[&neighbour]) };
    let known = Known { kept: GuestRights::of(&[card]), ..present(&[&neighbour]) };
    let steps = release(&leaving, &known, Rights::Complete);
    assert_eq!(revoked(&steps), [(memory(0xf_eb60, 1), false)], "not the interrupt");
    assert!(!steps.iter().any(|step| matches!(step, Step::Close { .. } | Step::RemoveDirectories { .. })));
}

#[test]
fn by_force_it_goes_on_without_the_guest() {
    let disk = disk();
    let leaving = Assignment { connection: Connection::Ends { by_force: true }, ..assignment(&[&disk]) };
    assert!(matches!(super::release::ask(&leaving, TIMEOUT, true).steps[..], [Step::AskGuest { by_force: true, .. }]));
    let steps = release(&leaving, &present(&[&disk]), Rights::Complete);
    assert!(steps.contains(&Step::Close { stub: stub(), guest: web(), by_force: true }));
    // Of what a guest has kept earlier, nothing is asked.
    let steps = super::release::retry(&leaving, &present(&[&disk]), Looked::Away, None).steps;
    assert!(matches!(
        steps[..],
        [Step::BeginReset { .. }, Step::ReturnToPool { looked: Looked::Away, is_stub_there: true, .. }]
    ));
    let steps = super::release::retry(&leaving, &present(&[&disk]), Looked::Through, Some(Duration::ZERO)).steps;
    assert!(matches!(steps[..], [Step::Audit { .. }, Step::BeginReset { .. }, Step::ReturnToPool { .. }]));
}

#[test]
fn resets_of_several_devices_pass_at_the_same_time() {
    let (card, disk) = (card(), disk());
    let steps = release(&assignment(&[&card, &disk]), &present(&[&card, &disk]), Rights::Complete);
    let first = steps.iter().position(|step| matches!(step, Step::BeginReset { .. })).unwrap();
    // Its end is waited for in the last step.
    assert!(matches!(
        steps[first..],
        [Step::BeginReset { .. }, Step::BeginReset { .. }, Step::Close { .. }, Step::ReturnToPool { .. }]
    ));
}

#[test]
fn of_a_guest_that_is_gone_only_the_devices_are_left() {
    let disk = disk();
    let gone =
        Assignment { guest_alive: false, connection: Connection::Gone, stays_persistent: true, ..assignment(&[&disk]) };
    let steps = release(&gone, &present(&[&disk]), Rights::Uncertain);
    assert_eq!(steps[0], Step::NoteInterrupts { resources: Vec::new(), no_longer_persistent: Vec::new() });
    assert!(steps.contains(&Step::RemoveDirectories { stub: stub(), guest: web() }));
    assert!(steps.contains(&Step::Quarantine { device: disk.device, was_parked: true }));
    assert_eq!(revoked(&steps), []);
    assert!(!steps.iter().any(|step| matches!(step, Step::Unassign { .. } | Step::RemoveEntries { .. })));
}

#[test]
fn without_a_stub_nobody_asks_and_nobody_waits() {
    let disk = disk();
    let orphan = Assignment { stub_alive: false, connection: Connection::Gone, ..assignment(&[&disk]) };
    let asked = super::release::ask(&orphan, TIMEOUT, false).steps;
    assert_eq!(
        asked,
        [Step::RecordDetaching { devices: vec![disk.device] }, Step::CloseOrphan { stub: DomId(3), guest: web() }]
    );
    let staying = Assignment { staying: vec![card().device], connection: Connection::Stays, ..orphan.clone() };
    assert_eq!(super::release::ask(&staying, TIMEOUT, false).steps.len(), 1, "it goes on with the card");
    let steps = release(&orphan, &present(&[&disk]), Rights::Complete);
    assert!(!steps.iter().any(|step| matches!(step, Step::AwaitReturn { .. })));
    assert!(matches!(steps.last(), Some(Step::ReturnToPool { is_stub_there: false, .. })));
}

#[test]
fn what_a_killed_command_or_a_pulled_device_has_left_may_be_absent() {
    let (card, disk) = (card(), disk());
    let steps = release(&assignment(&[&card]), &present(&[&card]), Rights::Uncertain);
    assert!(revoked(&steps).iter().all(|(_, may_be_absent)| *may_be_absent));
    // dom0 does not see the disk: no registers to reset, and Xen may have forgotten whose it was, but not the rights.
    let known = Known { removed: vec![disk.clone()], absent: vec![disk.device], ..Known::default() };
    let steps = release(&assignment(&[&disk]), &known, Rights::Complete);
    assert!(steps.contains(&Step::Unassign { guest: web(), device: disk.device, may_be_absent: true }));
    assert!(steps.contains(&Step::Quiesce { guest: DomId(5), device: disk.device, resources: None }));
    assert!(revoked(&steps).iter().all(|(_, may_be_absent)| !may_be_absent));
    assert!(!steps.iter().any(|step| matches!(step, Step::BeginReset { .. })));
}

/// A device that ahci has.
fn with_driver(resources: DeviceResources) -> DeviceStatus {
    DeviceStatus {
        resources,
        is_there: true,
        driver: Some("ahci".to_owned()),
        driver_override: None,
        noted_driver: None,
        has_slot: false,
        stub: None,
        reset: None,
        has_backend: false,
        can_reset: true,
    }
}

fn parked(resources: DeviceResources) -> DeviceStatus {
    DeviceStatus { driver: Some(PCIBACK.to_owned()), has_slot: true, ..with_driver(resources) }
}

fn pooled(resources: DeviceResources) -> DeviceStatus {
    DeviceStatus { stub: Some(stub()), reset: Some(ResetNote::done("flr")), has_backend: true, ..parked(resources) }
}

fn enter(devices: &[Sbdf]) -> Step {
    let entering = |device: &Sbdf| Entering { device: *device, had_reset: None, had_backend: false };
    Step::EnterPool { stub: stub(), devices: devices.iter().map(entering).collect() }
}

fn steps(plan: Plan) -> Vec<Step> {
    assert_eq!(plan.on_failure, OnFailure::Undo);
    plan.steps
}

#[test]
fn a_device_comes_from_its_driver_into_the_pool() {
    let (disk, device) = (disk(), disk().device);
    let (stub, driver) = (stub(), || "ahci".to_owned());
    assert_eq!(
        steps(super::pool::add(&[with_driver(disk)], Some(&stub), "pcidom", None)),
        [
            Step::NoteIntents { intents: vec![(device, Intent::Add { from: Some(driver()), stub: Some(DomId(3)) })] },
            Step::NoteDriver { device, driver: driver(), before: None },
            Step::UnbindDriver { device, driver: driver() },
            Step::AddSlot { device },
            Step::BindDriver { device, driver: PCIBACK.to_owned() },
            Step::Quarantine { device, was_parked: false },
            Step::SaveConfiguration { device, is_known: false },
            Step::QuiesceAndReset { device, decode: MEMORY },
            Step::ConfigSpace { stub: stub.clone(), device, permission: Permission::Allow },
            enter(&[device]),
            Step::AwaitVerdict { stub, devices: vec![device] },
            Step::RecordAdded {
                intents: vec![device],
                remembered: Vec::new(),
                backend: "pcidom".to_owned(),
                name: None
            },
        ]
    );
}

#[test]
fn what_is_in_the_pool_already_is_left_there() {
    let plan = steps(super::pool::add(&[pooled(disk())], Some(&stub()), "pcidom", None));
    assert!(matches!(&plan[..], [Step::RecordAdded { intents, .. }] if intents.is_empty()), "{plan:?}");
    let (to_pool, intents) = super::pool::to_attach(&[], &stub());
    assert_eq!((steps(to_pool), intents), (Vec::new(), Vec::new()));
}

#[test]
fn a_device_that_somebody_took_from_xen_pciback_is_prepared_anew() {
    let stray = DeviceStatus { driver: None, ..pooled(disk()) };
    let plan = steps(super::pool::add(&[stray], Some(&stub()), "pcidom", None));
    let device = disk().device;
    let leave = Step::LeavePool { stub: stub(), resources: disk(), reset: Some(ResetNote::done("flr")) };
    let enter = enter(&[device]);
    let place = |wanted: &Step| plan.iter().position(|step| step == wanted).unwrap_or_else(|| panic!("{plan:#?}"));
    assert!(place(&leave) < place(&enter));
    assert!(!plan.iter().any(|step| matches!(step, Step::UnbindDriver { .. } | Step::AddSlot { .. })));
}

#[test]
fn devices_enter_a_pool_at_once_and_are_waited_for_together() {
    let plan = steps(super::pool::add(&[parked(card()), parked(disk())], Some(&stub()), "pcidom", None));
    let (card, disk) = (card().device, disk().device);
    let last = &plan[plan.len() - 3..plan.len() - 1];
    assert_eq!(last, [enter(&[card, disk]), Step::AwaitVerdict { stub: stub(), devices: vec![card, disk] }]);
}

#[test]
fn very_many_devices_enter_a_pool_some_at_a_time() {
    let names: Vec<String> =
        (0..5u8).flat_map(|bus| (0..8).map(move |function| format!("0000:{bus:02x}:00.{function}"))).collect();
    let statuses: Vec<DeviceStatus> = names.iter().map(|name| parked(resources(name, None, &[]))).collect();
    let plan = steps(super::pool::add(&statuses, Some(&stub()), "pcidom", None));
    let entering = |step: &Step| if let Step::EnterPool { devices, .. } = step { Some(devices.len()) } else { None };
    assert_eq!(plan.iter().filter_map(entering).collect::<Vec<_>>(), [16, 16, 8]);
    let last = plan.iter().rposition(|step| entering(step).is_some()).unwrap();
    let first_verdict = plan.iter().position(|step| matches!(step, Step::AwaitVerdict { .. })).unwrap();
    assert!(last < first_verdict, "they are waited for together");
}

#[test]
fn without_a_stub_a_device_is_parked_and_remembered() {
    let plan = steps(super::pool::add(&[parked(disk())], None, "pcidom", None));
    let device = disk().device;
    assert_eq!(
        plan,
        [
            Step::Quarantine { device, was_parked: true },
            Step::RecordAdded {
                intents: Vec::new(),
                remembered: vec![device],
                backend: "pcidom".to_owned(),
                name: None
            },
        ]
    );
}

#[test]
fn an_override_is_out_of_the_way_while_a_driver_is_bound() {
    let given = DeviceStatus { driver_override: Some("vfio-pci".to_owned()), ..with_driver(disk()) };
    let plan = steps(super::pool::to_pool(&given, &stub()));
    let device = disk().device;
    let (admins, driver) = ("vfio-pci".to_owned(), PCIBACK.to_owned());
    assert_eq!(
        plan[3..6],
        [
            Step::OverrideDriver { device, admins: admins.clone(), driver: driver.clone() },
            Step::BindDriver { device, driver },
            Step::RestoreOverride { device, admins },
        ]
    );
}

#[test]
fn a_device_goes_back_to_the_driver_that_had_it() {
    let path = "/sys/bus/pci/drivers/ahci".to_owned();
    let given = DeviceStatus { noted_driver: Some(path.clone()), ..pooled(disk()) };
    let (device, stub) = (disk().device, stub());
    assert_eq!(
        steps(super::pool::remove(std::slice::from_ref(&given), true)),
        [
            Step::NoteIntents { intents: vec![(device, Intent::Remove { rebind: true })] },
            Step::LeavePool { stub: stub.clone(), resources: disk(), reset: Some(ResetNote::done("flr")) },
            Step::ConfigSpace { stub: stub.clone(), device, permission: Permission::Revoke },
            Step::RemovePoolEntry { stub, device },
            Step::EndQuarantine { device },
            Step::UnbindDriver { device, driver: PCIBACK.to_owned() },
            Step::RemoveSlot { device },
            Step::BindDriver { device, driver: "ahci".to_owned() },
            Step::ForgetDriver { device, path },
            Step::RecordRemoved { devices: vec![device] },
        ]
    );
    // Without -r it is xl's; one that was pulled out is with nobody.
    assert!(!super::pool::to_host(&given, false).iter().any(|step| matches!(step, Step::BindDriver { .. })));
    let pulled = DeviceStatus { is_there: false, driver: None, has_slot: false, ..given };
    assert!(matches!(super::pool::to_host(&pulled, true).last(), Some(Step::RemovePoolEntry { .. })));
}

#[test]
fn a_plan_reads_as_a_list_of_what_is_done() {
    let mut given = input(vec![attached(card())]);
    given.keeps = Some(vec![keep(&given.devices[0].spec)]);
    assert_eq!(
        super::attach::attach(&given).to_string().lines().collect::<Vec<_>>(),
        [
            "  1. reserve 0000:00:05.0 for web (domain 5), for after its reboots too",
            "  2. no reset of 0000:00:05.0: it is as its last one left it",
            "  3. enable the decoders of 0000:00:05.0, for a driver",
            "  4. note for the broker what may be written to 0000:00:05.0",
            "  5. from here on, undoing ends with a look at what web (domain 5) has kept of 0000:00:05.0",
            "  6. allow web (domain 5) the registers at 0xfeb40000-0xfeb5ffff (32 pages)",
            "  7. allow web (domain 5) the I/O ports 0xc000-0xc03f",
            "  8. allow web (domain 5) the mapping of interrupt 21",
            "  9. allow web (domain 5) interrupt 21",
            " 10. give the DMA of 0000:00:05.0 to web (domain 5)",
            " 11. write the directories of pcidom (domain 3) and web (domain 5) with 0000:00:05.0",
            " 12. look what web (domain 5) lacks that its drivers need",
            " 13. wait until web (domain 5) uses 0000:00:05.0",
            " 14. note that 0000:00:05.0 is attached",
        ]
    );
}
