//! Transactions: what they come to, and how often they wait for xenstored.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use sim::random::Random;
use xen_types::DomId;
use xenstore::{Permission, Transport, XenbusState};
use xenstored::{Connection as StoreConnection, Xenstored};

use crate::store::{Change, Connection, Store, Timed};

/// A daemon of its own, and how often somebody waited for its answer.
struct Daemon {
    store: Xenstored,
    connection: StoreConnection,
    waits: u32,
    has_sent: bool,
}

struct Wire(Rc<RefCell<Daemon>>);

impl Timed for Wire {
    fn now_ns(&self) -> u64 {
        0
    }
}

impl Transport for Wire {
    type Error = Infallible;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let daemon = &mut *self.0.borrow_mut();
        daemon.has_sent = true;
        daemon.store.send(daemon.connection, bytes);
        Ok(bytes.len())
    }

    fn takes_several(&self) -> bool {
        true
    }

    fn receive(&mut self, buffer: &mut [u8], _deadline_ns: Option<u64>) -> Result<usize, Infallible> {
        let daemon = &mut *self.0.borrow_mut();
        daemon.waits += u32::from(std::mem::take(&mut daemon.has_sent));
        let bytes = daemon.store.receive(daemon.connection, buffer.len());
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

fn daemon() -> (Rc<RefCell<Daemon>>, Connection<Wire>) {
    let mut store = Xenstored::new();
    let connection = store.connect_socket();
    let daemon = Rc::new(RefCell::new(Daemon { store, connection, waits: 0, has_sent: false }));
    (daemon.clone(), Connection::new(Wire(daemon)))
}

fn dump(daemon: &Rc<RefCell<Daemon>>) -> Vec<String> {
    daemon.borrow().store.dump()
}

#[test]
fn a_transaction_waits_four_times_whatever_is_in_it() {
    let (daemon, store) = daemon();
    let changes: Vec<Change> = (0..16)
        .flat_map(|device| {
            [
                Change::expect_no_other(format!("/guard/{device}"), None),
                Change::replace(format!("/guard/{device}"), 3, Some("5".to_owned())),
                Change::remove(format!("/device/{device}/mended")),
                Change::write(format!("/device/{device}/frontend"), 5),
                Change::remove_if_empty(format!("/device/{device}/old")),
            ]
        })
        .collect();
    assert!(store.commit(&changes).unwrap());
    assert_eq!(daemon.borrow().waits, 4, "its beginning, what it depends on, what it does, its end");
    assert_eq!(store.read("/guard/15").unwrap().as_deref(), Some("5"));
}

/// A change of a few nodes in each other's way.
fn change(rng: &mut Random) -> Change {
    const PATHS: [&str; 7] = ["/t", "/t/a", "/t/a/x", "/t/a/x/y", "/t/b", "/t/b/x", "/t/bb"];
    let [path, other] = [(); 2].map(|()| PATHS[rng.below(PATHS.len())]);
    let value = ["", "1", "2"][rng.below(3)];
    match rng.below(11) {
        0..3 => Change::write(path, value),
        3 => Change::Mkdir { path: path.to_owned() },
        4 => Change::remove(path),
        5 => Change::remove_if_empty(path),
        6 => Change::copy(path, other),
        7 => Change::replace(path, value, [None, Some("3".to_owned())][rng.below(2)].clone()),
        8 => Change::expect_no_other(path, Some(value.to_owned())),
        9 if rng.below(4) == 0 => Change::expect(path, value),
        10 if rng.below(4) == 0 => Change::expect_state(path, XenbusState::Initialising),
        _ => Change::write(path, value),
    }
}

#[test]
fn changes_come_to_the_same_together_as_one_by_one() {
    for seed in 0..3000 {
        let mut rng = Random::new(seed);
        let (one, by_one) = daemon();
        let (all, together) = daemon();
        let start: Vec<Change> = (0..rng.below(6)).map(|_| change(&mut rng)).collect();
        for change in &start {
            let done = by_one.commit(std::slice::from_ref(change));
            assert_eq!(together.commit(std::slice::from_ref(change)), done, "seed {seed}");
        }
        let before = dump(&all);
        assert_eq!(before, dump(&one), "seed {seed}");
        let changes: Vec<Change> = (0..1 + rng.below(10)).map(|_| change(&mut rng)).collect();
        let expected = changes.iter().all(|change| by_one.commit(std::slice::from_ref(change)).unwrap());
        assert_eq!(together.commit(&changes).unwrap(), expected, "seed {seed}: {changes:?}");
        let wanted = if expected { dump(&one) } else { before };
        assert_eq!(dump(&all), wanted, "seed {seed}: {changes:?}");
    }
}

#[test]
fn a_directory_that_no_message_holds_is_not_taken_for_an_empty_one() {
    let (_, store) = daemon();
    for index in 0..400 {
        assert!(store.commit(&[Change::write(format!("/long/0000-00-{index:03}"), "")]).unwrap());
    }
    let rights = [Permission::none(DomId::DOM0)];
    let changes = [&Change::directory("/long/more", &rights)[..], &[Change::remove_if_empty("/long")]].concat();
    assert!(store.commit(&changes).unwrap());
    assert_eq!(store.list("/long").unwrap().len(), 401);
    let removals: Vec<Change> =
        store.list("/long").unwrap().iter().map(|name| Change::remove(format!("/long/{name}"))).collect();
    assert!(store.commit(&[&removals[..], &[Change::remove_if_empty("/long")]].concat()).unwrap());
    assert_eq!(store.read("/long").unwrap(), None);
}
