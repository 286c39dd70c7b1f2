//! What a stub that was taken over can do to the broker: the real broker on the simulated dom0 of its own tests, with two stubs.

use std::collections::BTreeSet;

use fakes::bench::{Bench, COMMAND, INTX_OFF, OTHER, PORT};
use fakes::{E1000, EDU, Memory, NVME, STUB, device};
use pcidom_abi::{BrokerCommand, DeviceNode, PermittedWrites};
use pciif::Request;

use crate::input::Input;

/// Requests in an input.
const MOST: usize = 32;
const NAMES: [&str; 3] = [NVME, E1000, EDU];

fn all(bench: &Bench) -> [Memory; 3] {
    NAMES.map(|name| bench.config(name))
}

/// Puts 16 bytes of the input into a request of the stub's, about one of its devices more often than not.
fn request(input: &mut Input<'_>) -> (Request, Vec<u16>) {
    let mut record = Input::new(input.take(16));
    let (cmd, place, size, entries) = (record.byte(), record.byte(), record.byte(), record.byte());
    let (offset, value, info) = (record.half(), record.word(), record.word());
    let asked = device(NAMES[usize::from(place % 3)]);
    let mut request = Request::conf_write(asked, offset.cast_signed().into(), (size % 6).into(), value);
    request.cmd = match BrokerCommand::ALL.get(usize::from(cmd % 16)) {
        Some(command) => command.raw(),
        None if cmd < 128 => BrokerCommand::ConfWrite.raw(),
        None => value,
    };
    if place >= 240 {
        (request.bus, request.devfn) = (value, info);
    }
    request.info = info;
    let is_list = request.cmd == BrokerCommand::EnableMsix.raw();
    if is_list {
        request.value = u32::from(entries % 140);
    }
    let entries = 0..request.value.min(if is_list { 128 } else { 0 });
    let entries = entries.map(|index| offset.wrapping_add(u16::try_from(index).unwrap_or(0)) % 70).collect();
    (request, entries)
}

/// Pages of any content, and requests that nearly make sense: devices of the other stub and of nobody are never touched, what is noted, mapped and enabled
/// always agree, and each request has its answer in one turn.
pub fn broker_ring(data: &[u8]) {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let theirs = bench.config(EDU).bytes;
    let mut input = Input::new(data);
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        if input.byte() < 32 {
            let page = bench.page(STUB);
            for index in 0..20 {
                page.set_word(4 * index, input.word());
            }
            page.set_word(0, 1);
            bench.wires.borrow_mut().raise(STUB, PORT);
        } else {
            let (request, entries) = request(&mut input);
            bench.publish(STUB, &request, &entries);
        }
        broker.turn().expect("the broker goes on");
        assert!(bench.answer(STUB, 0).is_some(), "each request is answered in a turn");
        assert_eq!(bench.config(EDU).bytes, theirs, "a device of another stub");
        bench.assert_sound();
    }
    let mine: BTreeSet<_> = [NVME, E1000].into_iter().flat_map(|name| bench.mapped(name)).collect();
    let mapped = bench.machine.with(|world| world.vectors.len());
    assert_eq!(mapped, mine.len(), "vectors of others");
    let query = fakes::bench::request(BrokerCommand::Query, EDU);
    assert_eq!(bench.ask(&mut broker, OTHER, &query, &[]).code, pciif::ErrorCode::Success, "the other stub");
}

/// A list of permitted writes out of the input, and writes: no bit changes that is not in the list, whatever is in it.
pub fn broker_list(data: &[u8]) {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let mut input = Input::new(data);
    let text = String::from_utf8_lossy(input.until(b'\n')).into_owned();
    let node = DeviceNode::PermittedWrites.of(device(NVME));
    bench.machine.with(|world| world.write(&node, &text));
    let list = text.parse::<PermittedWrites>();
    let open = list.as_ref().map(open_bits).unwrap_or_default();
    let mut before = all(&bench);
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let (mut request, _) = request(&mut input);
        request.cmd = BrokerCommand::ConfWrite.raw();
        let of = device(NVME);
        (request.domain, request.bus, request.devfn) = (of.segment().into(), of.bus().into(), of.devfn().into());
        bench.publish(STUB, &request, &[]);
        broker.turn().expect("the broker goes on");
        assert!(bench.answer(STUB, 0).is_some(), "each request is answered in a turn");
        let after = all(&bench);
        for (name, (before, after)) in NAMES.iter().zip(before.iter().zip(&after)) {
            for (at, (old, new)) in before.bytes.iter().zip(&after.bytes).enumerate() {
                // INTx Disable is the broker's own.
                let own = if at == COMMAND + 1 { INTX_OFF.to_le_bytes()[1] } else { 0 };
                let open = if *name == NVME { open.get(at).copied().unwrap_or(0) } else { 0 };
                assert_eq!((old ^ new) & !open & !own, 0, "{name} {at:#x} by {request}, list {text:?}");
            }
        }
        before = after;
    }
    bench.machine.assert_no_violations();
}

/// The bits that a list opens, byte by byte.
fn open_bits(list: &PermittedWrites) -> Vec<u8> {
    let mut open = vec![0; 4096];
    let registers = list.registers.iter().map(|write| (write.offset, write.mask | write.zeros));
    let ranges = list
        .ranges
        .iter()
        .flat_map(|range| (0..range.dwords).map(move |dword| (range.offset + 4 * dword, range.mask | range.zeros)));
    for (offset, bits) in registers.chain(ranges) {
        for (place, byte) in open[offset.into()..].iter_mut().zip(bits.to_le_bytes()) {
            *place |= byte;
        }
    }
    open
}
