//! The client against a xenstored that answers in any order, twice, wrongly or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use xen_types::Errno;
use xenstore::wire::{Message, MessageType, ReqId, TxId};
use xenstore::{Client, Error, Parser, ProtocolError, Request, Stats, UnknownName, WatchEvent};

fn message(kind: MessageType, req_id: ReqId, payload: &[u8]) -> Vec<u8> {
    Message { kind, req_id, tx_id: TxId::NONE, payload: payload.to_vec() }.encode().unwrap()
}

fn event(path: &str, token: &str) -> Vec<u8> {
    message(MessageType::WATCH_EVENT, ReqId(0), format!("{path}\0{token}\0").as_bytes())
}

fn read(client: &mut Client, path: &str) -> ReqId {
    client.submit(TxId::NONE, &Request::Read { path }).unwrap()
}

/// Everything the client wants to send, as messages.
fn sent(client: &mut Client) -> Vec<Message> {
    let (mut parser, mut found) = (Parser::new(), Vec::new());
    let mut bytes = client.outgoing();
    while let Some(message) = parser.next_message(&mut bytes).unwrap() {
        found.push(message);
    }
    client.sent(client.outgoing().len());
    found
}

#[test]
fn answers_in_any_order_reach_their_own_question() {
    let mut client = Client::new();
    let ids = ["a", "b", "c"].map(|path| read(&mut client, path));
    for id in [ids[2], ids[0], ids[1]] {
        assert_eq!(client.take_reply(id), None);
        client.feed(&message(MessageType::READ, id, &id.0.to_le_bytes())).unwrap();
    }
    assert_eq!([(); 4].map(|()| client.take_answered()), [Some(ids[2]), Some(ids[0]), Some(ids[1]), None]);
    for id in ids {
        assert_eq!(client.take_reply(id), Some(Ok(id.0.to_le_bytes().to_vec())));
        assert_eq!(client.take_reply(id), None, "once only");
    }
    assert_eq!(client.stats(), Stats::default());
}

#[test]
fn an_answer_that_was_taken_is_not_announced() {
    let mut client = Client::new();
    let id = read(&mut client, "a");
    client.feed(&message(MessageType::READ, id, b"1")).unwrap();
    assert_eq!(client.take_reply(id), Some(Ok(b"1".to_vec())));
    assert_eq!(client.take_answered(), None);
}

#[test]
fn refusals_keep_their_reason() {
    let mut client = Client::new();
    let (first, second) = (read(&mut client, "a"), read(&mut client, "b"));
    client.feed(&message(MessageType::ERROR, first, b"ENOENT\0")).unwrap();
    client.feed(&message(MessageType::ERROR, second, b"EODD\0")).unwrap();
    assert_eq!(client.take_reply(first), Some(Err(Error::Store(Errno::ENOENT))));
    assert_eq!(client.take_reply(second), Some(Err(Error::Unknown(UnknownName::new(b"EODD")))));
}

#[test]
fn answers_out_of_place_are_counted_and_change_nothing() {
    let mut client = Client::new();
    let id = read(&mut client, "a");
    client.feed(&message(MessageType::READ, ReqId(id.0 + 1), b"unknown")).unwrap();
    client.feed(&message(MessageType::READ, ReqId(0), b"unknown")).unwrap();
    client.feed(&message(MessageType::WATCH, ReqId(0), b"OK\0")).unwrap();
    client.feed(&message(MessageType::WRITE, id, b"wrong")).unwrap();
    client.feed(&message(MessageType(99), id, b"wrong")).unwrap();
    client.feed(&message(MessageType::WATCH_EVENT, id, b"no event")).unwrap();
    assert_eq!((client.take_reply(id), client.take_answered(), client.take_watch_event()), (None, None, None));
    client.feed(&message(MessageType::READ, id, b"right")).unwrap();
    client.feed(&message(MessageType::READ, id, b"second")).unwrap();
    assert_eq!(client.take_reply(id), Some(Ok(b"right".to_vec())));
    client.feed(&message(MessageType::READ, id, b"third")).unwrap();
    assert_eq!(client.take_reply(id), None);
    let want = Stats { unknown_id: 4, wrong_type: 2, malformed_event: 1, duplicate: 1, ..Stats::default() };
    assert_eq!(client.stats(), want);
}

/// Linux leaves the id of these two 0 on `/dev/xen/xenbus`.
#[test]
fn watch_answers_without_id_go_to_the_oldest_of_their_type() {
    let mut client = Client::new();
    let watch = |client: &mut Client, path| client.submit(TxId::NONE, &Request::Watch { path, token: "t" }).unwrap();
    let (first, other, second) = (watch(&mut client, "a"), read(&mut client, "x"), watch(&mut client, "b"));
    let unwatch = client.submit(TxId::NONE, &Request::Unwatch { path: "c", token: "t" }).unwrap();
    for (kind, id) in [(MessageType::WATCH, first), (MessageType::UNWATCH, unwatch), (MessageType::WATCH, second)] {
        client.feed(&message(kind, ReqId(0), b"OK\0")).unwrap();
        assert_eq!(client.take_answered(), Some(id));
    }
    assert_eq!(client.take_reply(other), None);
    assert_eq!(client.stats(), Stats::default());
}

