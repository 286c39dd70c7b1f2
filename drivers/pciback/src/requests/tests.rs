use pciif::{Command, ErrorCode, ReadRequest, Reply, Request};
use proptest::prelude::*;
use xen_types::Sbdf;

use super::execute::Executed;
use super::*;
use crate::config::fakes::{Known, Memory, network_card, network_card_known};
use crate::config::{Register, VirtualConfig};
use crate::topology::{DeviceId, ExportMode, Topology, Traits};

const DEVICE: Sbdf = Sbdf::from_devfn(0, 0, 0);
const ABSENT: Sbdf = Sbdf::from_devfn(0, 0, 8);

/// One frontend with one network card at 0000:00:00.0.
struct Frontend {
    topology: Topology,
    function: AssignedFunction,
    hw: Memory,
    counters: Counters,
    is_served: bool,
}

fn assign(known: &Known, hw: &Memory) -> AssignedFunction {
    AssignedFunction::new(VirtualConfig::new(&known.description(), hw))
}

impl Frontend {
    fn new() -> Self {
        let hw = network_card();
        let mut topology = Topology::new(ExportMode::Vpci);
        topology.add(DeviceId(9), Sbdf::from_devfn(0, 3, 0), Traits::default(), None).expect("room");
        Self {
            topology,
            function: assign(&network_card_known(), &hw),
            hw,
            counters: Counters::default(),
            is_served: true,
        }
    }

    /// As a frontend's page is served.
    fn execute(&mut self, request: &Request) -> Executed {
        let Self { topology, function, hw, counters, is_served } = self;
        if request.command() == Some(Command::ConfRead) {
            let &Request { domain, bus, devfn, offset, size, .. } = request;
            let as_read = ReadRequest { domain, bus, devfn, offset, size };
            let function = &mut *function;
            match read(&as_read, topology, |_| is_served.then_some((function, &*hw)), counters) {
                ReadOutcome::Done(err, value) => {
                    let (answer, device) = (Answer::Now(Reply::error(err, value)), Some(DeviceId(9)));
                    return Executed { answer, device, notice: None, is_loss: false };
                }
                ReadOutcome::Absent | ReadOutcome::Lost(..) => {}
            }
        }
        let find = |id| {
            assert_eq!(id, DeviceId(9));
            is_served.then_some((function, &*hw))
        };
        execute(request, topology, find, counters)
    }

    fn reply(&mut self, request: &Request) -> (i32, u32) {
        match self.execute(request).answer {
            Answer::Now(reply) => {
                assert!(reply.vectors.is_empty());
                (reply.err.raw(), reply.value)
            }
            other => panic!("{request} leaves {other:?}"),
        }
    }

    fn job(&mut self, request: &Request) -> BrokerRequest {
        match self.execute(request).answer {
            Answer::Later(job) => job,
            other => panic!("{request} is answered {other:?}"),
        }
    }

    /// As if the broker had answered like this.
    fn conclude(&mut self, request: &Request, answer: Option<BrokerAnswer>) -> ((i32, u32), Option<LogOnce>) {
        let job = self.job(request);
        let verdict = job.verdict(answer.as_ref());
        let (reply, notice) = job.reply(verdict, request, &mut self.function, answer.as_ref(), &mut self.counters);
        ((reply.err.raw(), reply.value), self.function.news(notice))
    }

    fn read(&mut self, offset: i32, size: i32) -> (i32, u32) {
        self.reply(&Request::conf_read(DEVICE, offset, size))
    }

    fn write(&mut self, offset: i32, size: i32, value: u32) -> i32 {
        self.reply(&Request::conf_write(DEVICE, offset, size, value)).0
    }

    fn command(&mut self, cmd: u32) -> (i32, u32) {
        self.reply(&Request { cmd, ..Request::conf_read(DEVICE, 0, 4) })
    }
}

#[test]
fn ids_are_read_as_in_the_specification() {
    let mut frontend = Frontend::new();
    assert_eq!(frontend.read(0, 4), (0, 0x1533_8086));
    assert_eq!(frontend.read(2, 2), (0, 0x1533));
    assert_eq!(frontend.counters, Counters { reads: count(2), ..Counters::default() });
}

fn count(times: u64) -> Count {
    let mut count = Count::default();
    (0..times).for_each(|_| count.bump());
    count
}

