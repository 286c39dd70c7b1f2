//! A guest that does what no driver does, with everything that is its own: the words of the page while they are served, events, its states, its nodes, its grants and ports. Which
//! comes when is a number's choice: with the same one the same comes in the same order, for as long as time is given.
//!
//! The image has one processor. What races with the backend does so because the backend runs on another one of the host meanwhile.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use drivers::Front as _;
use kernel::clock;
use pciif::Request;
use pciif::layout::MsixEntry;
use xen_types::Sbdf;
use xenstore::path::key;

use crate::front::XenFront;

/// What is worth a try in a word of a request, beside anything.
const NUMBERS: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0x10, 0x50, 0xff, 0xfff, 0x1000, 0x7fff_ffff, 0xffff_ffff];
/// What may stand in `state`, beside anything.
const STATES: [&str; 14] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "-1", "4294967297", "", "four"];
/// Pages that it offers: one that the backend still maps is lost, and it has one MiB.
const OFFERS: u32 = 40;
/// How long it waits for the backend to serve it again.
const PATIENCE_NS: u64 = 500_000_000;
/// Nodes that it writes at once; its quota is a thousand, of which its builder has used some.
const FLOOD: u32 = 1_100;
/// Where.
const FLOODED: &str = "flood";
/// A path of xenstore has 3,072 bytes, a relative one 2,048.
const LONGEST_NAME: usize = 2_100;
/// The longest value; xenstored takes 2,048 bytes.
const LONGEST: u32 = 3_000;

