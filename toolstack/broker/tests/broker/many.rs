//! Hosts with hundreds of devices: what the broker asks xenstore, and who waits for that.

use super::*;
use dom0::store::{Change, Store, StoreFailure};
use pcidom_abi::{DeviceNode, paths, pool};
use std::rc::Rc;
use std::time::Duration;
use xen_types::Sbdf;

const MANY: u16 = 400;

/// Takes down what is read and listed.
struct Log {
    store: Rc<dyn Store>,
    asked: RefCell<Vec<String>>,
}

impl Store for Log {
    fn read(&self, path: &str) -> Result<Option<String>, StoreFailure> {
        self.asked.borrow_mut().push(path.to_owned());
        self.store.read(path)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreFailure> {
        self.asked.borrow_mut().push(path.to_owned());
        self.store.list(path)
    }

    fn commit(&self, changes: &[Change]) -> Result<bool, StoreFailure> {
        self.store.commit(changes)
    }
}

/// The bench with 400 free devices in STUB's pool besides, which follow a guest that is not there, and with what is asked of xenstore.
fn bench() -> (Bench, Rc<Log>) {
    let mut bench = Bench::new();
    bench.machine.with(|world| {
        for number in 0..MANY {
            let device = free(number);
            world.write(&DeviceNode::Stub.of(device), &STUB.to_string());
            world.write(&DeviceNode::Phase.of(device), Phase::Pool.name());
            world.write(&DeviceNode::Persistent.of(device), "0a5e2f3c-7f7b-4a55-8f4e-000000000077");
            world.write(&path::child(&paths::pool_dir(STUB, device), pool::ONLINE), "1");
            world.write(&pcidom_broker::guard::node(device), &STUB.to_string());
        }
    });
    let log = Rc::new(Log { store: bench.machine.host.store.clone(), asked: RefCell::default() });
    bench.machine.host.store = log.clone();
    (bench, log)
}

/// Not in sysfs: pulled out.
fn free(number: u16) -> Sbdf {
    let [high, low] = number.to_be_bytes();
    Sbdf::from_devfn(1, high, low)
}

fn rest(bench: &Bench, broker: &mut Broker<'_, FakeRings>) {
    while let Some(idle) = broker.idle() {
        bench.pass(idle);
        broker.turn().unwrap();
    }
}

/// The devices that a path is about.
fn devices(asked: &[String]) -> std::collections::BTreeSet<String> {
    let below = asked.iter().filter_map(|path| path.strip_prefix(paths::DEVICES)?.strip_prefix('/'));
    below.map(|rest| rest.split('/').next().unwrap().to_owned()).collect()
}

#[test]
fn a_request_is_served_while_the_table_is_still_being_read() {
    let (bench, log) = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let mut read = devices(&log.asked.take());
    assert!(read.len() < 100, "{}", read.len());
    bench.publish(STUB, &request(BrokerCommand::Query, NVME), &[]);
    let mut turns = 0;
    while bench.answer(STUB, 0).is_none() {
        broker.turn().unwrap();
        turns += 1;
    }
    read.extend(devices(&log.asked.take()));
    assert!(turns < 3 && read.len() < 200, "{turns} turns, {} devices", read.len());
    assert_eq!(broker.idle(), Some(Duration::ZERO));
    rest(&bench, &mut broker);
    read.extend(devices(&log.asked.take()));
    assert_eq!(read.len(), usize::from(MANY) + 3, "and in the end each was read");
    assert_eq!(bench.reclaimer.started.get(), 0);
}

#[test]
fn a_change_of_one_device_has_that_one_read() {
    let (bench, log) = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    rest(&bench, &mut broker);
    log.asked.take();
    bench.pass(Duration::from_secs(1));
    process.changed(&DeviceNode::Stub.of(free(7)));
    process.changed(&pcidom_broker::guard::node(free(8)));
    broker.turn().unwrap();
    rest(&bench, &mut broker);
    let asked = log.asked.take();
    assert_eq!(devices(&asked).into_iter().collect::<Vec<_>>(), [free(7).path_component().to_string()]);
    assert!(asked.len() < 40, "{}: {asked:?}", asked.len());
}

#[test]
fn a_domain_that_comes_or_goes_has_no_device_read() {
    let (bench, log) = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    rest(&bench, &mut broker);
    log.asked.take();
    bench.pass(Duration::from_secs(1));
    process.changed(path::INTRODUCE_DOMAIN);
    process.changed(path::RELEASE_DOMAIN);
    broker.turn().unwrap();
    rest(&bench, &mut broker);
    let asked = log.asked.take();
    assert_eq!(devices(&asked).len(), 0, "{asked:?}");
    assert!(asked.len() < 40, "{}: {asked:?}", asked.len());
    // The guest that all of them follow.
    bench.machine.add_domain(DomId(30), "late");
    bench.machine.with(|world| {
        world.write("/local/domain/30/vm", "/vm/0a5e2f3c-7f7b-4a55-8f4e-000000000077");
        world.write(&DeviceNode::Spec.of(device(E1000)), E1000);
        world.write(&DeviceNode::Persistent.of(device(E1000)), "0a5e2f3c-7f7b-4a55-8f4e-000000000077");
        world.write(&DeviceNode::Phase.of(device(E1000)), Phase::Pool.name());
        world.remove(&DeviceNode::Frontend.of(device(E1000)));
    });
    process.changed(&DeviceNode::Frontend.of(device(E1000)));
    process.changed(path::INTRODUCE_DOMAIN);
    bench.pass(Duration::from_secs(1));
    broker.turn().unwrap();
    assert_eq!(bench.reclaimer.started.get(), 1);
}

#[test]
fn a_request_asks_the_same_whatever_else_there_is() {
    let asked = |(bench, log): (Bench, Rc<Log>)| {
        let process = bench.process();
        let mut broker = bench.start(&process);
        rest(&bench, &mut broker);
        log.asked.take();
        bench.ask(&mut broker, STUB, &conf_write(NVME, COMMAND, 2, 4, 4), &[]);
        log.asked.take()
    };
    assert_eq!(asked(bench()), asked(small_bench()));
}

/// The bench with what is asked of xenstore.
fn small_bench() -> (Bench, Rc<Log>) {
    let mut bench = Bench::new();
    let log = Rc::new(Log { store: bench.machine.host.store.clone(), asked: RefCell::default() });
    bench.machine.host.store = log.clone();
    (bench, log)
}

#[test]
fn a_device_that_was_looked_up_is_not_looked_up_again_before_a_command_changes_something() {
    let (bench, log) = small_bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    rest(&bench, &mut broker);
    let mut asked_for = |request: &Request, entries: &[u16]| {
        log.asked.take();
        let heard = bench.ask(&mut broker, STUB, request, entries);
        (heard.code, log.asked.take())
    };
    let write = conf_write(NVME, COMMAND, 2, 4, 4);
    assert_eq!(asked_for(&write, &[]).1.len(), 8, "the device's nodes, and whether vectors are being cleaned up");
    for (request, entries) in [
        (write, vec![]),
        (enable_msix(NVME, &[8, 9]), vec![8, 9]),
        (request(BrokerCommand::EnableMsi, NVME), vec![]),
        (request(BrokerCommand::DisableMsi, NVME), vec![]),
        (request(BrokerCommand::Query, NVME), vec![]),
        (write, vec![]),
    ] {
        assert_eq!(asked_for(&request, &entries), (ErrorCode::Success, vec![]), "{request}");
    }
    bench.assert_sound();
    // Any command, about any device.
    bench.machine.host.commit(&[Change::write(DeviceNode::Reset.of(device(EDU)), "1")]).unwrap();
    assert_eq!(asked_for(&write, &[]).1.len(), 8);
    assert_eq!(asked_for(&write, &[]).1.len(), 0);
    // What a command takes back is refused though no event has come.
    bench.set_phase(NVME, Phase::Detaching);
    assert_eq!(asked_for(&write, &[]).0, ErrorCode::DevNotFound);
}

#[test]
fn what_cannot_be_known_is_looked_up_each_time() {
    let (bench, log) = small_bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    rest(&bench, &mut broker);
    let write = conf_write(NVME, COMMAND, 2, 4, 4);
    let mut asked = || {
        log.asked.take();
        bench.ask(&mut broker, STUB, &write, &[]);
        log.asked.take().len()
    };
    bench.machine.with(|world| world.write(&paths::vector_cleanup_node(DB), ""));
    assert!(asked() >= 8 && asked() >= 8, "a command cleans up vectors");
    bench.machine.with(|world| world.remove(paths::VECTOR_CLEANUPS));
    asked();
    assert_eq!(asked(), 0);
    bench.machine.with(|world| world.resetting.insert(NVME.to_owned()));
    assert!(asked() > 0, "its reset does not end");
    bench.machine.with(|world| world.resetting.clear());
    bench.set_config(NVME, |config| config.set_word(2, 0x1533));
    assert_eq!(bench.ask(&mut broker, STUB, &write, &[]).code, ErrorCode::DevNotFound, "another card");
}

#[test]
fn a_device_whose_nodes_somebody_writes_by_hand_is_looked_up_again() {
    let (bench, log) = small_bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    rest(&bench, &mut broker);
    let write = conf_write(NVME, COMMAND, 2, 4, 4);
    let mut asked_after = |node: String| {
        bench.ask(&mut broker, STUB, &write, &[]);
        process.changed(&node);
        log.asked.take();
        bench.ask(&mut broker, STUB, &write, &[]);
        log.asked.take().contains(&DeviceNode::PermittedWrites.of(device(NVME)))
    };
    assert!(asked_after(DeviceNode::Phase.of(device(NVME))));
    assert!(asked_after(paths::device_dir(device(NVME))));
    assert!(!asked_after(DeviceNode::Vectors.of(device(NVME))), "the broker's own");
    assert!(!asked_after(DeviceNode::Phase.of(device(E1000))), "another device");
}

#[test]
fn another_card_is_noticed_as_soon_as_one_can_be_there() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let write = conf_write(NVME, COMMAND, 2, 4, 4);
    for _ in 0..3 {
        assert_eq!(bench.ask(&mut broker, STUB, &write, &[]).code, ErrorCode::Success);
        bench.pass(Duration::from_millis(20));
    }
    bench.set_config(NVME, |config| config.set_word(2, 0x1533));
    // Asking in between puts that off no further.
    bench.ask(&mut broker, STUB, &write, &[]);
    bench.pass(Duration::from_millis(50));
    assert_eq!(bench.ask(&mut broker, STUB, &write, &[]).code, ErrorCode::DevNotFound);
}

