//! Vectors, as a stub asks for them.

use super::*;
use dom0::xen::{Physdev as _, Vector};
use pcidom_abi::paths;

fn exhausted() -> Heard {
    Heard { code: ErrorCode::OpFailed, value: 0, info: 28, vectors: Vec::new() }
}

#[test]
fn msix_entries_become_pirqs_in_their_order() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let heard = bench.ask(&mut broker, STUB, &enable_msix(NVME, &[5, 0, 63]), &[5, 0, 63]);
    assert_eq!(heard, Heard { vectors: vec![55, 54, 53], ..success(0) });
    assert_eq!(bench.vectors(NVME).to_string(), "msix 5:55 0:54 63:53");
    bench.assert_sound();
    let query = bench.ask(&mut broker, STUB, &request(BrokerCommand::Query, NVME), &[]);
    assert_eq!((query.code, query.value, query.info), (ErrorCode::Success, 3, 3));
}

#[test]
fn a_virtual_function_has_vectors_while_its_physical_one_decodes() {
    let bench = Bench::new();
    bench.machine.make_virtual(NVME);
    bench.permit(NVME, "permissive=0");
    let process = bench.process();
    let mut broker = bench.start(&process);
    let physical = bench.config(PHYSICAL);
    for (offset, value) in [(4, 0x0004), (0x108, 0x0001)] {
        bench.set_config(PHYSICAL, |config| config.set_word(offset, value));
        let heard = bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0]), &[0]);
        assert_eq!((heard.code, heard.info), (ErrorCode::OpFailed, 1), "{offset:#x}");
        bench.set_config(PHYSICAL, |config| *config = physical.clone());
    }
    assert_eq!(bench.vectors(NVME), Vectors::None);
    let heard = bench.ask(&mut broker, STUB, &enable_msix(NVME, &[1, 0]), &[1, 0]);
    assert_eq!(heard, Heard { vectors: vec![55, 54], ..success(0) });
    assert_eq!(bench.config(NVME).word(COMMAND) & 3, 0, "no decoder is its own");
    assert_eq!(bench.config(PHYSICAL).bytes, physical.bytes, "and dom0's function is left alone");
    bench.ask(&mut broker, STUB, &request(BrokerCommand::DisableMsix, NVME), &[]);
    assert_eq!(bench.mapped(NVME).len(), 0);
    bench.machine.assert_no_violations();
}

#[test]
fn a_virtual_function_that_wakes_has_no_addresses_to_get_back() {
    let bench = Bench::new();
    bench.machine.make_virtual(NVME);
    bench.permit(NVME, "permissive=0");
    bench.set_config(NVME, |config| config.set_word(PM + 4, 3));
    let process = bench.process();
    let mut broker = bench.start(&process);
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, PM + 4, 2, 0, 3), &[]), success(0));
    let config = bench.config(NVME);
    assert_eq!((config.word(PM + 4), config.word(0x10), config.word(0x12), config.word(4) & 3), (0, 0, 0, 0));
}

#[test]
fn msi_is_one_vector_or_a_block() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::EnableMsi, E1000), &[]), success(55));
    bench.assert_sound();
    let block = Request { info: MSI_VECTORS, ..request(BrokerCommand::EnableMultiMsi, E1000) };
    let heard = bench.ask(&mut broker, STUB, &block, &[]);
    assert_eq!((heard.code, heard.value), (ErrorCode::Success, 48));
    assert_eq!(bench.vectors(E1000).pirqs().len(), 8);
    bench.assert_sound();
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::DisableMsi, E1000), &[]), success(0));
    assert_eq!(bench.mapped(E1000).len(), 0);
    bench.assert_sound();
}

