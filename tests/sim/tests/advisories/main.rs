//! Xen's security advisories that parts like ours have had, a file each: what the attacker does, and what we answer. The table in `docs/threat-model.md`
//! has all of them; those about what commands do are in `toolstack/src/tests/advisories`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod xsa_043;
mod xsa_120;
mod xsa_128;
mod xsa_129;
mod xsa_131;
mod xsa_155;
mod xsa_157;
mod xsa_164;
mod xsa_237;
mod xsa_331;
mod xsa_332;
mod xsa_337;
mod xsa_349;
mod xsa_360;

use pciback::Options;
use pciback::platform::Width;
use pciif::{Command, ErrorCode, Request, Response};
use sim::SimXen;
use sim::device::Function;
use sim::tool::ecam;
use sim::world::{World, device_id};
use xen_types::{DomId, Sbdf};

/// The attacker, its device, and where it sees it.
const ATTACKER: DomId = DomId(5);
const MINE: Sbdf = Sbdf::from_devfn(0, 3, 0);
const V: Sbdf = Sbdf::from_devfn(0, 0, 0);
/// Another guest, and its device, which it sees at the same address.
const OTHER: DomId = DomId(6);
const THEIRS: Sbdf = Sbdf::from_devfn(0, 5, 0x10);

/// Both guests are connected, and the broker runs.
fn world() -> World {
    world_with(|card| card.with_interrupts(16))
}

fn world_with(card: fn(Function) -> Function) -> World {
    let mut world = World::with(SimXen::new(), &[MINE, THEIRS], Options::default(), card);
    world.broker.start();
    for (guest, device) in [(ATTACKER, MINE), (OTHER, THEIRS)] {
        world.create_guest(guest.0);
        world.guest(guest).scans_everything = false;
        world.tool.attach(guest, &[device]);
    }
    world.settle();
    assert_eq!((world.states(ATTACKER).1, world.states(OTHER).1), (4, 4));
    world
}

fn ask(world: &mut World, request: &Request) -> Response {
    world.ask(ATTACKER, request).expect("every request is answered")
}

fn command(world: &mut World, command: Command) -> Response {
    ask(world, &Request::new(command, V))
}

fn enable_msi(count: u32) -> Request {
    Request { info: count, ..Request::new(Command::EnableMultiMsi, V) }
}

/// The device's configuration space, dword by dword.
fn registers(world: &World, device: Sbdf) -> Vec<u32> {
    let read = |card: &mut Function| (0..4096).step_by(4).map(|at| card.read(at, Width::Dword)).collect();
    world.xen.with_function(ecam(device), read).expect("plugged in")
}

fn register(world: &World, offset: u16, width: Width) -> u32 {
    world.xen.with_function(ecam(MINE), |card| card.read(offset, width)).expect("plugged in")
}

/// How many vectors of its device the attacker has; nobody else has any.
fn vectors(world: &World) -> usize {
    let pirqs = world.xen.pirqs();
    assert!(pirqs.iter().all(|(guest, _, device)| (*guest, *device) == (ATTACKER, MINE)), "{pirqs:?}");
    pirqs.len()
}

/// The other guest is served.
#[track_caller]
fn assert_served(world: &mut World) {
    let answer = world.ask(OTHER, &Request::conf_read(V, 0, 4)).expect("an answer for the other guest");
    let ids = u32::from(device_id(THEIRS)) << 16 | 0x8086;
    assert_eq!((answer.code(), answer.value), (Some(ErrorCode::Success), ids));
}