#[test]
fn a_request_that_failed_leaves_nothing_known() {
    let (bench, log) = small_bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    rest(&bench, &mut broker);
    bench.ask(&mut broker, STUB, &conf_write(NVME, COMMAND, 2, 4, 4), &[]);
    bench.machine.with(|world| world.failing_change = Some(world.changes + 2));
    assert_eq!(bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0]), &[0]).code, ErrorCode::OpFailed);
    log.asked.take();
    bench.ask(&mut broker, STUB, &request(BrokerCommand::DisableMsix, NVME), &[]);
    assert!(log.asked.take().len() >= 8);
    bench.assert_sound();
}

/// Xenstore as a command meets it: is a change counted before xenstored hears of it?
struct Counted(Rc<dyn Store>, Rc<RefCell<fakes::World>>, RefCell<Vec<u64>>);

impl Store for Counted {
    fn read(&self, path: &str) -> Result<Option<String>, StoreFailure> {
        self.0.read(path)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreFailure> {
        self.0.list(path)
    }

    fn commit(&self, changes: &[Change]) -> Result<bool, StoreFailure> {
        self.2.borrow_mut().push(self.1.borrow().table_changes);
        self.0.commit(changes)
    }
}

#[test]
fn a_change_of_the_database_is_counted_before_it_is_made() {
    let mut bench = Bench::new();
    let world = bench.machine.world.clone();
    let counted = Rc::new(Counted(bench.machine.host.store.clone(), world.clone(), RefCell::default()));
    bench.machine.host.store = counted.clone();
    let before = world.borrow().table_changes;
    let host = &bench.machine.host;
    host.commit(&[Change::write("/libxl/other", "1")]).unwrap();
    host.commit(&[Change::write("/libxl/other", "2"), Change::remove(DeviceNode::Phase.of(device(NVME)))]).unwrap();
    host.commit(&[Change::write(paths::vector_cleanup_node(WEB), "")]).unwrap();
    host.commit_own(&[Change::write(DeviceNode::Vectors.of(device(NVME)), "none")]).unwrap();
    assert_eq!(*counted.2.borrow(), [before, before + 1, before + 2, before + 2]);
}

#[test]
fn lost_events_have_everything_read_again() {
    let (bench, log) = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    rest(&bench, &mut broker);
    log.asked.take();
    bench.pass(Duration::from_secs(1));
    bench.machine.with(|world| world.remove(&paths::device_dir(free(9))));
    process.watches.events.borrow_mut().push_back(String::new());
    broker.turn().unwrap();
    rest(&bench, &mut broker);
    assert_eq!(devices(&log.asked.take()).len(), usize::from(MANY) + 2, "all that are there");
}
