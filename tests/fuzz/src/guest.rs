//! What a guest can do to the stub, and what toolstack and xenstored tell it: the real backend and the real broker on the simulated machine, with a
//! guest beside that nobody may disturb.
//!
//! The simulated machine has checks of its own (`tests/sim`): ports closed twice, pages that stay mapped, vectors in each other's way.

use pciback::platform::Width;
use pciback::{Backend, Options};
use pcidom_abi::pool;
use pciif::layout::MsixEntry;
use pciif::{Command, ErrorCode, Request};
use sim::broker::Fault;
use sim::tool::ecam;
use sim::world::{STUB, World, device_id};
use sim::{Kind, SimTool, SimXen};
use xen_types::{DomId, Errno, Sbdf};
use xenstore::wire::{Header, MAX_PAYLOAD, Message};
use xenstore::{MessageType, Parser, TxId};

use crate::input::Input;

/// The device of the guest whose words are the input, and of the one beside it.
const MINE: Sbdf = Sbdf::from_devfn(0, 3, 0);
const THEIRS: Sbdf = Sbdf::from_devfn(0, 5, 0x10);
const HOSTILE: DomId = DomId(5);
const HONEST: DomId = DomId(6);
/// Where each sees its device.
const FIRST: Sbdf = Sbdf::from_devfn(0, 0, 0);

/// Both guests at 4, with their devices.
fn world(has_broker: bool) -> World {
    let mut world = World::with(SimXen::new(), &[MINE, THEIRS], Options::default(), |card| card.with_interrupts(16));
    if has_broker {
        world.broker.start();
        world.work();
    }
    for (guest, device) in [(HONEST, THEIRS), (HOSTILE, MINE)] {
        world.create_guest(guest.0);
        world.guest(guest).scans_everything = false;
        world.tool.attach(guest, &[device]);
    }
    world.settle();
    world
}

fn registers(world: &World, device: Sbdf) -> Vec<u32> {
    let all = |card: &mut sim::device::Function| (0..4096).step_by(4).map(|at| card.read(at, Width::Dword)).collect();
    world.xen.with_function(ecam(device), all).expect("plugged in")
}

/// The honest guest is connected, has its answers, and nobody did anything to its device.
fn assert_undisturbed(world: &mut World, before: &[u32]) {
    assert_eq!(world.states(HONEST), ("4".to_owned(), 4), "the other guest");
    let response = world.ask(HONEST, &Request::conf_read(FIRST, 0, 4)).expect("an answer for the other guest");
    let ids = u32::from(device_id(THEIRS)) << 16 | 0x8086;
    assert_eq!((response.code(), response.value), (Some(ErrorCode::Success), ids));
    assert_eq!(registers(world, THEIRS), before, "the other guest's device");
    let pirqs = world.xen.pirqs();
    assert!(pirqs.iter().all(|(owner, _, device)| (*owner, *device) == (HOSTILE, MINE)), "{pirqs:?}");
}

/// Nothing is left of anybody when both are gone.
fn assert_nothing_left(mut world: World) {
    world.broker.faults.clear();
    world.broker.go_on();
    world.xen.clear_failures();
    world.settle();
    for guest in [HOSTILE, HONEST] {
        world.destroy(guest);
    }
    world.settle_deadlines(100);
    for guest in [HOSTILE, HONEST] {
        world.tool.remove_dirs(guest);
    }
    world.settle_deadlines(100);
    world.assert_clean();
}

/// A stream of requests with the page changed under them, from a guest whose broker is stopped, dies, refuses and lies. Records of 20 bytes.
pub fn requests(data: &[u8]) {
    let mut world = world(true);
    let before = registers(&world, THEIRS);
    let mut input = Input::new(data);
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let mut record = Input::new(input.take(20));
        let action = record.byte();
        match action {
            0..200 => request(&mut world, &mut record),
            200..215 => {
                // Its other CPU writes into the page, the flags included.
                if let Some(page) = world.guest(HOSTILE).page().cloned() {
                    for _ in 0..4 {
                        page.set_word(usize::from(record.byte()) * 4, record.half().into());
                    }
                }
                if let Some((_, port)) = world.guest(HOSTILE).keys() {
                    world.xen.notify(HOSTILE, port);
                }
                world.work();
            }
            215..220 => {
                world.xen.advance_ns(u64::from(record.word()));
                world.work();
            }
            220 => world.broker.stop(),
            221 => world.broker.go_on(),
            222 => {
                world.broker.kill();
                world.work();
            }
            223 if !world.broker.is_running() => {
                world.broker.kill();
                world.broker.start();
                world.work();
            }
            224 => world.broker.faults.push_back(Fault::NoConfig),
            225..240 => {
                let (err, value, info) = (record.word().cast_signed(), record.word(), record.word());
                world.broker.faults.push_back(Fault::Lie { err, value, info });
            }
            240 => world.broker.faults.push_back(Fault::DIE_AFTER),
            241 => world.broker.faults.push_back(Fault::STOP_AFTER),
            242 => world.xen.fail_next("bind_interdomain", Errno::ENOMEM),
            243..250 => {
                let state = u32::from(record.byte() % 10);
                world.guest(HOSTILE).set_state(state);
                world.settle();
            }
            _ => {
                world.guest(HOSTILE).unload();
                world.settle();
                world.guest(HOSTILE).set_state(1);
                world.settle_deadlines(3);
            }
        }
    }
    world.broker.faults.clear();
    world.broker.go_on();
    if !world.broker.is_running() {
        world.broker.kill();
        world.broker.start();
    }
    world.settle();
    // Whatever waits for the broker is answered when its time is over.
    for _ in 0..3 {
        world.run_out_of_time();
    }
    assert_undisturbed(&mut world, &before);
    if world.states(HOSTILE) == ("4".to_owned(), 4) {
        let answer = world.ask(HOSTILE, &Request::conf_read(FIRST, 0, 4));
        assert!(answer.is_some_and(|answer| answer.code().is_some()), "it is still served: {answer:?}");
    }
    assert_nothing_left(world);
}

