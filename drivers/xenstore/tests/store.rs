//! The blocking client against a small in-memory xenstored.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod xenstored;

use xen_types::{DomId, Errno};
use xenstore::wire::MessageType;
use xenstore::{Error, Nodes, Permission, Request, Store, StoreError, Transaction, WatchEvent};
use xenstored::{Fake, Long, Refused};

type Failure = StoreError<Refused>;

fn store() -> Store<Fake> {
    Store::new(Fake::default())
}

#[test]
fn nodes_are_written_read_listed_and_removed() {
    let mut store = store();
    assert_eq!(store.read("/a/b"), Ok(None));
    assert_eq!(store.directory("/a"), Ok(None));
    store.write("/a/b", "1\n").unwrap();
    store.write("/a/c", [0xff]).unwrap();
    store.mkdir("/a/d").unwrap();
    assert_eq!(store.read("/a/b"), Ok(Some("1".into())));
    assert_eq!(store.read_bytes("/a/b"), Ok(Some(b"1\n".to_vec())));
    assert_eq!(store.read("/a/c"), Err(StoreError::Request(Error::NotText)));
    assert_eq!(store.read("/a/d"), Ok(Some(String::new())));
    assert_eq!(store.directory("/a"), Ok(Some(vec!["b".into(), "c".into(), "d".into()])));
    assert_eq!(store.directory("/a/d"), Ok(Some(vec![])));
    assert_eq!(store.remove("/a"), Ok(true));
    assert_eq!(store.remove("/a"), Ok(false));
    assert_eq!(store.read("/a/b"), Ok(None));
}

#[test]
fn permissions_are_set_and_read() {
    let mut store = store();
    let list = [Permission::none(DomId(0)), Permission::both(DomId(3)), Permission::read(DomId(5))];
    assert!(store.set_permissions("/a", &list).is_err_and(|error| error.is(Errno::ENOENT)));
    store.mkdir("/a").unwrap();
    store.set_permissions("/a", &list).unwrap();
    assert_eq!(store.get_permissions("/a"), Ok(list.to_vec()));
}

#[test]
fn a_request_that_cannot_be_right_never_reaches_the_transport() {
    let mut store = store();
    assert_eq!(store.read("a b"), Err(StoreError::Request(Error::InvalidPath)));
    assert_eq!(store.transport().log, []);
}

#[test]
fn events_between_request_and_answer_wait_for_their_turn() {
    let mut store = store();
    store.watch("/a", "w").unwrap();
    store.transport().event_before_answer = Some(("/a/x".into(), "w".into()));
    store.write("/b", "1").unwrap();
    let mut next = || store.next_watch_event(Some(0)).unwrap().map(|WatchEvent { path, token }| (path, token));
    assert_eq!(next(), Some(("/a".into(), "w".into())), "a new watch fires at once");
    assert_eq!(next(), Some(("/a/x".into(), "w".into())));
    assert_eq!(next(), None, "the deadline passes");
    store.unwatch("/a", "w").unwrap();
}

#[test]
fn bytes_may_come_and_go_one_by_one() {
    let mut store = store();
    store.transport().piece = 1;
    store.write("/a", "value").unwrap();
    assert_eq!(store.read("/a"), Ok(Some("value".into())));
}

fn increment(nodes: &mut Transaction<'_, Fake>) -> Result<u32, Failure> {
    let value = nodes.read("/count")?.map_or(0, |text| text.parse().unwrap());
    nodes.write("/count", (value + 1).to_string())?;
    Ok(value + 1)
}

#[test]
fn a_transaction_runs_again_until_nobody_interferes() {
    let mut store = store();
    store.write("/count", "5").unwrap();
    store.transport().conflicts = 3;
    let mut runs = 0;
    let result = store.transaction(|nodes| {
        runs += 1;
        increment(nodes)
    });
    assert_eq!((result, runs), (Ok(6), 4));
    assert_eq!(store.read("/count"), Ok(Some("6".into())), "only one run counts");
    assert_eq!(store.transport().open_transactions(), 0);
}

#[test]
fn a_transaction_gives_up_when_somebody_always_interferes() {
    let mut store = store();
    store.transport().conflicts = usize::MAX;
    let mut runs = 0;
    let result = store.transaction(|nodes| {
        runs += 1;
        increment(nodes)
    });
    assert!(result.is_err_and(|error| error.is(Errno::EAGAIN)));
    assert_eq!(runs, Store::<Fake>::MAX_TRIES);
    assert_eq!((store.read("/count"), store.transport().open_transactions()), (Ok(None), 0));
}

#[test]
fn a_transaction_that_fails_leaves_nothing_and_tells_its_own_reason() {
    #[derive(Debug, PartialEq)]
    enum Mine {
        NoRoom,
        Store(Failure),
    }
    impl From<Failure> for Mine {
        fn from(error: Failure) -> Self {
            Self::Store(error)
        }
    }
    let mut store = store();
    let result = store.transaction(|nodes| -> Result<(), Mine> {
        nodes.write("/a", "1")?;
        Err(Mine::NoRoom)
    });
    assert_eq!(result, Err(Mine::NoRoom));
    assert_eq!((store.read("/a"), store.transport().open_transactions()), (Ok(None), 0));

    let result = store.transaction(|nodes| -> Result<(), Mine> { Ok(nodes.write("/a b", "1")?) });
    assert_eq!(result, Err(Mine::Store(StoreError::Request(Error::InvalidPath))));
    assert_eq!(store.transport().open_transactions(), 0);
}

