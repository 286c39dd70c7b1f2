//! Writes to configuration space, as a stub asks for them.

use super::*;
use fakes::World;
use pcidom_abi::{DeviceNode, paths};
use std::time::Duration;

const PMCSR: usize = PM + 4;

#[test]
fn a_write_reaches_its_register_and_no_neighbour() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.set_config(NVME, |config| config.set_word(6, 0x1230 | 0x10));
    let before = bench.config(NVME);
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, 4, 2, 0xffff, 0x0014), &[]), success(0));
    let after = bench.config(NVME);
    assert_eq!(after.word(4), 0x0017);
    assert_eq!(after.bytes[..4], before.bytes[..4]);
    assert_eq!(after.bytes[6..], before.bytes[6..]);
    bench.assert_sound();
}

#[test]
fn intx_is_as_the_guest_wants_it_after_its_vectors() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let intx = |value| conf_write(NVME, 4, 2, value, 0x0400);
    for (before, during, after) in
        [(0, None, 0), (0x400, None, 0x400), (0, Some(0x400), 0x400), (0x400, Some(0), 0), (0, Some(0), 0)]
    {
        assert_eq!(bench.ask(&mut broker, STUB, &intx(before), &[]), success(0));
        bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0]), &[0]);
        if let Some(during) = during {
            assert_eq!(bench.ask(&mut broker, STUB, &intx(during), &[]), success(0));
        }
        bench.assert_sound();
        // A second set is no new "before".
        bench.ask(&mut broker, STUB, &request(BrokerCommand::EnableMsi, NVME), &[]);
        bench.ask(&mut broker, STUB, &request(BrokerCommand::DisableMsix, NVME), &[]);
        assert_eq!(u32::from(bench.config(NVME).word(4) & INTX_OFF), after, "{before:#x} {during:x?}");
        bench.assert_sound();
    }
}

#[test]
fn a_device_gets_the_time_that_a_power_state_takes() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let clock = || bench.machine.with(|world| world.clock);
    for (state, at_least) in [(3, 10_000), (0, 10_000), (2, 200), (0, 200), (0, 0)] {
        let before = clock();
        assert_eq!(bench.ask(&mut broker, STUB, &conf_write(E1000, PMCSR, 2, state, 3), &[]), success(0));
        let took = clock() - before;
        assert!(took >= Duration::from_micros(at_least) && took < Duration::from_millis(100), "{state}: {took:?}");
        assert_eq!(u32::from(bench.config(E1000).word(PMCSR)) & 3, state);
    }
}

#[test]
fn a_device_that_wakes_has_its_header_again() {
    let bench = Bench::new();
    let process = bench.process();
    // Asleep since before this broker; its reset has taken the addresses.
    bench.set_config(NVME, |config| {
        config.set_word(PMCSR, 0x0103);
        config.set_word(4, 0x0404);
        config.bytes[0x0c] = 0x10;
        config.bytes[0x3c] = 23;
    });
    let mut broker = bench.start(&process);
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, PMCSR, 2, 0, 3), &[]), success(0));
    let config = bench.config(NVME);
    assert_eq!((config.word(0x10), config.word(0x12), config.word(0x14)), (0, 0xc000, 8), "BAR 0 as in sysfs");
    assert_eq!((config.word(4), config.bytes[0x0c], config.bytes[0x3c]), (0x0406, 0x10, 23));
    assert_eq!(config.word(PMCSR), 0x0100);
}

