//! Requests as bytes and answers from bytes, without any connection: what a bare-metal guest puts into the ring and takes out of it.
#![allow(clippy::expect_used, reason = "an example has nothing to fall back on")]

use xenstore::{Client, MessageType, Request, TxId, WatchEvent};

/// A message as xenstored would send it.
fn message(kind: MessageType, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    let header = [kind.0, id, TxId::NONE.0, length];
    [header.map(u32::to_le_bytes).as_flattened(), payload].concat()
}

fn main() {
    let mut client: Client = Client::new();
    let watch = client.submit(TxId::NONE, &Request::Watch { path: "state", token: "mine" }).expect("it fits");
    let read = client.submit(TxId::NONE, &Request::Read { path: "state" }).expect("it fits");
    let bytes = client.outgoing().len();
    println!("{bytes} bytes for the ring");
    client.sent(bytes);

    // The answers, an event between them, in pieces of three bytes.
    let stream = [
        message(MessageType::WATCH, watch.0, b"OK\0"),
        message(MessageType::WATCH_EVENT, 0, b"state\0mine\0"),
        message(MessageType::READ, read.0, b"4"),
    ];
    for piece in stream.concat().chunks(3) {
        client.feed(piece).expect("a stream of messages");
    }

    assert_eq!(client.take_reply(watch), Some(Ok(b"OK\0".to_vec())));
    assert_eq!(client.take_reply(read), Some(Ok(b"4".to_vec())));
    let WatchEvent { path, token, .. } = client.take_watch_event().expect("an event");
    println!("{path} changed, says watch {token}");
}
