//! Commands that are killed at each of their steps: the next one finds what they left, and finishes or undoes it. And commands that a signal asks
//! to stop there, which leave nothing.

use pcidom_abi::paths;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{TIMEOUT, add_all, attach_to_web, detach_from_web, pause};
use crate::error::Error;
use crate::fake::{Dump, E1000, EDU, GuestScript, Killed, Machine, NVME, SATA, device};
use crate::ops::recover::reclaim;
use crate::xen::StopSignal;

/// What the guest does when the command is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guest {
    /// It did all it has to do before the next command comes.
    Answers,
    /// It does so while the next command is at work.
    Late,
    /// It does nothing before the next command has ended.
    Silent,
}

const GUESTS: [Guest; 3] = [Guest::Answers, Guest::Late, Guest::Silent];

/// Kills `act` right before its change number `step`; false when it came to its end before that.
fn kill(machine: &Machine, step: usize, act: impl FnOnce(&Machine)) -> bool {
    machine.with(|world| world.killing_change = Some(world.changes + step));
    let killed = match catch_unwind(AssertUnwindSafe(|| act(machine))) {
        Ok(()) => false,
        Err(payload) if payload.is::<Killed>() => true,
        Err(payload) => std::panic::resume_unwind(payload),
    };
    machine.with(|world| {
        world.killing_change = None;
        world.process += 1;
        world.undisturbed = false; // with the process
        world.uncertain = true;
        world.watches.clear(); // they end with the connection
        world.notes.clear();
    });
    killed
}

fn force(machine: &Machine, devices: &[&str]) -> Result<(), Error> {
    let reclaimed = reclaim(&machine.host)?;
    let devices = devices.iter().map(|text| device(text)).collect();
    let request =
        crate::ops::detach::Request { guest: "web".to_owned(), backend: None, devices, timeout: TIMEOUT, force: true };
    crate::ops::detach::detach(&machine.host, &request, &reclaimed)
}

/// Kills a command at each step. After that, one `reclaim` must lead to how it was before, or to how it would be afterwards; and a new attach
/// and detach must do what they always do.
fn killed_anywhere(what: &str, prepare: impl Fn() -> Machine, act: impl Fn(&Machine)) {
    let before = dump(&prepare());
    let after = {
        let machine = prepare();
        act(&machine);
        dump(&machine)
    };
    for guest in GUESTS {
        let mut steps = 0;
        for step in 1.. {
            let machine = prepare();
            if !kill(&machine, step, &act) {
                break;
            }
            steps += 1;
            let when = format!("{what}, killed before change {step}, guest {guest:?}");
            let silent = machine.with(|world| std::mem::replace(&mut world.guest.silent, guest == Guest::Silent));
            if guest == Guest::Answers {
                machine.settle();
            }
            reclaim(&machine.host).unwrap();
            let keeps = machine.with(|world| {
                let unsettled: Vec<_> = world.notes.iter().filter(|note| note.contains("not settled")).collect();
                assert!(unsettled.is_empty(), "{when}: {unsettled:?}");
                let seen = std::mem::take(&mut world.guest.seen);
                let script =
                    std::mem::replace(&mut world.guest, GuestScript { seen, silent, ..GuestScript::default() });
                world.stub.cannot_export = None;
                script.keeps
            });
            machine.settle();
            // What a silent guest has not closed goes when it has.
            if guest == Guest::Silent || keeps {
                reclaim(&machine.host).unwrap();
            }
            let now = dump(&machine);
            assert!(now.is_same(&before) || now.is_same(&after), "{when}\n{}", now.differences(&before, &after));
            machine.with(|world| world.uncertain = false);
            comes_and_goes(&machine, &when);
            dump(&machine).assert_same(&now, &when);
            machine.assert_no_violations();
        }
        assert!(steps > 3, "{what}: {steps}");
    }
}