#[test]
fn a_forgotten_question_stays_silent_and_its_late_answer_is_no_fault() {
    let mut client = Client::new();
    let (early, late) = (read(&mut client, "a"), read(&mut client, "b"));
    client.feed(&message(MessageType::READ, early, b"1")).unwrap();
    client.forget(early);
    client.forget(late);
    client.forget(late);
    client.feed(&message(MessageType::READ, late, b"2")).unwrap();
    assert_eq!((client.take_reply(early), client.take_reply(late), client.take_answered()), (None, None, None));
    assert_eq!(client.stats(), Stats::default());
}

#[test]
fn a_forgotten_transaction_is_ended_whether_its_id_has_come_or_not() {
    for answered_before in [true, false] {
        let mut client = Client::new();
        let start = client.submit(TxId::NONE, &Request::TransactionStart).unwrap();
        assert_eq!(sent(&mut client).len(), 1);
        let answer = message(MessageType::TRANSACTION_START, start, b"42\0");
        if answered_before {
            client.feed(&answer).unwrap();
            client.forget(start);
        } else {
            client.forget(start);
            client.feed(&answer).unwrap();
        }
        let [end] = sent(&mut client).try_into().unwrap();
        assert_eq!((end.kind, end.tx_id, end.payload), (MessageType::TRANSACTION_END, TxId(42), b"F\0".to_vec()));
        client.feed(&message(MessageType::TRANSACTION_END, end.req_id, b"OK\0")).unwrap();
        assert_eq!((client.take_answered(), client.stats()), (None, Stats::default()));
    }
}

#[test]
fn events_keep_their_order_and_are_not_repeated_while_they_wait() {
    let mut client = Client::new();
    let id = read(&mut client, "a");
    let bytes =
        [event("x", "1"), message(MessageType::READ, id, b"v"), event("y", "1"), event("x", "1"), event("x", "2")];
    client.feed(&bytes.concat()).unwrap();
    assert_eq!(client.take_reply(id), Some(Ok(b"v".to_vec())));
    let taken: Vec<_> = std::iter::from_fn(|| client.take_watch_event()).collect();
    let want = [("x", "1"), ("y", "1"), ("x", "2")];
    assert_eq!(taken, want.map(|(path, token)| WatchEvent { path: path.into(), token: token.into() }));
    assert_eq!(client.stats().coalesced, 1);
}

#[test]
fn a_flood_of_events_is_bounded_and_told_of() {
    let mut client = Client::new();
    for number in 0..5000 {
        client.feed(&event(&format!("backend/pci/5/0/{number}"), "be")).unwrap();
    }
    assert!(client.take_overflowed());
    assert!(!client.take_overflowed());
    let waiting = std::iter::from_fn(|| client.take_watch_event()).count();
    assert!((1..=1024).contains(&waiting));
    assert_eq!(client.stats().overflowed, 5000 - waiting as u64);
}

#[test]
fn a_reset_answers_everything_and_starts_afresh() {
    let mut client = Client::new();
    let (answered, waiting, forgotten) = (read(&mut client, "a"), read(&mut client, "b"), read(&mut client, "c"));
    let start = client.submit(TxId::NONE, &Request::TransactionStart).unwrap();
    client.forget(forgotten);
    client.feed(&message(MessageType::READ, answered, b"1")).unwrap();
    client.feed(&message(MessageType::TRANSACTION_START, start, b"3\0")).unwrap();
    client.feed(&event("x", "1")[..9]).unwrap();
    client.reset();
    assert_eq!(client.outgoing(), b"");
    assert_eq!(client.take_reply(answered), Some(Ok(b"1".to_vec())));
    assert_eq!(client.take_reply(waiting), Some(Err(Error::Disconnected)));
    assert_eq!(client.take_reply(start), Some(Err(Error::Disconnected)), "its transaction went with the connection");
    assert_eq!(client.take_reply(forgotten), None);

    let id = read(&mut client, "d");
    client.feed(&message(MessageType::READ, id, b"2")).unwrap();
    assert_eq!(client.take_reply(id), Some(Ok(b"2".to_vec())));
}

#[test]
fn a_broken_stream_stays_broken_until_the_reset() {
    let mut client = Client::new();
    let (before, after) = (read(&mut client, "a"), read(&mut client, "b"));
    let mut bad = message(MessageType::READ, after, b"");
    bad[12..].copy_from_slice(&u32::MAX.to_le_bytes());
    let broken = Err(ProtocolError::Oversize(u32::MAX));
    assert_eq!(client.feed(&[message(MessageType::READ, before, b"1"), bad].concat()), broken);
    assert_eq!(client.take_reply(before), Some(Ok(b"1".to_vec())), "what came before counts");
    assert_eq!(client.feed(&message(MessageType::READ, after, b"2")), broken);
    assert_eq!(client.take_reply(after), None);
    client.reset();
    assert_eq!(client.take_reply(after), Some(Err(Error::Disconnected)));
    assert_eq!(client.feed(&event("x", "1")), Ok(()));
}

