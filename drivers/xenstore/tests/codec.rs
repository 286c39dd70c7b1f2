//! The wire codec: what is encoded is parsed, in whatever pieces it comes, and nothing on the wire breaks the parser.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use proptest::collection::vec;
use proptest::prelude::*;
use xen_types::DomId;
use xenstore::wire::{HEADER_SIZE, Header, MAX_PAYLOAD, MAX_TOKEN, Message, MessageType, ReqId, TxId};
use xenstore::{Access, Client, Error, Parser, Permission, ProtocolError, Request, directory_entries, permissions};

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let payload = prop_oneof![
        8 => vec(any::<u8>(), 0..40),
        1 => vec(any::<u8>(), MAX_PAYLOAD - 2..=MAX_PAYLOAD),
    ];
    let message = (any::<u32>(), any::<u32>(), any::<u32>(), payload).prop_map(|(kind, req_id, tx_id, payload)| {
        Message { kind: MessageType(kind % 32), req_id: ReqId(req_id), tx_id: TxId(tx_id), payload }
    });
    vec(message, 0..6)
}

fn stream(messages: &[Message]) -> Vec<u8> {
    messages.iter().flat_map(|message| message.encode().unwrap()).collect()
}

/// Feeds pieces one by one and collects what comes out.
fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Message>, (Vec<Message>, ProtocolError)> {
    let (mut parser, mut found) = (Parser::new(), Vec::new());
    for mut piece in pieces {
        loop {
            let before = piece.len();
            match parser.next_message(&mut piece) {
                Ok(Some(message)) => {
                    assert!(piece.len() < before, "a message out of nothing");
                    found.push(message);
                }
                Ok(None) => break,
                Err(error) => return Err((found, error)),
            }
        }
        assert!(piece.is_empty(), "asks for more and leaves some");
    }
    Ok(found)
}

/// Cuts at random places, some of them equal, so that empty pieces happen too.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter().map(|end| &bytes[std::mem::replace(&mut start, end)..end]).collect()
}

proptest! {
    #[test]
    fn every_message_survives_any_cut(messages in messages(), places in vec(any::<prop::sample::Index>(), 0..12)) {
        let bytes = stream(&messages);
        prop_assert_eq!(parse(cut(&bytes, &places)).unwrap(), messages);
    }

    #[test]
    fn every_header_reads_back(words in any::<[u32; 4]>()) {
        let [kind, req_id, tx_id, length] = words;
        let header = Header { kind: MessageType(kind), req_id: ReqId(req_id), tx_id: TxId(tx_id), length };
        let bytes = header.encode();
        prop_assert_eq!(Header::decode(bytes), header);
        prop_assert_eq!(bytes.to_vec(), words.map(u32::to_le_bytes).concat());
    }

    #[test]
    fn arbitrary_bytes_end_in_messages_or_in_one_error(
        // Small words make plausible headers; otherwise nearly every stream would end at its first one.
        words in vec(prop_oneof![4 => 0..40_u32, 1 => any::<u32>()], 0..300),
        tail in vec(any::<u8>(), 0..4),
        places in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).chain(tail).collect();
        let whole = parse([bytes.as_slice()]);
        prop_assert_eq!(parse(cut(&bytes, &places)), whole.clone());
        let found = whole.unwrap_or_else(|(found, _)| found);
        prop_assert!(bytes.starts_with(&stream(&found)), "what came out is what went in");
        // The client takes the same bytes without asking for more than it was given.
        let mut client = Client::new();
        for piece in cut(&bytes, &places) {
            if client.feed(piece).is_err() {
                break;
            }
        }
        while client.take_watch_event().is_some() {}
        prop_assert_eq!(client.take_answered(), None);
        prop_assert_eq!(client.outgoing(), b"");
    }

    #[test]
    fn oversize_poisons_the_stream_for_good(
        messages in messages(),
        length in 4097..=u32::MAX,
        behind in vec(any::<u8>(), 0..100),
    ) {
        let bad = Header { kind: MessageType::READ, req_id: ReqId(1), tx_id: TxId::NONE, length };
        let mut parser = Parser::new();
        let bytes = [stream(&messages), bad.encode().to_vec(), behind].concat();
        let mut input = bytes.as_slice();
        for message in messages {
            prop_assert_eq!(parser.next_message(&mut input), Ok(Some(message)));
        }
        for mut more in [input, &[], &[0; 64]] {
            prop_assert_eq!(parser.next_message(&mut more), Err(ProtocolError::Oversize(length)));
        }
    }

    #[test]
    fn permission_lists_read_back(list in vec((any::<u16>(), 0..4_usize), 1..20)) {
        let access = [Access::None, Access::Read, Access::Write, Access::Both];
        let list: Vec<_> =
            list.into_iter().map(|(domid, kind)| Permission { domid: DomId(domid), access: access[kind] }).collect();
        prop_assert_eq!(permissions(Permission::encode_list(&list).as_bytes()), Ok(list));
    }

    #[test]
    fn reply_readers_take_anything(payload in vec(any::<u8>(), 0..60)) {
        let names: Vec<_> = directory_entries(&payload).collect();
        prop_assert!(names.iter().all(|name| !name.is_empty() && !name.contains('\0')));
        let _ = (permissions(&payload), xenstore::transaction_id(&payload), Error::from_reply(&payload));
        prop_assert_eq!(xenstore::text(&payload).is_ok(), std::str::from_utf8(&payload).is_ok());
    }
}