#[test]
fn a_device_that_loses_its_registers_in_its_sleep_has_all_of_them_again() {
    // Power management says whether it does (No_Soft_Reset); one that keeps them keeps what its guest wrote.
    for keeps in [0, 8] {
        let bench = Bench::new();
        let process = bench.process();
        let mut broker = bench.start(&process);
        let saved =
            "identity:0:0\nplain:60:4:ffffff00:2937000\nopen:64:4:ffffffff:77\nplain:d:1:ff:20\nplain:4:2:3f8:140\n";
        bench.machine.tree.write(format!("pristine/{NVME}"), saved);
        bench.set_config(NVME, |config| {
            config.set_word(PMCSR, 0x0003 | keeps);
            config.set_word(4, 0x0040 | 0x0406);
            config.set(0x60, &[0x55; 8]);
            config.bytes[0x0d] = 0;
        });
        assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, PMCSR, 2, 0, 3), &[]), success(0));
        let config = bench.config(NVME);
        let lost = keeps == 0;
        assert_eq!(config.bytes[0x60..0x64], if lost { [0x55, 0x70, 0x93, 0x02] } else { [0x55; 4] });
        assert_eq!(config.bytes[0x64..0x68], [0x55; 4], "a vendor's own");
        assert_eq!((config.word(0x10), config.word(0x12)), (0, 0xc000), "addresses in any case");
        // What the guest has in Command counts, and its latency timer.
        assert_eq!((config.word(4), config.bytes[0x0d]), (0x0446, 0));
    }
}

#[test]
fn a_card_that_is_not_the_one_that_was_saved_gets_nothing_of_it() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    for saved in ["identity:1:2\nplain:60:4:ffffff00:2937000\n", "nonsense", "identity:0:0\nplain:61:4:1:1\n"] {
        bench.machine.tree.write(format!("pristine/{NVME}"), saved);
        bench.set_config(NVME, |config| config.set_word(PMCSR, 3));
        let before = bench.config(NVME).bytes[0x60..0x64].to_vec();
        assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, PMCSR, 2, 0, 3), &[]), success(0));
        assert_eq!(bench.config(NVME).bytes[0x60..0x64], before, "{saved}");
    }
}

#[test]
fn a_device_that_slept_with_vectors_has_them_again() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0, 1]), &[0, 1]);
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, PMCSR, 2, 3, 3), &[]), success(0));
    // Its reset takes Enable too.
    bench.set_config(NVME, |config| config.set_word(MSIX + 2, TABLE_ENTRIES - 1));
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, PMCSR, 2, 0, 3), &[]), success(0));
    assert_eq!(*bench.physdev.restored.borrow(), [device(NVME)]);
    bench.assert_sound();
}

#[test]
fn what_is_not_on_the_list_changes_nothing() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let before = bench.config(NVME).bytes;
    let denied = refused(ErrorCode::AccessDenied);
    for (offset, size, mask) in [
        (0x10, 4, 0xffff_ffff),    // a BAR
        (0x30, 4, 1),              // the ROM
        (4, 2, 3),                 // decoders
        (6, 2, 0xf900),            // status
        (MSI + 2, 2, 1),           // MSI control
        (MSI + 4, 4, 0xffff_ffff), // message address
        (MSI + 12, 2, 0xffff),     // message data
        (MSIX + 2, 2, 0x8000),     // MSI-X control
        (0x100, 4, 1),             // extended space
    ] {
        let write = conf_write(NVME, offset, size, mask, mask);
        assert_eq!(bench.ask(&mut broker, STUB, &write, &[]), denied, "{offset:#x}");
    }
    let bad = refused(ErrorCode::InvalidOffset);
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, 5, 2, 4, 4), &[]), bad);
    assert_eq!(bench.config(NVME).bytes, before);
}

/// A device with something of its vendor at a0, and PCI Express at 80.
fn assign_with_policy(bench: &Bench, policy: &str) {
    bench.set_config(NVME, |config| {
        config.add_capability(0x70, 0x11, 0x80);
        config.set_word(0x72, TABLE_ENTRIES - 1);
        config.add_capability(0x80, 0x10, 0xc0);
        config.set_word(0x82, 2);
        config.add_capability(0xc0, 0x09, 0);
        config.set_word(0x88, 0x2810);
        config.set_word(0x8a, 0x000f);
    });
    bench.permit(NVME, policy);
}