#[test]
fn requests_of_a_transaction_carry_its_id_and_others_do_not() {
    let mut store = store();
    store.transaction(increment).unwrap();
    store.read("/count").unwrap();
    let log = store.transport().log.iter().map(|(kind, tx_id)| (*kind, tx_id.0)).collect::<Vec<_>>();
    let want = [
        (MessageType::TRANSACTION_START, 0),
        (MessageType::READ, 1),
        (MessageType::WRITE, 1),
        (MessageType::TRANSACTION_END, 1),
        (MessageType::READ, 0),
    ];
    assert_eq!(log, want);
}

/// Linux refuses a watch in this way; the tool has to clean up over the same connection then.
#[test]
fn a_refused_send_spoils_nothing_but_its_own_request() {
    let mut store = store();
    store.transport().refuse = Some(MessageType::WATCH);
    assert_eq!(store.watch("/a", "w"), Err(StoreError::Transport(Refused)));
    store.write("/a", "1").unwrap();
    assert_eq!(store.read("/a"), Ok(Some("1".into())));
    assert_eq!(store.next_watch_event(Some(0)), Ok(None));
}

#[test]
fn a_silent_xenstored_costs_only_the_deadline_and_its_late_answer_disturbs_nobody() {
    let mut store = store();
    store.write("/a", "1").unwrap();
    store.set_deadline(Some(1_000));
    store.transport().silent = true;
    assert_eq!(store.read("/a"), Err(StoreError::NoAnswer));
    assert_eq!(store.transaction(increment), Err(StoreError::NoAnswer));
    assert_eq!(store.transport().open_transactions(), 1);
    store.transport().silent = false;
    assert_eq!(store.read("/b"), Ok(None));
    assert_eq!(store.read("/a"), Ok(Some("1".into())));
    assert_eq!(store.transport().open_transactions(), 0, "the one begun too late was ended");
    assert_eq!(store.stats(), Default::default());
}

#[test]
fn several_requests_have_their_own_answers_in_their_order_and_share_a_wait_where_the_transport_allows() {
    for several in [false, true] {
        let mut store = store();
        store.transport().several = several;
        store.write("/a", "1").unwrap();
        store.write("/b", "2").unwrap();
        store.transport().receives = 0;
        assert_eq!(store.read_all(&["/b", "/none", "/a"]), Ok(vec![Some(b"2".to_vec()), None, Some(b"1".to_vec())]));
        assert_eq!(store.transport().receives, if several { 1 } else { 3 });
        // What is wrong with one is no reason not to make the others.
        let requests = [
            Request::Write { path: "/c", value: b"3" },
            Request::Read { path: "no good path" },
            Request::Remove { path: "/none" },
            Request::Write { path: "/d", value: b"4" },
        ];
        let answers = store
            .transaction(|nodes| -> Result<Vec<Result<Vec<u8>, Error>>, Failure> { nodes.request_all(&requests) })
            .unwrap();
        let [Ok(_), Err(Error::InvalidPath), Err(absent), Ok(_)] = &answers[..] else { panic!("{answers:?}") };
        assert!(absent.is(Errno::ENOENT));
        assert_eq!((store.read("/c"), store.read("/d")), (Ok(Some("3".into())), Ok(Some("4".into()))));
    }
}

/// 400 devices under `/table`.
fn table() -> (Store<Fake>, Vec<String>) {
    let mut store = store();
    let names: Vec<String> = (0..400).map(|index| format!("0000-{:02x}-{:02x}-0", index / 32, index % 32)).collect();
    for name in &names {
        store.mkdir(&format!("/table/{name}")).unwrap();
    }
    (store, names)
}

#[test]
fn a_listing_that_no_message_holds_comes_in_parts_or_in_one_long_message() {
    for long in [Long::InParts, Long::Whole] {
        let (mut store, names) = table();
        store.transport().long = long;
        assert_eq!(store.directory("/table"), Ok(Some(names.clone())));
        let in_transaction =
            store.transaction(|nodes| -> Result<Option<Vec<String>>, Failure> { nodes.directory("/table") });
        assert_eq!(in_transaction, Ok(Some(names)));
    }
}

#[test]
fn parts_of_different_listings_are_not_put_together() {
    let (mut store, names) = table();
    store.transport().additions = 3;
    let listing = store.directory("/table").unwrap().unwrap();
    assert_eq!((listing.len(), store.transport().additions), (names.len() + 3, 0));
    store.transport().additions = u32::MAX;
    assert!(store.directory("/table").is_err_and(|error| error.is(Errno::EAGAIN)));
}

#[test]
fn a_listing_that_cannot_be_told_at_all_is_too_long() {
    let (mut store, _) = table();
    store.transport().long = Long::Refused;
    assert!(store.directory("/table").is_err_and(|error| error.is(Errno::E2BIG)));
    assert_eq!(store.read("/table"), Ok(None), "the connection is good");
}

#[test]
fn a_thousand_requests_are_not_under_way_together() {
    let mut store = store();
    store.transport().several = true;
    let paths: Vec<String> = (0..3000).map(|index| format!("/n/{index}")).collect();
    let requests: Vec<_> = paths.iter().map(|path| Request::Write { path, value: b"1" }).collect();
    let answers = store.transaction(|nodes| nodes.request_all(&requests)).unwrap();
    assert_eq!(answers.len(), requests.len());
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(store.transport().most_answers, Store::<Fake>::AT_ONCE);
    assert_eq!(store.directory("/n").unwrap().unwrap().len(), paths.len());
}
