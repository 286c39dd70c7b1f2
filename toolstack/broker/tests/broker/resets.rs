//! Function level resets that guests ask for, and what is written back after them.

use super::*;
use pci_config::fakes::Memory;
use pcidom_abi::{DeviceNode, PermittedWrites};

/// Where PCI Express is, its control word, and the bit.
const EXPRESS: usize = 0x90;
const CONTROL: usize = EXPRESS + 8;
const INITIATE: u32 = 0x8000;

/// The NVMe can be reset, and that is on its list.
fn bench() -> Bench {
    let bench = Bench::new();
    let node = DeviceNode::PermittedWrites.of(device(NVME));
    let list = bench.machine.with(|world| world.value(&node).unwrap().to_owned());
    let list = format!("{list} reset:98:2:8000:0");
    list.parse::<PermittedWrites>().unwrap();
    bench.machine.with(|world| world.write(&node, &list));
    bench
}

fn reset(value: u32, mask: u32) -> Request {
    conf_write(NVME, CONTROL, 2, value, mask)
}

fn restore(name: &str, wanted: u32) -> Request {
    Request { value: wanted, ..request(BrokerCommand::Restore, name) }
}

fn address(config: &Memory) -> [u16; 3] {
    [0x10, 0x12, 0x14].map(|at| config.word(at))
}

#[test]
fn a_reset_is_started_without_dma_and_changes_no_other_bit() {
    let bench = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.set_config(NVME, |config| {
        config.set_word(4, 0x0406);
        config.set_word(CONTROL, 0x2930);
    });
    let before = bench.machine.with(|world| world.clock);
    assert_eq!(bench.ask(&mut broker, STUB, &reset(INITIATE, INITIATE), &[]), success(0));
    let config = bench.config(NVME);
    assert_eq!((config.word(4), config.word(CONTROL)), (0x0402, 0xa930));
    assert_eq!(bench.machine.with(|world| world.clock), before, "nobody waits");
    // What the function has begun gets some time to end.
    bench.set_config(NVME, |config| config.set_word(CONTROL + 2, 0x0020));
    assert_eq!(bench.ask(&mut broker, STUB, &reset(INITIATE, INITIATE), &[]), success(0));
    let took = bench.machine.with(|world| world.clock) - before;
    assert_eq!(took, std::time::Duration::from_millis(10));
}

#[test]
fn nothing_but_the_bit_and_nobody_but_the_stub_of_a_device_that_has_it() {
    let bench = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let before = bench.config(NVME);
    let other = Request { devfn: device(E1000).devfn().into(), ..reset(INITIATE, INITIATE) };
    for (stub, request, code) in [
        (STUB, reset(0, INITIATE), ErrorCode::AccessDenied),
        (STUB, reset(0xffff, 0xffff), ErrorCode::AccessDenied),
        (STUB, reset(INITIATE, 0xc000), ErrorCode::AccessDenied),
        (STUB, other, ErrorCode::AccessDenied),
        (OTHER, reset(INITIATE, INITIATE), ErrorCode::DevNotFound),
        (OTHER, restore(NVME, 0), ErrorCode::DevNotFound),
    ] {
        assert_eq!(bench.ask(&mut broker, stub, &request, &[]).code, code, "{request:?}");
    }
    assert_eq!(bench.config(NVME).bytes, before.bytes);
}

#[test]
fn what_was_lost_is_written_back() {
    let bench = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.ask(&mut broker, STUB, &enable_msix(NVME, &[0, 1]), &[0, 1]);
    let saved = "identity:0:0\nplain:98:2:7fff:2930\nplain:d:1:ff:20\n";
    bench.machine.tree.write(format!("pristine/{NVME}"), saved);
    let before = bench.config(NVME);
    bench.set_config(NVME, |config| {
        config.set(0x10, &[0; 8]);
        config.set_word(4, 0);
        config.set_word(MSIX + 2, TABLE_ENTRIES - 1);
    });
    assert_eq!(bench.ask(&mut broker, STUB, &restore(NVME, 0x0406), &[]), success(0));
    let config = bench.config(NVME);
    assert_eq!(address(&config), [0, 0xc000, 8], "as in sysfs");
    assert_eq!((config.word(4), config.bytes[0x0d], config.word(CONTROL)), (0x0402, 0x20, 0x2930), "no bus mastering");
    assert_eq!(config.word(MSIX + 2), before.word(MSIX + 2));
    assert_eq!(*bench.physdev.restored.borrow(), [device(NVME)]);
    // Without vectors the guest's word on INTx counts. One that has lost nothing loses nothing.
    bench.ask(&mut broker, STUB, &request(BrokerCommand::DisableMsix, NVME), &[]);
    for (wanted, intx) in [(0x0400, 0x0400), (0, 0)] {
        bench.set_config(NVME, |config| config.set_word(4, 0x0004));
        assert_eq!(bench.ask(&mut broker, STUB, &restore(NVME, wanted), &[]), success(0));
        assert_eq!(bench.config(NVME).word(4), 0x0006 | intx);
    }
}

#[test]
fn a_device_that_does_not_answer_or_that_the_kernel_found_anew_gets_nothing() {
    let bench = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    let whole = bench.config(NVME);
    bench.set_config(NVME, |config| config.bytes.fill(0xff));
    let silent = bench.config(NVME);
    assert_eq!(bench.ask(&mut broker, STUB, &restore(NVME, 0), &[]).code, ErrorCode::OpFailed);
    assert_eq!(bench.config(NVME).bytes, silent.bytes);
    bench.set_config(NVME, |config| *config = whole.clone());
    std::fs::remove_file(bench.machine.tree.path().join(format!("bus/pci/devices/{NVME}/driver"))).unwrap();
    assert_eq!(bench.ask(&mut broker, STUB, &restore(NVME, 0), &[]).code, ErrorCode::DevNotFound);
    assert_eq!(bench.config(NVME).bytes, whole.bytes);
}

#[test]
fn a_device_that_leaves_its_guest_after_a_reset_decodes_its_own_addresses() {
    let bench = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    bench.set_config(NVME, |config| {
        config.set(0x10, &[0; 8]);
        config.set_word(4, 0);
    });
    assert_eq!(bench.ask(&mut broker, STUB, &request(BrokerCommand::Quiesce, NVME), &[]), success(0));
    let config = bench.config(NVME);
    assert_eq!((address(&config), config.word(4) & 6), ([0, 0xc000, 8], 2));
}