/// The device model of an HVM guest maps vectors by itself, and writes the control words.
#[test]
fn a_device_model_turns_msi_on_where_xen_has_a_vector_and_nothing_beside_it() {
    let bench = Bench::new();
    bench.permit(E1000, "permissive=0,interrupt-control=1");
    let process = bench.process();
    let mut broker = bench.start(&process);
    let mut ask = |request: Request| bench.ask(&mut broker, STUB, &request, &[]);
    let msi = |value| conf_write(E1000, MSI + 2, 2, value, 1);
    let msix = |value| conf_write(E1000, MSIX + 2, 2, value, 0xc000);
    let line = |value| conf_write(E1000, COMMAND, 2, value, INTX_OFF.into());
    let denied = refused(ErrorCode::AccessDenied);
    // There is a message, of a vector that somebody had once.
    bench.set_config(E1000, |config| config.set_word(MSI + 6, 0xfee0));
    assert_eq!(ask(msi(1)), denied);
    assert_eq!((bench.config(E1000).word(MSI + 2) & 1, bench.config(E1000).word(MSI + 6)), (0, 0));
    let mapped = bench.physdev.map(WEB, device(E1000), Vector::Msi { count: 1 }).unwrap();
    assert_eq!(ask(msi(1)), success(0));
    assert_eq!((bench.config(E1000).word(MSI + 2) & 1, bench.config(E1000).word(MSI + 6)), (1, 0xfee0));
    assert_eq!((ask(msix(0x8000)), ask(line(0))), (denied.clone(), denied.clone()));
    assert_eq!((ask(msix(0x4000)), ask(line(0x400)), ask(line(0))), (success(0), success(0), denied.clone()));
    assert_eq!((ask(msi(0)), ask(line(0))), (success(0), success(0)));
    bench.machine.host.hypervisor.unmap_pirq(WEB, mapped).unwrap();
    // Entries of MSI-X are masked until Xen maps them, so a driver may turn it on before.
    assert_eq!((ask(msix(0xc000)), ask(msi(1)), ask(msix(0x8000)), ask(line(0))), {
        (success(0), denied.clone(), success(0), denied.clone())
    });
    assert_eq!(bench.config(E1000).word(MSIX + 2) & 0xc000, 0x8000);
    // It maps nothing for such a guest.
    assert_eq!(ask(request(BrokerCommand::EnableMsi, E1000)), refused(ErrorCode::OpFailed));
    assert_eq!(ask(request(BrokerCommand::Quiesce, E1000)), success(0));
    bench.assert_sound();
    // Neither is any of it another guest's.
    assert_eq!(ask(conf_write(NVME, MSIX + 2, 2, 0x8000, 0x8000)), denied);
}

#[test]
fn a_device_model_has_its_vectors_again_when_its_device_wakes() {
    let bench = Bench::new();
    bench.permit(NVME, "permissive=0,interrupt-control=1");
    bench.set_config(NVME, |config| config.set_word(PM + 4, 3));
    let process = bench.process();
    let mut broker = bench.start(&process);
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, MSIX + 2, 2, 0x8000, 0xc000), &[]).code, {
        ErrorCode::AccessDenied
    });
    assert_eq!(bench.ask(&mut broker, STUB, &conf_write(NVME, PM + 4, 2, 0, 3), &[]), success(0));
    assert_eq!(*bench.physdev.restored.borrow(), [device(NVME)]);
}

#[test]
fn a_new_set_replaces_the_old_one() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    // What Debian's NVMe driver does (docs/protocol.md §4.3).
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0]), &[0]);
    bench.ask(&mut broker, STUB, &request(BrokerCommand::DisableMsi, NVME), &[]);
    assert_eq!(bench.vectors(NVME), Vectors::None, "either command turns off what is on");
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0]), &[0]);
    let heard = bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0, 1]), &[0, 1]);
    assert_eq!(heard, Heard { vectors: vec![55, 54], ..success(0) });
    bench.assert_sound();
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::EnableMsi, NVME), &[]), success(55));
    bench.assert_sound();
}

#[test]
fn turning_off_what_is_off_succeeds() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let before = bench.config(NVME).bytes;
    for command in [BrokerCommand::DisableMsi, BrokerCommand::DisableMsix] {
        assert_eq!(bench.ask(&mut broker, STUB, &request(command, NVME), &[]), success(0));
    }
    assert_eq!(bench.config(NVME).bytes, before);
}

#[test]
fn the_table_is_reached_before_it_is_written() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.set_config(NVME, |config| config.set_word(4, 1));
    let heard = bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0]), &[0]);
    assert_eq!(heard.code, ErrorCode::Success, "{heard:?}");
    assert_eq!(bench.config(NVME).word(4) & 2, 2);
}

#[test]
fn a_guest_that_is_out_of_pirqs_keeps_none_of_the_set_and_is_told_why() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let many: Vec<u16> = (0..40).collect();
    let heard = bench.ask(&mut broker, STUB, &enable_msix(NVME, &many), &many);
    assert_eq!((heard.code, heard.info), (ErrorCode::OpFailed, 28));
    assert_eq!(bench.mapped(NVME).len(), 0);
    bench.assert_sound();
    for _ in 0..5 {
        bench.ask(&mut broker, STUB, &enable_msix(NVME, &many), &many);
    }
    assert_eq!(bench.notes().iter().filter(|note| note.contains("extra_guest_irqs=")).count(), 1);
    // What is left suffices for others.
    let most: Vec<u16> = (0..25).collect();
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &most), &most);
    let block = Request { info: 8, ..request(BrokerCommand::EnableMultiMsi, E1000) };
    assert_eq!(bench.ask(&mut broker, STUB, &block, &[]), exhausted());
    bench.assert_sound();
}