#[test]
fn every_single_cut_of_a_stream_gives_the_same_messages() {
    let reply = |req_id, payload: &[u8]| Message {
        kind: MessageType::READ,
        req_id: ReqId(req_id),
        tx_id: TxId(7),
        payload: payload.to_vec(),
    };
    let messages = [reply(1, b"0000:03:00.0"), reply(2, b""), reply(3, b""), reply(u32::MAX, b"4\0")];
    let bytes = stream(&messages);
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            assert_eq!(parse(pieces).unwrap(), messages, "cut at {first} and {second}");
        }
    }
}

#[test]
fn the_longest_payload_is_good_and_one_more_is_not() {
    let message =
        |length| Message { kind: MessageType::READ, req_id: ReqId(1), tx_id: TxId::NONE, payload: vec![b'x'; length] };
    let longest = message(MAX_PAYLOAD);
    assert_eq!(parse([longest.encode().unwrap().as_slice()]).unwrap(), [longest]);
    assert_eq!(message(MAX_PAYLOAD + 1).encode(), None);
}

/// The bytes that Xen's documentation and header ask for, spelled out.
#[test]
fn requests_are_encoded_as_xenstored_expects_them() {
    let list = [Permission::none(DomId(0)), Permission::read(DomId(5))];
    let cases: [(Request<'_>, u32, &[u8]); 13] = [
        (Request::Directory { path: "/a" }, 1, b"/a\0"),
        (Request::Read { path: "a/b" }, 2, b"a/b\0"),
        (Request::GetPermissions { path: "/" }, 3, b"/\0"),
        (Request::Watch { path: "@releaseDomain", token: "t k" }, 4, b"@releaseDomain\0t k\0"),
        (Request::Unwatch { path: "backend/pci", token: "" }, 5, b"backend/pci\0\0"),
        (Request::TransactionStart, 6, b"\0"),
        (Request::TransactionEnd { commit: true }, 7, b"T\0"),
        (Request::TransactionEnd { commit: false }, 7, b"F\0"),
        (Request::DirectoryPart { path: "/tool", offset: "4095" }, 22, b"/tool\x004095\0"),
        (Request::Write { path: "a", value: b"x\0y" }, 11, b"a\0x\0y"),
        (Request::Mkdir { path: "a" }, 12, b"a\0"),
        (Request::Remove { path: "a" }, 13, b"a\0"),
        (Request::SetPermissions { path: "a", permissions: &list }, 14, b"a\0n0\0r5\0"),
    ];
    for (request, kind, payload) in cases {
        assert_eq!(request.kind(), MessageType(kind), "{request:?}");
        assert_eq!(request.payload().as_deref(), Ok(payload), "{request:?}");
        let mut client = Client::new();
        let id = client.submit(TxId(9), &request).unwrap();
        let sent = parse([client.outgoing()]).unwrap();
        let message = Message { kind: MessageType(kind), req_id: id, tx_id: TxId(9), payload: payload.to_vec() };
        assert_eq!(sent, [message]);
        assert_eq!(client.outgoing().len(), HEADER_SIZE + payload.len());
    }
}

#[test]
fn what_xenstored_would_refuse_is_not_sent() {
    let long = "x".repeat(5000);
    let absolute = |length: usize| format!("/{}", &long[..length - 1]);
    let mut client = Client::new();
    let mut try_read = |path: &str| client.submit(TxId::NONE, &Request::Read { path }).map(drop);
    assert_eq!(try_read(&absolute(3072)), Ok(()));
    assert_eq!(try_read(&absolute(3073)), Err(Error::TooLong));
    assert_eq!(try_read(&long[..2048]), Ok(()));
    assert_eq!(try_read(&long[..2049]), Err(Error::TooLong));
    for path in ["", "//", "a/", "/a/", "a//b", "a b", "a\0b", "a\n", "ä", "a.b", "a:b", "a*"] {
        assert_eq!(try_read(path), Err(Error::InvalidPath), "{path:?}");
    }

    let mut client = Client::new();
    let mut refused = |request: Request<'_>, error| assert_eq!(client.submit(TxId::NONE, &request), Err(error));
    refused(Request::Write { path: "a", value: &[0; MAX_PAYLOAD - 1] }, Error::TooLong);
    refused(Request::Watch { path: "a", token: "a\0b" }, Error::InvalidPath);
    refused(Request::Watch { path: "a", token: &long[..MAX_TOKEN + 1] }, Error::TooLong);
    refused(Request::Unwatch { path: "a b", token: "" }, Error::InvalidPath);
    refused(Request::SetPermissions { path: "a", permissions: &[Permission::both(DomId(1000)); 700] }, Error::TooLong);
    assert_eq!(client.outgoing(), b"", "a refused request leaves nothing behind");
    client.submit(TxId::NONE, &Request::Write { path: "a", value: &[0; MAX_PAYLOAD - 2] }).unwrap();
    assert_eq!(client.outgoing().len(), HEADER_SIZE + MAX_PAYLOAD);
}

#[test]
fn the_longest_token_leaves_room_for_an_event_of_the_longest_path() {
    let (path, token) = (format!("/{}", "x".repeat(3071)), "t".repeat(MAX_TOKEN));
    let payload = Request::Watch { path: &path, token: &token }.payload().unwrap();
    assert_eq!(payload.len(), MAX_PAYLOAD);
}
