use proptest::prelude::*;
use xen_types::Sbdf;

use super::*;
use crate::config::Register;
use crate::config::tests::{Memory, network_card, network_card_info};
use crate::topology::{ExportMode, Traits};

const DEVICE: Sbdf = Sbdf::from_devfn(0, 0, 0);
const ABSENT: Sbdf = Sbdf::from_devfn(0, 0, 8);

/// One frontend with one network card at 0000:00:00.0.
struct Frontend {
    topology: Topology,
    function: LentFunction,
    hw: Memory,
    counters: Counters,
    is_served: bool,
}

impl Frontend {
    fn new() -> Self {
        let hw = network_card();
        let mut topology = Topology::new(ExportMode::Vpci);
        let info = network_card_info();
        topology.add(DeviceId(9), info.sbdf(), Traits::default(), None).expect("room");
        Self { topology, function: LentFunction::new(&info, &hw), hw, counters: Counters::default(), is_served: true }
    }

    fn execute(&mut self, request: &Request) -> Executed {
        let (function, hw, is_served) = (&mut self.function, &self.hw, self.is_served);
        let find = |id| {
            assert_eq!(id, DeviceId(9));
            is_served.then_some((function, hw))
        };
        execute(request, &self.topology, find, &mut self.counters)
    }

    fn reply(&mut self, request: &Request) -> (i32, u32) {
        let reply = self.execute(request).reply;
        assert!(reply.vectors.is_empty());
        (reply.err.raw(), reply.value)
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
    assert_eq!(executed, Executed { reply: Reply::NO_DEVICE, device: None, notice: None });
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
    for cmd in [6, 7, 8, 9, 10, 11, 0x8000_0000, u32::MAX] {
        assert_eq!(frontend.command(cmd).0, -4, "command {cmd}");
    }
    assert_eq!(frontend.counters, Counters { unknown_commands: count(8), ..Counters::default() });
}

#[test]
fn interrupts_cannot_be_enabled_and_are_disabled_always() {
    let mut frontend = Frontend::new();
    assert_eq!(frontend.command(2), (-5, 0));
    assert_eq!(frontend.command(4), (-5, 0));
    assert_eq!(frontend.command(3), (0, 11));
    assert_eq!(frontend.command(5), (0, 11));
    assert_eq!(frontend.command(5), (0, 11));
    let want = Counters { interrupts_refused: count(2), interrupts_disabled: count(3), ..Counters::default() };
    assert_eq!(frontend.counters, want);
}

#[test]
fn virtual_writes_succeed_and_hardware_writes_need_a_broker() {
    let mut frontend = Frontend::new();
    frontend.hw.set(4, &[0x02]);
    assert_eq!(frontend.write(4, 2, 0x0002), 0);
    assert_eq!(frontend.read(4, 2), (0, 2));
    assert_eq!(frontend.write(4, 2, 0x0007), -3);
    assert_eq!(frontend.read(4, 2), (0, 3), "the virtual part has taken place, bus master has not");
    assert_eq!(frontend.write(0x10, 4, u32::MAX), 0);
    assert_eq!(frontend.write(0x44, 2, 3), -3);
    assert_eq!(frontend.write(0x52, 2, 0x8000), -3);
    assert_eq!(frontend.write(0x62, 2, 0x0181), -3);
    assert_eq!(frontend.write(0x62, 2, 0x0180), 0);
    assert_eq!(frontend.write(0x2c, 4, 0), 0, "a gap is never an error");
    let want = Counters {
        reads: count(2),
        writes: count(4),
        dropped_writes: count(1),
        no_broker: count(2),
        denied_writes: count(2),
        ..Counters::default()
    };
    assert_eq!(frontend.counters, want);
}

#[test]
fn each_reason_is_told_once_while_a_function_is_lent() {
    let mut frontend = Frontend::new();
    let requests = [
        (Request::conf_write(DEVICE, 0x2c, 4, 0), Some(Notice::DroppedWrite)),
        (Request::conf_write(DEVICE, 0x100, 4, 0), None),
        (Request::conf_write(DEVICE, 4, 2, 0), Some(Notice::NoBroker(Register::Command))),
        (Request::conf_write(DEVICE, 0x44, 2, 3), Some(Notice::NoBroker(Register::PowerState))),
        (Request::conf_write(DEVICE, 4, 2, 0), None),
        (Request::conf_write(DEVICE, 0x62, 2, 0x0181), None), // routine, and does not use up the next
        (Request::conf_write(DEVICE, 0x52, 2, 0x8000), Some(Notice::VpdWrite)),
        (Request::new(Command::EnableMsi, DEVICE), Some(Notice::NoInterrupts)),
        (Request::new(Command::EnableMsix, DEVICE), None),
        (Request::new(Command::EnableMultiMsi, DEVICE), Some(Notice::UnknownCommand)),
        (Request::conf_read(DEVICE, 3, 2), None), // a guest could count through all of them
    ];
    let told = |frontend: &mut Frontend| requests.map(|(request, want)| (frontend.execute(&request).notice, want));
    assert!(told(&mut frontend).iter().all(|(got, want)| got == want));
    assert!(told(&mut frontend).iter().all(|(got, _)| got.is_none()));
    frontend.function.reset();
    assert!(told(&mut frontend).iter().all(|(got, want)| got == want), "the next guest's are told again");
}

#[test]
fn notices_say_what_to_do_about_them() {
    assert_eq!(Notice::NoBroker(Register::Command).to_string(), "refused: no broker to write Command");
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
            frontend.function = LentFunction::new(&network_card_info(), &frontend.hw);
        }
        let executed = frontend.execute(&request);
        prop_assert_eq!(executed.device.is_none(), executed.reply.err == ErrorCode::DevNotFound);
        prop_assert_eq!(executed.device.is_some(), request.domain | request.bus | request.devfn == 0);
    }
}