#[test]
fn sets_that_the_device_does_not_have_are_refused_before_anything_is_touched() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[7]), &[7]);
    let before = (bench.vectors(NVME), bench.config(NVME).bytes);
    let failed = refused(ErrorCode::OpFailed);
    for entries in [&[64][..], &[0xffff], &[1, 1], &[0, 1, 2, 0], &[]] {
        let heard = bench.ask(&mut broker, STUB, &enable_msix(NVME, entries), entries);
        assert_eq!(Heard { vectors: Vec::new(), ..heard }, failed, "{entries:?}");
    }
    for count in [129, 4096, u32::MAX] {
        let request = Request { value: count, ..request(BrokerCommand::EnableMsix, NVME) };
        assert_eq!(bench.ask(&mut broker, STUB, &request, &[]), failed, "{count}");
    }
    for count in [0, 3, 16, 32, 64, u32::MAX] {
        let request = Request { info: count, ..request(BrokerCommand::EnableMultiMsi, NVME) };
        assert_eq!(bench.ask(&mut broker, STUB, &request, &[]), failed, "{count}");
    }
    assert_eq!((bench.vectors(NVME), bench.config(NVME).bytes), before);
    bench.assert_sound();
}

#[test]
fn devices_without_the_capability_or_without_power_get_no_vectors() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let failed = refused(ErrorCode::OpFailed);
    let ask = |broker: &mut Broker<'_, FakeRings>| {
        let msix = bench.ask(broker, STUB, &enable_msix(NVME, &[0]), &[0]);
        let msi = bench.ask(broker, STUB, &request(BrokerCommand::EnableMsi, NVME), &[]);
        (Heard { vectors: Vec::new(), ..msix }, msi)
    };
    bench.set_config(NVME, |config| config.set_word(PM + 4, 3));
    assert_eq!(ask(&mut broker), (failed.clone(), failed.clone()));
    bench.set_config(NVME, |config| {
        config.set_word(PM + 4, 0);
        config.bytes[0x34] = 0;
    });
    bench.permit(NVME, "permissive=0");
    assert_eq!(ask(&mut broker), (failed.clone(), failed.clone()));
    // The table in a BAR that dom0 does not know, or in ports.
    bench.set_config(E1000, |config| config.set_word(MSIX + 4, 1));
    bench.permit(E1000, "permissive=0");
    let heard = bench.ask(&mut broker, STUB, &enable_msix(E1000, &[0]), &[0]);
    assert_eq!(Heard { vectors: Vec::new(), ..heard }, failed);
    assert_eq!(bench.mapped(E1000).len(), 0);
}

#[test]
fn the_largest_set_fits_into_an_answer() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let all: Vec<u16> = (0..32).collect();
    let heard = bench.ask(&mut broker, STUB, &enable_msix(NVME, &all), &all);
    assert_eq!(heard.vectors, (24..=55).rev().collect::<Vec<u16>>());
    bench.assert_sound();
}

#[test]
fn quiesce_leaves_a_device_as_attach_does() {
    let bench = Bench::new();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0, 3]), &[0, 3]);
    bench.ask(&mut broker, STUB, &conf_write(NVME, 4, 2, 4, 4), &[]);
    bench.ask(&mut broker, STUB, &conf_write(NVME, PM + 4, 2, 3, 3), &[]);
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::Quiesce, NVME), &[]), success(0));
    let config = bench.config(NVME);
    assert_eq!((config.word(4), config.word(PM + 4) & 3, config.word(MSIX + 2)), (3, 0, TABLE_ENTRIES - 1));
    assert_eq!(bench.mapped(NVME).len(), 0);
    assert_eq!(bench.vectors(NVME), Vectors::None);
}

#[test]
fn a_device_that_is_taken_back_meanwhile_keeps_no_vector() {
    for name in ["phase", "frontend", "stub"] {
        let bench = Bench::new();
        let process = bench.process();
        let mut broker = bench.start(&process);
        // Somebody changes the table when the third vector is mapped.
        let node = path::child(&paths::device_dir(device(NVME)), name);
        bench.machine.with(|world| world.on_map = Some((3, node, "9".to_owned())));
        if name == "phase" {
            bench.machine.with(|world| world.on_map.as_mut().unwrap().2 = "detaching".to_owned());
        }
        let heard = bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0, 1, 2, 3]), &[0, 1, 2, 3]);
        assert_eq!((heard.code, heard.info), (ErrorCode::DevNotFound, 1), "{name}");
        assert_eq!(bench.mapped(NVME).len(), 0);
        assert_eq!(bench.vectors(NVME), Vectors::None);
        assert_eq!(bench.config(NVME).word(MSIX + 2) & 0x8000, 0);
        bench.machine.assert_no_violations();
    }
}