/// Has a signal come before each change of a command. Nothing needs to be put right afterwards: it is as it was before, or as it would be
/// without the signal, as the command says.
fn interrupted_anywhere(what: &str, prepare: impl Fn() -> Machine, act: impl Fn(&Machine) -> Result<(), Error>) {
    let before = dump(&prepare());
    let after = {
        let machine = prepare();
        act(&machine).unwrap();
        dump(&machine)
    };
    let (mut undone, mut finished) = (0, 0);
    for step in 1.. {
        let machine = prepare();
        machine.with(|world| {
            world.signal_at = Some(world.changes + step);
            world.notes.clear();
        });
        let result = act(&machine);
        let came = machine.with(|world| {
            world.signal_at = None;
            let unsettled: Vec<_> = world.notes.iter().filter(|note| note.contains("could not undo")).collect();
            assert!(unsettled.is_empty(), "{what}, step {step}: {unsettled:?}");
            world.signal.take().is_some()
        });
        if !came {
            break;
        }
        machine.settle();
        let when = format!("{what}, a signal before change {step}: {result:?}");
        match result {
            Ok(()) => {
                finished += 1;
                dump(&machine).assert_same(&after, &when);
            }
            Err(Error::Interrupted(StopSignal::Interrupt)) => {
                undone += 1;
                dump(&machine).assert_same(&before, &when);
            }
            Err(error) => panic!("{when}: {error}"),
        }
        comes_and_goes(&machine, &when);
        machine.assert_no_violations();
    }
    assert!(undone > 0 && undone + finished > 3, "{what}: {undone} undone, {finished} finished");
}

/// Everything but registers, and what the stub said of failures.
fn dump(machine: &Machine) -> Dump {
    machine.with(|world| world.remove("/local/domain/3/error/backend"));
    machine.dump_but_config()
}

/// Another device, or the same one.
fn comes_and_goes(machine: &Machine, when: &str) {
    let free = [NVME, EDU, E1000].into_iter().find(|name| {
        let dir = paths::device_dir(device(name));
        machine.with(|world| world.value(&format!("{dir}/phase")) == Some("pool"))
    });
    let Some(free) = free else { return };
    attach_to_web(machine, &[free]).unwrap_or_else(|error| panic!("{when}: attach {free}: {error}"));
    detach_from_web(machine, &[free]).unwrap_or_else(|error| panic!("{when}: detach {free}: {error}"));
}

fn with_pool() -> Machine {
    let machine = Machine::new();
    add_all(&machine);
    machine
}

fn using(devices: &[&str]) -> Machine {
    let machine = with_pool();
    attach_to_web(&machine, devices).unwrap();
    machine
}

/// Whatever becomes of it.
fn attach(machine: &Machine, devices: &[&str]) {
    let _ = attach_to_web(machine, devices);
}

fn detach(machine: &Machine, devices: &[&str]) {
    let _ = detach_from_web(machine, devices);
}

#[test]
fn a_first_attach() {
    killed_anywhere("attach", with_pool, |machine| attach(machine, &[E1000, EDU]));
}

#[test]
fn an_attach_of_devices_that_the_stub_does_not_have() {
    killed_anywhere("attach", Machine::new, |machine| attach(machine, &[E1000]));
    killed_anywhere("seize", with_pool, |machine| attach(machine, &[&format!("{SATA},seize=1"), EDU]));
}

#[test]
fn an_attach_to_a_guest_that_uses_devices() {
    killed_anywhere("attach", || using(&[E1000]), |machine| attach(machine, &[EDU]));
}

#[test]
fn an_attach_that_fails() {
    let prepare = || {
        let machine = using(&[E1000]);
        machine.with(|world| world.stub.cannot_export = Some((device(EDU), "28 full")));
        machine
    };
    killed_anywhere("attach", prepare, |machine| attach(machine, &[EDU]));
}

#[test]
fn an_attach_to_a_guest_that_knows_no_hotplug() {
    let prepare = || {
        let machine = using(&[E1000]);
        machine.with(|world| world.guest.knows_no_hotplug = true);
        machine
    };
    killed_anywhere("attach", prepare, |machine| attach(machine, &[EDU]));
}