#[test]
fn a_function_that_is_not_there_is_an_error_and_all_ones() {
    let mut frontend = Frontend::new();
    for cmd in [0, 1, 2, 3, 4, 5, 10, 77] {
        let request = Request { cmd, ..Request::conf_read(ABSENT, 0, 3) };
        assert_eq!(frontend.reply(&request), (-1, 0xffff_ffff), "the look-up comes before command {cmd}");
    }
    let aliased = Request { devfn: 0x100, ..Request::conf_read(DEVICE, 0, 4) };
    let executed = frontend.execute(&aliased);
    assert_eq!(
        executed,
        Executed { answer: Answer::Now(Reply::NO_DEVICE), device: None, notice: None, is_loss: false }
    );
    assert_eq!(frontend.counters, Counters { no_device: count(9), ..Counters::default() });
}

#[test]
fn a_function_under_release_is_not_there() {
    let mut frontend = Frontend::new();
    frontend.is_served = false;
    assert_eq!(frontend.read(0, 4), (-1, 0xffff_ffff));
}

#[test]
fn bad_sizes_and_offsets_are_invalid_offsets() {
    let mut frontend = Frontend::new();
    assert_eq!(frontend.read(0, 3), (-2, 0));
    assert_eq!(frontend.read(3, 2), (-2, 0));
    assert_eq!(frontend.read(-4, 4), (-2, 0));
    assert_eq!(frontend.read(0x1000, 4), (-2, 0xffff_ffff));
    assert_eq!(frontend.write(0, 3, 1), -2);
    assert_eq!(frontend.write(0x1000, 4, 1), -2);
    assert_eq!(frontend.counters, Counters { bad_accesses: count(6), ..Counters::default() });
}

#[test]
fn unknown_commands_are_not_implemented() {
    let mut frontend = Frontend::new();
    for cmd in [6, 7, 8, 9, 11, 0x8000_0000, u32::MAX] {
        assert_eq!(frontend.command(cmd).0, -4, "command {cmd}");
    }
    assert_eq!(frontend.counters, Counters { unknown_commands: count(7), ..Counters::default() });
}

fn enable(command: Command, value: u32, info: u32) -> Request {
    Request { value, info, ..Request::new(command, DEVICE) }
}

#[test]
fn interrupts_are_checked_before_anybody_is_asked() {
    use Interrupts::{Msi, MsiX, Off};
    // What is on, what is asked for; the network card has one MSI vector and five MSI-X entries.
    let rows = [
        (Off, enable(Command::EnableMsi, 0, 0), Some(BrokerRequest::EnableMsi(1))),
        (Msi, enable(Command::EnableMsi, 0, 0), None),
        (MsiX, enable(Command::EnableMsi, 0, 0), None),
        (Off, enable(Command::EnableMultiMsi, 0, 1), Some(BrokerRequest::EnableMsi(1))),
        (Off, enable(Command::EnableMultiMsi, 0, 0), None),
        (Off, enable(Command::EnableMultiMsi, 0, 2), None),
        (Off, enable(Command::EnableMultiMsi, 0, u32::MAX), None),
        (Off, enable(Command::EnableMsix, 2, 0), Some(BrokerRequest::EnableMsix(2))),
        (MsiX, enable(Command::EnableMsix, 128, 0), Some(BrokerRequest::EnableMsix(128))),
        (Msi, enable(Command::EnableMsix, 2, 0), None),
        (Off, enable(Command::EnableMsix, 0, 0), None),
        (Off, enable(Command::EnableMsix, 129, 0), None),
        (Off, enable(Command::EnableMsix, 0x8000_0000, 0), None),
        (Off, enable(Command::EnableMsix, u32::MAX, 0), None),
        (Msi, enable(Command::DisableMsi, 0, 0), Some(BrokerRequest::Disable)),
        (Msi, enable(Command::DisableMsix, 0, 0), Some(BrokerRequest::Disable)),
        (MsiX, enable(Command::DisableMsi, 0, 0), Some(BrokerRequest::Disable)),
        (MsiX, enable(Command::DisableMsix, 0, 0), Some(BrokerRequest::Disable)),
    ];
    for (interrupts, request, want) in rows {
        let mut frontend = Frontend::new();
        frontend.function.interrupts = interrupts;
        match want {
            Some(job) => assert_eq!(frontend.job(&request), job, "{request} with {interrupts:?}"),
            None => assert_eq!(frontend.reply(&request), (-5, 0), "{request} with {interrupts:?}"),
        }
        assert_eq!(frontend.function.interrupts, interrupts);
    }
}

#[test]
fn a_function_without_the_capability_has_no_such_interrupts() {
    let mut frontend = Frontend::new();
    frontend.hw.set(0x06, &[0]);
    frontend.function = assign(&network_card_known(), &frontend.hw);
    assert_eq!(frontend.reply(&enable(Command::EnableMsi, 0, 0)), (-5, 0));
    assert_eq!(frontend.reply(&enable(Command::EnableMultiMsi, 0, 1)), (-5, 0));
    assert_eq!(frontend.reply(&enable(Command::EnableMsix, 1, 0)), (-5, 0));
}