fn request(world: &mut World, record: &mut Input<'_>) {
    let (cmd, size, offset) = (record.byte(), record.byte(), record.half());
    let (value, info, place) = (record.word(), record.word(), record.byte());
    let request = Request {
        cmd: if cmd < 240 { u32::from(cmd % 12) } else { value },
        devfn: if place < 240 { u32::from(place % 16) / 15 } else { info },
        bus: if place == 255 { value } else { 0 },
        offset: i32::from(offset.cast_signed()),
        size: i32::from(size.cast_signed()) % 6,
        value: if cmd % 12 == 4 { value % 140 } else { value },
        info,
        domain: 0,
    };
    let entries: Vec<MsixEntry> =
        (0..request.value.min(16)).map(|_| MsixEntry { vector: 0xffff, entry: record.byte().into() }).collect();
    let is_done = Command::from_raw(request.cmd).is_some();
    world.guest(HOSTILE).publish_with_entries(&request, &entries);
    world.work();
    if let Some(response) = world.guest(HOSTILE).response() {
        assert!(response.code().is_some(), "{request}: {response:?}");
        assert!(is_done || response.err != 0, "{request}: {response:?}");
    } else if !world.broker.is_running() || world.states(HOSTILE).0 != "4" {
        world.guest(HOSTILE).give_up();
    }
}

const FRONTEND_NODES: [&str; 8] =
    ["state", "pci-op-ref", "event-channel", "magic", "state/x", "backend", "backend-id", "error"];

/// What a guest writes into its own directory, a node each line: a byte for its name, and the value. Once it comes to its senses it is served.
pub fn frontend_nodes(data: &[u8]) {
    let mut world = world(false);
    let before = registers(&world, THEIRS);
    let mut input = Input::new(data);
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let (choice, value) = (usize::from(input.byte()), input.until(b'\n'));
        match FRONTEND_NODES.get(choice % 16) {
            Some(name) => {
                let _ = world.guest(HOSTILE).write(name, value); // longer than xenstored takes
            }
            None => match choice % 16 {
                8 => world.guest(HOSTILE).probe(),
                9 => world.guest(HOSTILE).forget(),
                10 => world.guest(HOSTILE).unload(),
                11 => world.guest(HOSTILE).publish_keys(),
                12 => {
                    let path = format!("{}/state", SimTool::frontend_dir(HOSTILE));
                    let _ = world.xen.store().change(HOSTILE, |store| store.remove(&path));
                }
                13 => world.settle(),
                14 => {
                    let path = format!("{}/{}", SimTool::frontend_dir(HOSTILE), FRONTEND_NODES[choice / 16 % 8]);
                    let hide = |store: &mut xenstored::Direct<'_>| store.set_permissions(&path, &["n5"]);
                    let _ = world.xen.store().change(HOSTILE, hide);
                }
                _ => world.xen.advance_ns(u64::from(u8::try_from(choice).unwrap_or(0)) << 24),
            },
        }
        world.stub.settle();
        let held = world.xen.held_by(STUB);
        assert!(held.pages <= 2 && held.ports <= 2, "{held:?}");
    }
    world.stub.settle();
    assert_undisturbed(&mut world, &before);
    let dir = SimTool::frontend_dir(HOSTILE);
    // Its own permissions are its own business, and a broken node is repaired by whoever writes it.
    let _ = world.xen.store().change(HOSTILE, |store| {
        for name in FRONTEND_NODES {
            let _ = store.set_permissions(&format!("{dir}/{name}"), &["n5", "r3"]);
        }
        Ok(())
    });
    world.guest(HOSTILE).unload();
    world.settle_deadlines(200);
    world.guest(HOSTILE).set_state(1);
    world.settle_deadlines(100);
    assert_eq!(world.states(HOSTILE), ("4".to_owned(), 4), "an honest driver in the same guest");
    assert_undisturbed(&mut world, &before);
    assert_nothing_left(world);
}