#[test]
fn a_permissive_device_is_written_where_it_harms_no_other_function() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    assign_with_policy(&bench, "permissive=1");
    let mut ask = |offset, size, value, mask| {
        bench.ask(&mut broker, STUB, &conf_write(NVME, offset, size, value, mask), &[]).code
    };
    assert_eq!(ask(0xc4, 4, 0x1234_5678, 0xffff_ffff), ErrorCode::Success);
    assert_eq!(bench.config(NVME).bytes[0xc4..0xc8], [0x78, 0x56, 0x34, 0x12]);
    assert_eq!(ask(0xc5, 1, 0xff, 0x0f), ErrorCode::Success);
    assert_eq!(bench.config(NVME).bytes[0xc5], 0x5f);
    // Errors that the guest did not mean to clear are written as zeros.
    assert_eq!(ask(0x88, 4, 0x0001_5010, 0x0001_7010), ErrorCode::Success);
    assert_eq!((bench.config(NVME).word(0x88), bench.config(NVME).word(0x8a)), (0x5810, 0x0001));
    assert_eq!(ask(4, 2, 0x0208, 0x0208), ErrorCode::Success);
    // A reset, the payload's size, decoding, a BAR, MSI's address, MSI-X's table, a capability's header, Command beside SERR#.
    for (offset, size, mask) in [
        (0x88, 2, 0x8000),
        (0x88, 2, 0x00e0),
        (0x04, 2, 0x0002),
        (0x10, 4, 0xffff_fff0),
        (0x54, 4, 0xffff_fffc),
        (0x72, 2, 0x8000),
        (0x74, 4, 0xffff_fff8),
        (0xc0, 2, 0x00ff),
        (0x04, 2, 0x0108),
        (0x2c, 4, 0xffff_ffff),
    ] {
        assert_eq!(ask(offset, size, mask, mask), ErrorCode::AccessDenied, "{offset:#x} {mask:#x}");
    }
    bench.assert_sound();
}

#[test]
fn the_policy_node_that_a_stub_reads_opens_nothing() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    assign_with_policy(&bench, "permissive=0,quirk=c4:2:ff0f,quirk=88:2:ffff");
    // The pool is what the stub reads; the broker does not.
    bench
        .machine
        .with(|world| world.write(&path::child(&paths::pool_dir(STUB, device(NVME)), "policy"), "permissive=1"));
    let mut ask =
        |offset, size, mask| bench.ask(&mut broker, STUB, &conf_write(NVME, offset, size, mask, mask), &[]).code;
    assert_eq!(ask(0xc4, 2, 0xff0f), ErrorCode::Success);
    assert_eq!(ask(0xc4, 2, 0x0008), ErrorCode::Success);
    assert_eq!(ask(0x88, 2, 0xffff), ErrorCode::Success, "what of the quirk harms nobody");
    assert_eq!(ask(0xc4, 4, 0xffff_ffff), ErrorCode::Success, "at the register's own width");
    for (offset, size, mask) in [(0xc4, 2, 0x00f0), (0xc6, 2, 1), (0xc8, 4, 1), (0x88, 2, 0x8000), (0xc4, 2, 0)] {
        assert_eq!(ask(offset, size, mask), ErrorCode::AccessDenied, "{offset:#x} {mask:#x}");
    }
    assert_eq!(bench.config(NVME).word(0xc4), 0xff0f);
    bench.assert_sound();
}