#[test]
fn what_is_off_is_turned_off_by_nobody() {
    let mut frontend = Frontend::new();
    for cmd in [3, 5, 5] {
        assert_eq!(frontend.command(cmd), (0, 11));
    }
    assert_eq!(frontend.counters, Counters { interrupts_disabled: count(3), ..Counters::default() });
}

#[test]
fn entries_are_of_the_table_and_there_once() {
    let frontend = Frontend::new();
    let are_valid = |entries: &[u16]| {
        let list = entries.iter().map(|entry| pciif::layout::MsixEntry { vector: 0xffff, entry: *entry });
        are_entries_valid(&frontend.function, &frontend.hw, &list.collect::<Vec<_>>())
    };
    assert!(are_valid(&[0, 4, 2]));
    assert!(!are_valid(&[0, 5]), "the table has five");
    assert!(!are_valid(&[3, 0, 3]));
    assert!(!are_valid(&[2048]));
    assert!(!are_valid(&[0xffff]));
}

#[test]
fn what_is_virtual_takes_place_at_once_and_the_rest_is_for_the_broker() {
    let mut frontend = Frontend::new();
    frontend.hw.set(4, &[0x02]);
    assert_eq!(frontend.write(4, 2, 0x0002), 0);
    assert_eq!(frontend.read(4, 2), (0, 2));
    let command = Request::conf_write(DEVICE, 4, 2, 0x0007);
    for _ in 0..2 {
        let BrokerRequest::Write { now, then: None, failed: false } = frontend.job(&command) else { panic!("a write") };
        assert_eq!(
            (now.register, now.mask, now.value),
            (Register::Command, 4, 4),
            "the same when it is executed again"
        );
    }
    assert_eq!(frontend.read(4, 2), (0, 3), "the virtual part has taken place, bus master has not");
    assert_eq!(frontend.write(0x10, 4, u32::MAX), 0);
    assert_eq!(frontend.write(0x52, 2, 0x8000), -3);
    assert_eq!(frontend.write(0x62, 2, 0x0181), -3);
    assert_eq!(frontend.write(0x62, 2, 0x0180), 0);
    assert_eq!(frontend.write(0x2c, 4, 0), 0, "a gap is never an error");
    let want = Counters {
        reads: count(2),
        writes: count(4),
        dropped_writes: count(1),
        denied_writes: count(2),
        ..Counters::default()
    };
    assert_eq!(frontend.counters, want, "nothing is counted before it is answered");
}

#[test]
fn each_reason_is_told_once_while_a_function_is_assigned() {
    let mut frontend = Frontend::new();
    let requests = [
        (Request::conf_write(DEVICE, 0x2c, 4, 0), Some(LogOnce::DroppedWrite)),
        (Request::conf_write(DEVICE, 0x100, 4, 0), None),
        (Request::conf_write(DEVICE, 0x62, 2, 0x0181), None), // routine, and does not use up the next
        (Request::conf_write(DEVICE, 0x52, 2, 0x8000), Some(LogOnce::VpdWrite)),
        (enable(Command::EnableMsix, 0, 0), Some(LogOnce::BadInterrupts)),
        (enable(Command::EnableMultiMsi, 0, 3), None),
        (enable(Command::AerMmio, 0, 0), Some(LogOnce::UnknownCommand)),
        (Request::conf_read(DEVICE, 3, 2), None), // a guest could count through all of them
    ];
    let told = |frontend: &mut Frontend| requests.map(|(request, want)| (frontend.execute(&request).notice, want));
    assert!(told(&mut frontend).iter().all(|(got, want)| got == want));
    assert!(told(&mut frontend).iter().all(|(got, _)| got.is_none()));
    frontend.function.reset();
    assert!(told(&mut frontend).iter().all(|(got, want)| got == want), "the next guest's are told again");
}

fn answer(err: i32, value: u32, info: u32) -> BrokerAnswer {
    BrokerAnswer { err, value, info, vectors: [0; _] }
}