/// Numbers from a seed (xorshift64*; Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Less than `end`, which is not zero.
    fn below(&mut self, end: u32) -> u32 {
        self.next() % end
    }

    fn word(&mut self) -> u16 {
        let [low, high, ..] = self.next().to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// As [`Self::below`], for a place in a list.
    fn index(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    /// One of those that are worth a try, or any.
    fn number(&mut self) -> u32 {
        let at = self.index(2 * NUMBERS.len());
        NUMBERS.get(at).copied().unwrap_or_else(|| self.next())
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.below(LONGEST) / 4;
        (0..length).flat_map(|_| self.next().to_le_bytes()).collect()
    }

    fn request(&mut self, devices: &[Sbdf]) -> Request {
        let device = devices.get(self.index(4));
        let [bus, devfn] = device
            .map_or_else(|| [self.number(), self.number()], |device| [device.bus().into(), device.devfn().into()]);
        Request {
            cmd: if self.below(8) == 0 { self.next() } else { self.below(14) },
            domain: if self.below(4) == 0 { self.number() } else { 0 },
            bus,
            devfn,
            offset: if self.below(4) == 0 { self.number() } else { self.below(0x1000) }.cast_signed(),
            size: if self.below(4) == 0 { self.number() } else { 1 << self.below(3) }.cast_signed(),
            value: self.number(),
            info: self.number(),
        }
    }
}

/// How often it did what.
#[derive(Default)]
struct Done {
    requests: u32,
    /// Requests of which the backend took the flag away.
    answers: u32,
    events: u32,
    states: u32,
    nodes: u32,
    refused: u32,
    offers: u32,
}

/// For so long. Says how much it did.
pub(crate) fn run(front: &mut XenFront, devices: &[Sbdf], seed: u64, milliseconds: u64) -> Result<String, String> {
    front.look_away().map_err(|_| "xenstore refuses to watch no more")?;
    let mut random = Random(seed << 1 | 1);
    let mut done = Done::default();
    let deadline = clock::now_ns() + milliseconds * 1_000_000;
    while clock::now_ns() < deadline {
        match random.below(16) {
            0..=8 => race(front, devices, &mut random, &mut done),
            9 | 10 => ring(front, &mut random, &mut done),
            11 | 12 => move_states(front, &mut random, &mut done),
            13 => write_keys(front, &mut random, &mut done),
            14 => flood(front, &mut random, &mut done),
            _ => offer(front, &mut random, &mut done),
        }
    }
    // The answer needs some of its quota.
    front.remove_own(FLOODED);
    let Done { requests, answers, events, states, nodes, refused, offers } = done;
    Ok(format!(
        "{answers} of {requests} requests answered, {events} events, {states} states, {nodes} nodes and {refused} refused, {offers} pages"
    ))
}

/// Other words, and the flag anew, while the backend works on the ones before.
fn race(front: &mut XenFront, devices: &[Sbdf], random: &mut Random, done: &mut Done) {
    connect(front, random, done);
    for number in 0..random.below(3_000) {
        let request = random.request(devices);
        let entries = [(); 3].map(|()| MsixEntry { vector: random.word(), entry: random.word() & 0xff });
        let has_told = random.below(8) == 0;
        if random.below(64) == 0 {
            front.answer_unasked(random.number());
        }
        let Some(is_answered) = front.scribble(&request, &entries, has_told) else { return };
        done.requests += 1;
        done.answers += u32::from(number > 0 && is_answered);
        done.events += u32::from(has_told);
    }
}

/// Has the backend serve it again, where it does not.
fn connect(front: &mut XenFront, random: &mut Random, done: &mut Done) {
    if front.is_connected() || done.offers >= OFFERS {
        return;
    }
    done.offers += 1;
    front.announces_aer = random.below(2) == 0;
    front.forget();
    front.probe_at_once();
    let deadline = clock::now_ns() + PATIENCE_NS;
    while clock::now_ns() < deadline {
        if front.is_connected() {
            front.set_state(4);
            return;
        }
    }
}

/// Events without requests.
fn ring(front: &mut XenFront, random: &mut Random, done: &mut Done) {
    for _ in 0..random.below(5_000) {
        done.events += u32::from(front.ring());
    }
}

/// Any state after any other, as fast as xenstored takes them; devices are released by some.
fn move_states(front: &mut XenFront, random: &mut Random, done: &mut Done) {
    for _ in 0..random.below(30) {
        let state = STATES.get(random.index(STATES.len())).copied().unwrap_or_default();
        write(front, key::STATE, state.as_bytes(), done);
        done.states += 1;
    }
}

/// Anything in the nodes that the backend reads: a grant and a port of others, of nobody, of a length that no number has.
fn write_keys(front: &mut XenFront, random: &mut Random, done: &mut Done) {
    for name in [key::PCI_OP_REF, key::EVENT_CHANNEL, key::MAGIC, key::STATE] {
        match random.below(4) {
            0 => write(front, name, &random.bytes(), done),
            1 => write(front, name, format!("{}", random.number()).as_bytes(), done),
            2 => write(front, name, b"", done),
            _ => {}
        }
    }
}

/// As many nodes as it may have, of names and values that mean nothing, one of them as long as a path may be.
fn flood(front: &mut XenFront, random: &mut Random, done: &mut Done) {
    let long = "x".repeat(random.index(LONGEST_NAME));
    write(front, &format!("{FLOODED}/{long}"), b"", done);
    for _ in 0..random.below(FLOOD) {
        let name = format!("{FLOODED}/{:x}/{:x}", random.below(16), random.next());
        let value = if random.below(8) == 0 { random.bytes() } else { Vec::new() };
        write(front, &name, &value, done);
    }
    // Or else nothing is left for the next one.
    front.remove_own(FLOODED);
}

/// Takes its page and port away from the backend in the middle of anything, and offers others.
fn offer(front: &mut XenFront, random: &mut Random, done: &mut Done) {
    front.forget();
    if random.below(2) == 0 {
        write(front, key::STATE, b"4", done);
    }
    connect(front, random, done);
}

fn write(front: &mut XenFront, name: &str, value: &[u8], done: &mut Done) {
    done.nodes += 1;
    done.refused += u32::from(!front.write_own(name, value));
}