#[test]
fn a_detach_of_some_devices() {
    killed_anywhere("detach", || using(&[E1000, EDU, NVME]), |machine| detach(machine, &[E1000]));
}

#[test]
fn a_detach_of_the_last_device() {
    killed_anywhere("detach", || using(&[E1000, EDU]), |machine| detach(machine, &[E1000, EDU]));
}

#[test]
fn a_detach_by_force() {
    for devices in [&[EDU][..], &[E1000, EDU]] {
        let prepare = || {
            let machine = using(&[E1000, EDU]);
            machine.with(|world| world.guest.keeps = true);
            machine
        };
        killed_anywhere("detach --force", prepare, |machine| {
            let _ = force(machine, devices);
            machine.with(|world| world.guest.keeps = false);
            machine.settle();
            let _ = reclaim(&machine.host);
        });
    }
}

#[test]
fn a_change_of_a_guest_that_has_not_booted() {
    let prepare = || {
        let machine = with_pool();
        pause(&machine, crate::fake::WEB);
        attach_to_web(&machine, &[E1000, EDU]).unwrap();
        machine
    };
    killed_anywhere("attach", prepare, |machine| attach(machine, &[NVME]));
    killed_anywhere("detach", prepare, |machine| detach(machine, &[E1000]));
}

#[test]
fn assignable_add_and_remove() {
    let add = |machine: &Machine| {
        let _ = crate::ops::assignable::add(&machine.host, &[SATA, EDU].map(device), "pcidom");
    };
    killed_anywhere("add", Machine::new, add);
    for rebind in [false, true] {
        let prepare = || {
            let machine = Machine::new();
            add(&machine);
            machine
        };
        killed_anywhere("remove", prepare, |machine| {
            let _ = crate::ops::assignable::remove(&machine.host, &[SATA, EDU].map(device), rebind);
        });
    }
}

#[test]
fn the_recovery_itself() {
    let prepare = || {
        let machine = using(&[E1000, EDU, NVME]);
        assert!(kill(&machine, 4, |machine| detach(machine, &[EDU, NVME])));
        machine
    };
    killed_anywhere("reclaim", prepare, |machine| {
        reclaim(&machine.host).unwrap();
    });
}

#[test]
fn a_change_of_persistent_devices() {
    let keep = |machine: &Machine, devices: &[&str]| {
        let request = crate::ops::attach::Request {
            following: crate::ops::attach::Following::Yes,
            ..super::request("web", devices)
        };
        let _ = reclaim(&machine.host).and_then(|_| crate::ops::attach::attach(&machine.host, &request));
    };
    let prepare = |devices: &'static [&'static str]| {
        move || {
            let machine = with_pool();
            machine.with(|world| world.write("/local/domain/5/vm", "/vm/0a5e2f3c-7f7b-4a55-8f4e-000000000005"));
            if !devices.is_empty() {
                keep(&machine, devices);
            }
            machine
        }
    };
    killed_anywhere("attach --keep", prepare(&[]), |machine| keep(machine, &[E1000]));
    killed_anywhere("detach", prepare(&[E1000, EDU]), |machine| detach(machine, &[E1000]));
    killed_anywhere("detach", prepare(&[E1000]), |machine| detach(machine, &[E1000]));
}

#[test]
fn a_signal_stops_an_attach_where_it_can_be_undone() {
    let attach = |devices: &'static [&'static str]| move |machine: &Machine| attach_to_web(machine, devices).map(drop);
    interrupted_anywhere("attach", with_pool, attach(&[E1000, EDU]));
    interrupted_anywhere("attach", Machine::new, attach(&[E1000]));
    interrupted_anywhere("attach", || using(&[E1000]), attach(&[EDU]));
    let seized: &'static str = Box::leak(format!("{SATA},seize=1").into_boxed_str());
    let devices: &'static [&'static str] = Box::leak(Box::new([seized, EDU]));
    interrupted_anywhere("seize", with_pool, attach(devices));
}