#[test]
fn the_broker_s_answers_become_the_guest_s() {
    let bus_master = Request::conf_write(DEVICE, 4, 2, 4);
    let power = Request::conf_write(DEVICE, 0x44, 2, 3);
    let msi = enable(Command::EnableMsi, 0, 0);
    let msix = enable(Command::EnableMsix, 1, 0);
    let mut vectors = answer(0, 7, 0);
    vectors.vectors[0] = 55;
    let rows = [
        (bus_master, None, (-3, 4), Some(LogOnce::NoBroker(Register::Command))),
        (bus_master, None, (-3, 4), None),
        (power, None, (-3, 3), Some(LogOnce::NoBroker(Register::PowerState))),
        (bus_master, Some(answer(0, 0, 0)), (0, 4), None),
        (power, Some(answer(-5, 0, 5)), (-3, 3), None), // told already that it was not written
        (
            Request::conf_write(DEVICE, 0x0c, 1, 8),
            Some(answer(77, 0, 1)),
            (-3, 8),
            Some(LogOnce::WriteRefused(Register::CacheLineSize)),
        ),
        (msi, None, (-5, 0), Some(LogOnce::NoInterrupts)),
        (msi, Some(answer(0, 55, 0)), (0, 55), None),
        (msi, Some(answer(0, 0, 0)), (-5, 0), None), // no pirq
        (msi, Some(answer(0, 0x1_0000, 0)), (-5, 0), None),
        (msi, Some(answer(-5, 1, 28)), (-5, 0), Some(LogOnce::OutOfInterrupts)),
        (msi, Some(answer(-1, 1, 1)), (-5, 0), Some(LogOnce::InterruptsRefused(xen_types::Errno::EPERM))),
        (msix, Some(vectors), (0, 0), None),
        (msix, Some(answer(0, 0, 0)), (-5, 0), None), // a vector that no guest would take
    ];
    let mut frontend = Frontend::new();
    frontend.hw.set(4, &[0x02]);
    for (request, answer, want, notice) in rows {
        let (reply, told) = frontend.conclude(&request, answer);
        assert_eq!((reply, told), (want, notice), "{request}: {answer:?}");
    }
    let want = Counters {
        writes: count(1),
        no_broker: count(5),
        interrupts_enabled: count(2),
        interrupts_refused: count(6),
        ..Counters::default()
    };
    assert_eq!(frontend.counters, want);
    let denied_writes: Vec<_> = frontend.function.denied_writes.iter().copied().collect();
    assert_eq!(denied_writes, [(4, 2), (0x44, 2), (0x0c, 1)], "what the broker did not write");
}

#[test]
fn notices_say_what_to_do_about_them() {
    assert_eq!(LogOnce::NoBroker(Register::Command).to_string(), "refused: no broker to write Command");
    assert!(LogOnce::OutOfInterrupts.to_string().contains("extra_guest_irqs="));
}

proptest! {
    #[test]
    fn any_request_is_answered(words in prop::array::uniform8(any::<u32>()), is_near in any::<bool>(), has_short_space in any::<bool>()) {
        let [cmd, domain, bus, devfn, offset, size, value, info] = words;
        // Words at random rarely name the device: bring half of the requests near it.
        let near = |word: u32, below: u32| if is_near { word % below } else { word };
        let request = Request {
            cmd: near(cmd, 12),
            domain: near(domain, 1),
            bus: near(bus, 1),
            devfn: near(devfn, 2),
            offset: near(offset, 4100).cast_signed(),
            size: near(size, 6).cast_signed(),
            value,
            info,
        };
        let mut frontend = Frontend::new();
        if has_short_space {
            frontend.hw.set(0x06, &[0]);
            frontend.function = assign(&network_card_known(), &frontend.hw);
        }
        let executed = frontend.execute(&request);
        let is_absent = matches!(executed.answer, Answer::Now(Reply { err: ErrorCode::DevNotFound, .. }));
        prop_assert_eq!(executed.device.is_none(), is_absent);
        prop_assert_eq!(executed.device.is_some(), request.domain | request.bus | request.devfn == 0);
    }
}

#[test]
fn what_the_policy_may_open_goes_to_the_broker_as_it_was_asked() {
    let mut frontend = Frontend::new();
    frontend.function = assign(&network_card_known().with_policy("permissive=1"), &frontend.hw);
    for (offset, size, value, mask) in
        [(0x9c, 4, 0x1234_5678, u32::MAX), (0x9e, 2, 0xabcd, 0xffff), (0x2c, 1, 0xff, 0xff)]
    {
        let job = frontend.job(&Request::conf_write(DEVICE, offset, size, value));
        let asked = job.request(Sbdf::from_devfn(0, 3, 0));
        assert_eq!((asked.offset, asked.size, asked.value, asked.info), (offset, size, value, mask));
    }
    // What the broker refuses is dropped as ever, and what it could not be asked is an error.
    let request = Request::conf_write(DEVICE, 0x2c, 4, 7);
    let refusal = BrokerAnswer { err: -3, value: 0, info: 1, vectors: [0; pciif::layout::MAX_VECTORS] };
    assert_eq!(frontend.conclude(&request, Some(refusal)), ((0, 7), Some(LogOnce::DroppedWrite)));
    assert_eq!(frontend.conclude(&request, None), ((-3, 7), Some(LogOnce::NoBroker(Register::Open))));
}