/// Nodes of the hostile guest's backend directory, and of its device in the pool.
const BACKEND_NODES: [&str; 16] = [
    "dev-0",
    "dev-1",
    "dev-2",
    "state-0",
    "state-1",
    "state-2",
    "vdevfn-0",
    "vdevfn-1",
    "num_devs",
    "export",
    "online",
    "frontend",
    "frontend-id",
    "state",
    "root-0",
    "vdev-1",
];

/// What toolstacks write for the stub, a node each line as with a guest's.
pub fn backend_nodes(data: &[u8]) {
    let mut world = world(false);
    // Linux looks at as many entries as `num_devs` says, however many.
    world.guest(HOSTILE).kind = Kind::MiniOs;
    let before = registers(&world, THEIRS);
    let mut input = Input::new(data);
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let (choice, value) = (usize::from(input.byte()) % 48, String::from_utf8_lossy(input.until(b'\n')));
        let pool = format!("/local/domain/{STUB}/pool/{}", MINE.path_component());
        let path = match choice {
            0..16 => Some(format!("{}/{}", world.tool.backend_dir(HOSTILE), BACKEND_NODES[choice])),
            16..29 => Some(format!("{pool}/{}", pool::NODES[choice - 16])),
            29 => Some(format!("/local/domain/{STUB}/pool/{}", value.split('=').next().unwrap_or_default())),
            30 => Some(format!("/local/domain/{STUB}/backend/pci/{}", value.split('=').next().unwrap_or_default())),
            31 => Some(format!("/local/domain/{STUB}/control/shutdown-reason")),
            _ => None,
        };
        match path {
            // What xenstored does not take as a path or a value is not written.
            Some(path) => drop(world.xen.store().change(DomId::DOM0, |store| store.write(&path, value.as_bytes()))),
            None if choice == 32 => world.xen.advance_ns(1_000_000_000),
            None if choice == 33 => {
                let path = format!("{}/{}", world.tool.backend_dir(HOSTILE), BACKEND_NODES[value.len() % 16]);
                let _ = world.xen.store().change(DomId::DOM0, |store| store.remove(&path));
            }
            None => world.stub.settle(),
        }
        if choice % 2 == 0 {
            world.settle_deadlines(2);
        }
    }
    world.settle_deadlines(20);
    assert_undisturbed(&mut world, &before);
    let held = world.xen.held_by(STUB);
    assert!(held.pages <= 2 && held.ports <= 2, "{held:?}");
}

const ERRORS: [&str; 8] = ["ENOENT\0", "EAGAIN\0", "EACCES\0", "EINVAL\0", "", "\0", "E", "ENOSPC\0"];

/// A xenstored that answers anything: kinds, payloads and events out of the bytes, framed so that the stub reads them.
pub fn store_answers(data: &[u8]) {
    let xen = SimXen::new();
    xen.create_domain(STUB);
    let mut backend = Backend::new(xen.platform(STUB), Options::default());
    let mut input = Input::new(data);
    let mut sent = Parser::new();
    for _ in 0..256 {
        backend.run();
        let bytes = backend.with_store(|client| {
            let bytes = client.outgoing().to_vec();
            client.sent(bytes.len());
            bytes
        });
        let mut bytes = bytes.as_slice();
        while let Ok(Some(asked)) = sent.next_message(&mut bytes) {
            if input.is_empty() {
                return;
            }
            let answer = answer(&asked, &mut input);
            if backend.with_store(|client| client.feed(&answer)).is_err() {
                return; // the image ends there: it has lost its place in the stream
            }
        }
        if input.is_empty() {
            return;
        }
        let event = [input.until(b'\n'), b"\0", input.until(b'\n'), b"\0"].concat();
        let event = framed(MessageType::WATCH_EVENT, 0, TxId::NONE, &event);
        if backend.with_store(|client| client.feed(&event)).is_err() {
            return;
        }
        xen.advance_ns(u64::from(input.byte()) << 22);
    }
}

fn answer(asked: &Message, input: &mut Input<'_>) -> Vec<u8> {
    let plain = |payload: &[u8]| framed(asked.kind, asked.req_id.0, asked.tx_id, payload);
    match input.byte() {
        choice @ 0..40 => {
            let name = ERRORS[usize::from(choice % 8)];
            framed(MessageType::ERROR, asked.req_id.0, asked.tx_id, name.as_bytes())
        }
        40..90 => plain(b"OK\0"),
        90..200 => plain(input.until(b'\n')),
        200..230 => {
            plain(&input.until(b'\n').iter().map(|byte| if *byte == b' ' { 0 } else { *byte }).collect::<Vec<_>>())
        }
        230..240 => plain(b"1\0"),
        240 => Vec::new(),
        241 => framed(MessageType(input.byte().into()), asked.req_id.0, asked.tx_id, input.until(b'\n')),
        242 => framed(asked.kind, input.byte().into(), asked.tx_id, input.until(b'\n')),
        243 => input.take(16).to_vec(),
        _ => plain(b""),
    }
}

fn framed(kind: MessageType, req_id: u32, tx_id: TxId, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
    let length = u32::try_from(payload.len()).expect("short");
    let header = Header { kind, req_id: xenstore::ReqId(req_id), tx_id, length };
    [&header.encode()[..], payload].concat()
}