#[test]
fn a_signal_stops_a_detach_before_the_guest_lets_go_and_not_after() {
    let detach = |devices: &'static [&'static str]| move |machine: &Machine| detach_from_web(machine, devices);
    interrupted_anywhere("detach", || using(&[E1000, EDU, NVME]), detach(&[E1000]));
    interrupted_anywhere("detach", || using(&[E1000, EDU]), detach(&[E1000, EDU]));
}

#[test]
fn a_signal_ends_waiting_for_a_guest_that_does_not_answer() {
    let machine = using(&[E1000, EDU]);
    let before = dump(&machine);
    machine.with(|world| {
        world.guest.silent = true;
        // Right before it would wait.
        world.incidents.push(Box::new(|world| {
            let asked = world.value("/local/domain/3/backend/pci/5/0/state") == Some("7");
            world.signal = asked.then_some(StopSignal::Hangup as u8);
            asked
        }));
    });
    let began = machine.host.elapsed();
    assert!(matches!(detach_from_web(&machine, &[EDU]), Err(Error::Interrupted(StopSignal::Hangup))));
    assert!(machine.host.elapsed() - began < TIMEOUT / 4, "it waited on");
    machine.with(|world| {
        world.guest.silent = false;
        world.signal = None;
    });
    machine.settle();
    dump(&machine).assert_same(&before, "");
    comes_and_goes(&machine, "");
}

#[test]
fn a_signal_stops_assignable_add_and_remove() {
    let add = |machine: &Machine| crate::ops::assignable::add(&machine.host, &[SATA, EDU].map(device), "pcidom");
    interrupted_anywhere("add", Machine::new, add);
    let prepare = || {
        let machine = Machine::new();
        add(&machine).unwrap();
        machine
    };
    interrupted_anywhere("remove", prepare, |machine| {
        crate::ops::assignable::remove(&machine.host, &[SATA, EDU].map(device), true)
    });
}

#[test]
fn a_signal_stops_a_recovery_between_two_guests_and_what_is_left_stays_noted() {
    let machine = using(&[E1000, EDU]);
    assert!(kill(&machine, 4, |machine| detach(machine, &[EDU])));
    machine.with(|world| world.signal = Some(StopSignal::Terminate as u8));
    assert!(matches!(reclaim(&machine.host), Err(Error::Interrupted(StopSignal::Terminate))));
    machine.with(|world| world.signal = None);
    reclaim(&machine.host).unwrap();
    machine.settle();
    comes_and_goes(&machine, "");
}

/// So that the comparison is worth something.
/// Somebody else wrote it, or a later release.
#[test]
fn an_intent_that_cannot_be_read_keeps_no_other_from_being_put_right() {
    let machine = Machine::new();
    let before = dump(&machine);
    let is_dead =
        kill(&machine, 6, |machine| drop(crate::ops::assignable::add(&machine.host, &[device(SATA)], "pcidom")));
    assert!(is_dead);
    machine.with(|world| {
        world.write("/tool/pcidom/work/0000-00-01-0", "fly 7");
        world.write("/tool/pcidom/work/nonsense", "");
    });
    crate::ops::recover::reclaim(&machine.host).unwrap();
    machine.with(|world| {
        let told = |node: &str| world.notes.iter().filter(|note| note.starts_with(node)).count();
        assert!(told("/tool/pcidom/work/0000-00-01-0 holds \"fly 7\"") > 0, "{:?}", world.notes);
        assert!(told("/tool/pcidom/work/nonsense holds") > 0, "{:?}", world.notes);
        world.remove("/tool/pcidom/work");
        world.remove("/tool/pcidom");
    });
    dump(&machine).assert_same(&before, "killed and put right");
}

#[test]
fn the_dump_tells_differences() {
    let one: Dump = dump(&with_pool());
    assert!(one.is_same(&dump(&with_pool())));
    assert!(!one.is_same(&dump(&Machine::new())));
}