/// What can happen between the client, its user and xenstored. Numbers pick among what is there.
#[derive(Clone, Debug)]
enum Step {
    Ask,
    Answer(prop::sample::Index),
    Refuse(prop::sample::Index),
    WrongType(prop::sample::Index),
    Stray(u32),
    Event(u8),
    Forget(prop::sample::Index),
    Take(prop::sample::Index),
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    vec(
        prop_oneof![
            8 => Just(Step::Ask),
            6 => index().prop_map(Step::Answer),
            2 => index().prop_map(Step::Refuse),
            2 => index().prop_map(Step::WrongType),
            1 => (1000..u32::MAX).prop_map(Step::Stray),
            3 => (0..4_u8).prop_map(Step::Event),
            2 => index().prop_map(Step::Forget),
            4 => index().prop_map(Step::Take),
            1 => Just(Step::Reset),
        ],
        0..80,
    )
}

/// The simplest thing that can be right: what the user may expect of each id.
#[derive(Clone, Debug, PartialEq)]
enum Expected {
    Nothing,
    Forgotten,
    Answer(Result<Vec<u8>, Error>),
}

proptest! {
    #[test]
    fn every_question_gets_exactly_its_own_answer_whatever_happens(steps in steps(), piece in 1..40_usize) {
        let mut client = Client::new();
        let mut asked: BTreeMap<ReqId, Expected> = BTreeMap::new();
        let mut events: Vec<WatchEvent> = Vec::new();
        let pick = |asked: &BTreeMap<ReqId, Expected>, index: prop::sample::Index| {
            (!asked.is_empty()).then(|| *asked.keys().nth(index.index(asked.len())).unwrap())
        };
        for step in steps {
            let mut incoming = Vec::new();
            match step {
                Step::Ask => {
                    let id = read(&mut client, "a");
                    prop_assert_eq!(asked.insert(id, Expected::Nothing), None, "an open id was given out again");
                }
                Step::Answer(index) | Step::Refuse(index) => {
                    let Some(id) = pick(&asked, index) else { continue };
                    let answer = if matches!(step, Step::Answer(_)) {
                        let payload = id.0.to_le_bytes();
                        incoming = message(MessageType::READ, id, &payload);
                        Ok(payload.to_vec())
                    } else {
                        incoming = message(MessageType::ERROR, id, b"EACCES\0");
                        Err(Error::Store(Errno::EACCES))
                    };
                    match asked[&id] {
                        Expected::Nothing => drop(asked.insert(id, Expected::Answer(answer))),
                        Expected::Forgotten => drop(asked.remove(&id)),
                        Expected::Answer(_) => {} // the first one counts
                    }
                }
                Step::WrongType(index) => {
                    let Some(id) = pick(&asked, index) else { continue };
                    incoming = message(MessageType::MKDIR, id, b"OK\0");
                }
                Step::Stray(id) => incoming = message(MessageType::READ, ReqId(id), b"stray"),
                Step::Event(number) => {
                    let new = WatchEvent { path: format!("p{number}"), token: "t".into() };
                    incoming = event(&new.path, &new.token);
                    if !events.contains(&new) {
                        events.push(new);
                    }
                }
                Step::Forget(index) => {
                    let Some(id) = pick(&asked, index) else { continue };
                    client.forget(id);
                    match asked[&id] {
                        Expected::Answer(_) => drop(asked.remove(&id)),
                        _ => drop(asked.insert(id, Expected::Forgotten)),
                    }
                }
                Step::Take(index) => {
                    if let Some(id) = pick(&asked, index) {
                        let expected = match &asked[&id] {
                            Expected::Answer(answer) => Some(answer.clone()),
                            _ => None,
                        };
                        prop_assert_eq!(client.take_reply(id), expected.clone());
                        if expected.is_some() {
                            asked.remove(&id);
                        }
                    }
                    if !events.is_empty() {
                        prop_assert_eq!(client.take_watch_event(), Some(events.remove(0)));
                    }
                }
                Step::Reset => {
                    client.reset();
                    asked.retain(|_, expected| *expected != Expected::Forgotten);
                    for expected in asked.values_mut().filter(|expected| **expected == Expected::Nothing) {
                        *expected = Expected::Answer(Err(Error::Disconnected));
                    }
                }
            }
            for part in incoming.chunks(piece) {
                client.feed(part).unwrap();
            }
        }
        let mut announced: Vec<_> = std::iter::from_fn(|| client.take_answered()).collect();
        announced.sort_unstable();
        let answered = asked.iter().filter(|(_, expected)| matches!(expected, Expected::Answer(_)));
        prop_assert_eq!(announced, answered.map(|(id, _)| *id).collect::<Vec<_>>());
        prop_assert_eq!(std::iter::from_fn(|| client.take_watch_event()).collect::<Vec<_>>(), events);
        prop_assert!(!client.take_overflowed());
    }
}
