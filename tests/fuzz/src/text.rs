//! Nodes, files and words. What is read and can be written reads back as the same.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use pci_config::{Policy, Quirk};
use pci_registers::EXTENDED_BYTES;
use pcidom_abi::pool::{self, Description, PolicyNumbers};
use pcidom_abi::statistics::{self, Query};
use pcidom_abi::{
    BrokerCommand, CreationProgress, ExportMode, Intent, PauseNote, PermittedWrites, Phase, PirqSet, PoolState,
    ProcessId, Vectors, paths,
};
use xen_types::{Resource, Sbdf};
use xenstore::{Client, MessageType, Parser, ReqId, Request, TxId, XenbusState, number, path};

use crate::input::Input;

/// Has a target for text read the bytes that are UTF-8, up to the first that are not.
pub fn read(data: &[u8], run: fn(&str)) {
    let text = match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&data[..error.valid_up_to()]).expect("checked"),
    };
    run(text);
}

/// What is read reads back as it is written.
#[track_caller]
fn reads_back<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T>
where
    T::Err: Debug,
{
    let value: T = text.parse().ok()?;
    let written = value.to_string();
    match written.parse::<T>() {
        Ok(again) => assert_eq!(again, value, "{text:?} was written as {written:?}"),
        Err(error) => panic!("{text:?} was written as {written:?}, which does not read: {error:?}"),
    }
    Some(value)
}

/// The stream from xenstored: it makes no difference where it is cut, and what comes out is what went in.
pub fn xenstore_bytes(data: &[u8]) {
    let mut input = Input::new(data);
    let cut = usize::from(input.byte()) + 1;
    let stream = input.rest();
    let parse = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut parser, mut messages) = (Parser::new(), Vec::new());
        for mut piece in pieces {
            loop {
                match parser.next_message(&mut piece) {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => return (messages, Some(error)),
                }
            }
        }
        (messages, None)
    };
    let whole = parse(&mut std::iter::once(stream));
    assert_eq!(parse(&mut stream.chunks(cut)), whole);
    let encoded: Vec<u8> = whole.0.iter().flat_map(|message| message.encode().expect("it fitted")).collect();
    assert!(stream.starts_with(&encoded));
    for message in &whole.0 {
        let _ = xenstore::text(&message.payload);
        let _ = xenstore::transaction_id(&message.payload);
        let _ = xenstore::Error::from_reply(&message.payload);
        let names: usize = xenstore::directory_entries(&message.payload).map(str::len).sum();
        assert!(names <= message.payload.len());
        if let Ok(list) = xenstore::permissions(&message.payload) {
            let encoded = xenstore::Permission::encode_list(&list);
            assert_eq!(xenstore::permissions(encoded.as_bytes()), Ok(list));
        }
    }
    // A client with one request of each kind that is open, whose ids a stream can guess.
    let mut client: Client = Client::default();
    let requests = [
        Request::Read { path: "a" },
        Request::Directory { path: "a" },
        Request::TransactionStart,
        Request::Write { path: "a", value: b"x" },
    ];
    let ids: Vec<ReqId> = requests.iter().filter_map(|request| client.submit(TxId::NONE, request).ok()).collect();
    if let Some(id) = ids.get(2) {
        client.forget(*id);
    }
    for piece in stream.chunks(cut) {
        if client.feed(piece).is_err() {
            break;
        }
    }
    while client.take_watch_event().is_some() {}
    while let Some(id) = client.take_answered() {
        assert!(ids.contains(&id), "an answer to nothing");
        assert!(client.take_reply(id).is_some() && client.take_reply(id).is_none());
    }
    assert!(client.open_requests() <= ids.len() + whole.0.len());
    client.reset();
    let answered = whole.0.iter().filter(|message| message.kind == MessageType::TRANSACTION_START).count();
    assert!(client.outgoing().len() <= 64 * (ids.len() + answered), "what is sent again is bounded");
}

/// Values that guests and toolstacks write beside the contract: numbers, states, paths.
pub fn store_values(data: &[u8]) {
    let is_digits = |radix: u32| data.iter().any(|byte| char::from(*byte).is_digit(radix));
    if let Ok(number) = number::decimal(data) {
        assert!(is_digits(10));
        assert_eq!(number::decimal(number.to_string()), Ok(number));
    }
    if let Ok(number) = number::hexadecimal(data) {
        assert!(is_digits(16));
        assert_eq!(number::hexadecimal(format!("{number:x}")), Ok(number));
    }
    let _ = XenbusState::parse(data);
    read(data, |text| {
        let _ = path::validate(text);
        let _ = path::relative::split_backend(text);
        let (first, rest) = path::relative::component(text);
        assert!(first.len() + rest.len() <= text.len());
        let _ = paths::relative::split_pool(text);
        if let Some(address) = reads_back::<Sbdf>(text) {
            assert_eq!(Sbdf::parse_path_component(&address.path_component().to_string()), Ok(address));
        }
        if let Ok(address) = Sbdf::parse_path_component(text) {
            assert_eq!(Sbdf::parse_path_component(&address.path_component().to_string()), Ok(address));
        }
        reads_back::<Resource>(text);
    });
}