#[test]
fn without_a_list_that_makes_sense_nothing_is_turned_on() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let before = bench.config(NVME).bytes;
    let node = DeviceNode::PermittedWrites.of(device(NVME));
    let ask = |broker: &mut Broker<'_, FakeRings>| {
        let requests = [
            conf_write(NVME, 4, 2, 4, 4),
            request(BrokerCommand::EnableMsi, NVME),
            Request { info: 2, ..request(BrokerCommand::EnableMultiMsi, NVME) },
            enable_msix(NVME, &[0]),
        ];
        requests.map(|request| bench.ask(broker, STUB, &request, &[]))
    };
    for value in [
        "",
        "permissive=1",
        "power:40 command:4:2:414:0",
        "identity:0:0 command:4:2:414",
        "identity:0:0 command:4:2:414:0 future:1",
    ] {
        bench.machine.with(|world| world.write(&node, value));
        assert_eq!(ask(&mut broker), [(); 4].map(|()| refused(ErrorCode::OpFailed)), "{value:?}");
    }
    bench.machine.with(|world| world.remove(&node));
    assert_eq!(ask(&mut broker), [(); 4].map(|()| refused(ErrorCode::OpFailed)));
    let notes = bench.notes();
    let told = "permitted-writes node is missing or of another version: detach and attach it";
    assert!(notes.iter().any(|note| note.contains(told)), "{notes:?}");
    assert_eq!(bench.config(NVME).bytes, before);
    bench.permit(NVME, "permissive=0");
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, 4, 2, 4, 4), &[]), success(0));
}

#[test]
fn without_a_list_that_makes_sense_what_is_on_is_turned_off() {
    for value in [None, Some("power:40 command:4:2:414:0")] {
        for (command, command_register) in
            [(BrokerCommand::DisableMsix, 3), (BrokerCommand::DisableMsi, 3), (BrokerCommand::Quiesce, 3)]
        {
            let bench = Bench::busy();
            let process = bench.process();
            let mut broker = bench.start(&process);
            bench.set_config(NVME, |config| config.set_word(COMMAND, config.word(COMMAND) | 4));
            let node = DeviceNode::PermittedWrites.of(device(NVME));
            bench.machine.with(|world| match value {
                Some(value) => world.write(&node, value),
                None => world.remove(&node),
            });
            let found = bench.ask(&mut broker, STUB, &request(BrokerCommand::Query, NVME), &[]);
            assert_eq!((found.code, found.value, found.info), (ErrorCode::Success, 0, 2), "{value:?}");
            assert_eq!(bench.ask(&mut broker, STUB, &request(command, NVME), &[]), success(0), "{value:?}");
            assert!(bench.mapped(NVME).is_empty() && bench.vectors(NVME) == Vectors::None, "{value:?}");
            assert_eq!(bench.config(NVME).word(COMMAND), command_register, "no DMA, INTx as the guest had it");
            assert_eq!(bench.mapped(E1000).len(), 2, "the other device keeps its vectors");
        }
    }
}

#[test]
fn another_card_in_the_slot_is_not_written() {
    let bench = Bench::busy();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let requests = [
        conf_write(NVME, 4, 2, 4, 4),
        request(BrokerCommand::EnableMsi, NVME),
        request(BrokerCommand::DisableMsix, NVME),
        request(BrokerCommand::Quiesce, NVME),
    ];
    for (offset, value) in [(0, 0x8086), (2, 0x1533), (8, 0x0003), (10, 0x0200)] {
        bench.set_config(NVME, |config| config.set_word(offset, value));
        let before = bench.config(NVME).bytes;
        for request in requests {
            let code = bench.ask(&mut broker, STUB, &request, &[]).code;
            assert_eq!(code, ErrorCode::DevNotFound, "{offset:#x}: {request}");
        }
        assert_eq!(bench.config(NVME).bytes, before, "{offset:#x}");
        bench.set_config(NVME, |config| config.set_word(offset, 0));
    }
    let (notes, told) = (bench.notes(), "in whose place there is another card: detach and attach it");
    assert!(notes.iter().any(|note| note.contains(told)), "{notes:?}");
    // One that does not answer is no other.
    bench.set_config(NVME, |config| config.bytes[..4].fill(0xff));
    bench.set_config(NVME, |config| config.bytes[8..12].fill(0xff));
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, 4, 2, 4, 4), &[]), success(0));
    bench.set_config(NVME, |config| config.bytes[..4].fill(0));
    bench.set_config(NVME, |config| config.bytes[8..12].fill(0));
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::DisableMsix, NVME), &[]), success(0));
    bench.assert_sound();
}

#[test]
fn vectors_of_a_hidden_capability_are_not_mapped() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.permit(NVME, "permissive=0,hide=5,hide=11");
    for request in [enable_msix(NVME, &[0]), request(BrokerCommand::EnableMsi, NVME)] {
        assert_eq!(bench.ask(&mut broker, STUB, &request, &[0]).code, ErrorCode::OpFailed);
    }
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::Query, NVME), &[]), success(0));
    bench.assert_sound();
}

/// Takes the device back as a command does that did not wait for the broker: the phase, then the registers.
fn taken_back(world: &mut World) {
    set_phase(world, Phase::Detaching);
}

#[test]
fn nothing_is_turned_on_in_a_device_that_was_taken_back_meanwhile() {
    let list = DeviceNode::PermittedWrites.of(device(NVME));
    for (write, opened) in [
        (conf_write(NVME, 4, 2, 0x0004, 0x0404), false),
        (conf_write(NVME, 4, 2, 0x0000, 0x0400), false),
        (conf_write(NVME, 0xc4, 2, 0x1234, 0xffff), true),
    ] {
        let bench = Bench::new();
        let process = bench.process();
        let mut broker = bench.start(&process);
        if opened {
            assign_with_policy(&bench, "permissive=1");
        }
        bench.set_config(NVME, |config| config.set_word(4, 0x0402));
        // The last that is read before the write.
        bench.machine.with(|world| world.after_read = Some((list.clone(), Box::new(taken_back))));
        let heard = bench.ask(&mut broker, STUB, &write, &[]);
        assert_eq!(heard.code, ErrorCode::DevNotFound, "{write}");
        assert!(bench.config(NVME).is_quiesced(), "{write}: {:#x}", bench.config(NVME).word(4));
    }
}

#[test]
fn a_device_that_was_taken_back_while_it_woke_has_its_addresses_and_is_quiesced() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.set_config(NVME, |config| {
        config.set_word(PMCSR, 0x0103);
        config.set_word(4, 0x0006); // the guest's driver has bus mastering on
    });
    bench.machine.with(|world| world.during_pause = Some(Box::new(taken_back)));
    let heard = bench.ask(&mut broker, STUB, &conf_write(NVME, PMCSR, 2, 0, 3), &[]);
    assert_eq!(heard.code, ErrorCode::DevNotFound);
    let config = bench.config(NVME);
    assert!(config.is_quiesced(), "{:#x}", config.word(4));
    assert_eq!((config.word(0x10), config.word(0x12), config.word(0x14)), (0, 0xc000, 8), "BAR 0 as in sysfs");
    assert_eq!(config.word(4) & 2, 2, "it decodes");
}

#[test]
fn the_next_guest_keeps_its_interrupt_line_when_an_old_write_is_undone() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let next = |world: &mut fakes::World| {
        world.write("/tool/pcidom/device/0000-00-07-0/frontend", "6");
        set_phase(world, Phase::Attaching);
    };
    let list = DeviceNode::PermittedWrites.of(device(NVME));
    bench.machine.with(|world| world.after_read = Some((list, Box::new(next))));
    let heard = bench.ask(&mut broker, STUB, &conf_write(NVME, 4, 2, 0x0004, 0x0004), &[]);
    assert_eq!(heard.code, ErrorCode::DevNotFound);
    assert_eq!(bench.config(NVME).word(4), 0x0003, "no bus mastering, INTx as prepared");
}

fn set_phase(world: &mut World, phase: Phase) {
    world.write("/tool/pcidom/device/0000-00-07-0/phase", phase.name());
}