/// Every value of the contract between stub, broker and commands.
pub fn contract(data: &[u8]) {
    read(data, |text| {
        reads_back::<Phase>(text);
        reads_back::<ExportMode>(text);
        reads_back::<Intent>(text);
        reads_back::<CreationProgress>(text);
        reads_back::<PauseNote>(text);
        reads_back::<ProcessId>(text);
        reads_back::<PirqSet>(text);
        reads_back::<Query>(text);
        let state = PoolState::parse(text);
        assert_eq!(PoolState::parse(&state.text()), state);
        let vectors = Vectors::from_node(Some(text));
        assert_eq!(Vectors::from_node(Some(&vectors.to_string())), vectors);
        assert!(vectors.mappings().len() <= vectors.pirqs().len());
        let _ = statistics::parse_answer(text, 7);
    });
    if let Some(numbers) = PolicyNumbers::parse(data) {
        assert_eq!(PolicyNumbers::parse(numbers.to_string().as_bytes()), Some(numbers));
    }
    let mut input = Input::new(data);
    if let Some(command) = BrokerCommand::from_raw(input.clone().word()) {
        assert_eq!(BrokerCommand::from_raw(command.raw()), Some(command));
    }
    // A description with a line for each node: a digit for its name, and the value.
    let mut nodes = Vec::new();
    while !input.is_empty() {
        let name = pool::NODES[usize::from(input.byte()) % pool::NODES.len()];
        nodes.push((name, input.until(b'\n')));
    }
    let value = |name: &str| nodes.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    if let Ok(description) = Description::read(value) {
        let written = description.nodes();
        let value = |name: &str| written.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes());
        assert_eq!(Description::read(value), Ok(description));
    }
}

/// The admin's policy for a device, and quirks.
pub fn policy(data: &[u8]) {
    read(data, |text| {
        if let Some(policy) = reads_back::<Policy>(text) {
            let numbers = policy.policy_flags().numbers();
            assert_eq!(pci_config::PolicyFlags::new(numbers), policy.policy_flags());
            let quirks: Vec<&Quirk> = policy.quirks().collect();
            for (index, quirk) in quirks.iter().enumerate() {
                let end = |quirk: &Quirk| quirk.offset() + quirk.width() as u16;
                assert!(end(quirk) <= EXTENDED_BYTES);
                let others = &quirks[index + 1..];
                assert!(others.iter().all(|other| end(quirk) <= other.offset() || end(other) <= quirk.offset()));
            }
        }
        reads_back::<Quirk>(text);
    });
}

/// The list of writes that the broker may carry out: nothing in it reaches beyond configuration space.
pub fn permitted_writes(data: &[u8]) {
    read(data, |text| {
        let Some(list) = reads_back::<PermittedWrites>(text) else { return };
        for write in &list.registers {
            assert!(write.offset < EXTENDED_BYTES && write.offset.is_multiple_of(write.width as u16));
            assert!(write.mask & !write.width.bits() == 0 && write.zeros & !write.width.bits() == 0);
        }
        for range in &list.ranges {
            assert!(!range.contains(EXTENDED_BYTES) && range.contains(range.offset));
        }
        if let Ok(node) = list.to_node() {
            assert!(node.len() <= PermittedWrites::MAX_BYTES);
        }
    });
}

/// The file `resource` of a device in sysfs.
pub fn resource_file(data: &[u8]) {
    read(data, |text| {
        let memory = dom0::sysfs::resource::memory(text);
        if let Ok(own) = dom0::sysfs::resource::parse(text) {
            assert!(own.iter().all(|(index, _)| *index < 7));
            assert!(own.is_sorted_by(|(one, _), (next, _)| one < next), "one range for each register");
            let memory = memory.expect("the same lines");
            for (_, resource) in own.iter().filter(|(_, resource)| resource.kind() != xen_types::ResourceKind::Io) {
                let last = resource.start() + (resource.size() - 1);
                assert!(memory.contains(&(resource.start(), last)), "all of its memory is looked through: {resource}");
            }
        }
        let _ = dom0::sysfs::resource::not_own(text);
    });
}
