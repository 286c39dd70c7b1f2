//! How often commands ask xenstored, which is most of their time: no oftener for the devices that they are not about. What they ask for together counts
//! as one question, of so many messages.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use fakes::FakeStore;
use pcidom_abi::{DeviceNode, PoolState, paths};
use xen_types::Sbdf;
use xenstore::path;

use super::{add_all, attach_to_web, detach_from_web};
use crate::cli::list;
use crate::fake::{DB, E1000, EDU, Machine, NVME, STUB, TempTree, device};
use crate::ops::assignable;
use crate::records::device_table::Phase;
use crate::records::guard;
use crate::store::{Change, Store, StoreFailure, Waits};

/// A xenstore that counts.
struct Counted {
    store: FakeStore,
    asked: Rc<Asked>,
}

#[derive(Default)]
struct Asked {
    questions: Cell<usize>,
    messages: Cell<usize>,
}

impl Asked {
    fn add(&self, messages: usize) {
        self.questions.set(self.questions.get() + 1);
        self.messages.set(self.messages.get() + messages);
    }

    /// Questions and messages that `work` takes.
    fn during(&self, work: impl FnOnce()) -> (usize, usize) {
        let before = (self.questions.get(), self.messages.get());
        work();
        (self.questions.get() - before.0, self.messages.get() - before.1)
    }
}

impl Store for Counted {
    fn read(&self, path: &str) -> Result<Option<String>, StoreFailure> {
        self.asked.add(1);
        self.store.read(path)
    }

    fn read_many(&self, paths: &[&str]) -> Result<Vec<Option<String>>, StoreFailure> {
        self.asked.add(paths.len());
        self.store.read_many(paths)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreFailure> {
        self.asked.add(1);
        self.store.list(path)
    }

    fn commit(&self, changes: &[Change]) -> Result<bool, StoreFailure> {
        self.asked.add(changes.len());
        self.store.commit(changes)
    }
}

impl Waits for Counted {
    fn watch(&self, paths: &[String]) -> Result<(), StoreFailure> {
        self.asked.add(paths.len());
        self.store.watch(paths)
    }

    fn unwatch(&self, paths: &[String]) -> Result<(), StoreFailure> {
        self.asked.add(paths.len());
        self.store.unwatch(paths)
    }

    fn wait(&self, timeout: Duration) -> Result<bool, StoreFailure> {
        self.store.wait(timeout)
    }
}

/// A machine on which "db" has so many devices of the same stub, and the command its turn.
fn machine(others: u8) -> (Machine, Rc<Asked>, TempTree) {
    let asked: Rc<Asked> = Rc::default();
    let machine = Machine::with_store(|store| Counted { store, asked: asked.clone() });
    for devfn in 0..others {
        let other = Sbdf::from_devfn(0, 0x40, devfn);
        machine.add_function(
            &other.to_string(),
            "0x020000",
            "pciback",
            0,
            &[(0x9_0000_0000 + u64::from(devfn) * 0x1000, 0x1000, 0x0014_0204)],
        );
        machine.with(|world| {
            world.write(&DeviceNode::Stub.of(other), &STUB.to_string());
            world.write(&DeviceNode::Frontend.of(other), &DB.to_string());
            world.write(&DeviceNode::Phase.of(other), Phase::Attached.name());
            world.write(&guard::node(other), &DB.to_string());
            world.write(&paths::pool_state_node(STUB, other), &PoolState::Assigned(DB).to_string());
            world.owners.insert(other, DB);
        });
    }
    let locks = TempTree::new();
    machine.host.lock_commands_in(locks.path());
    (machine, asked, locks)
}

/// What each command takes beside so many other devices, in the order of the list below.
fn taken(others: u8) -> Vec<(&'static str, (usize, usize))> {
    let (machine, asked, _locks) = machine(others);
    let mut taken = Vec::new();
    let mut note = |name, work: &dyn Fn()| taken.push((name, asked.during(work)));
    note("assignable add", &|| add_all(&machine));
    note("first attach", &|| assert!(attach_to_web(&machine, &[E1000]).is_ok()));
    note("attach", &|| assert!(attach_to_web(&machine, &[EDU]).is_ok()));
    note("detach", &|| detach_from_web(&machine, &[EDU]).unwrap());
    note("last detach", &|| detach_from_web(&machine, &[E1000]).unwrap());
    note("list", &|| drop(list::devices(&machine.host, None).unwrap()));
    note("assignable list", &|| drop(list::assignable(&machine.host).unwrap()));
    note("assignable remove", &|| assignable::remove(&machine.host, &[E1000, EDU, NVME].map(device), false).unwrap());
    assert!(machine.with(|world| world.value(&path::libxl_pci_dir(device(E1000))).is_none()));
    taken
}

#[test]
fn no_command_asks_oftener_beside_255_other_devices() {
    /// Most messages for each other device: whose it is (three nodes), twice where the command changes that on its way, and whether xl respects it.
    const EACH: usize = 8;
    /// Most messages of a list for each of the devices in it.
    const LISTED: usize = 16;
    let (alone, beside) = (taken(0), taken(255));
    for ((name, (questions, messages)), (_, (more_questions, more_messages))) in alone.into_iter().zip(beside) {
        println!(
            "{name}: {questions} questions, {messages} messages; beside 255 others {more_questions}, {more_messages}"
        );
        assert!(more_questions <= questions, "{name}: {questions} questions, and {more_questions}");
        let each = if name == "list" { LISTED } else { EACH };
        assert!(more_messages <= messages + each * 255, "{name}: {messages} messages, and {more_messages}");
    }
}

#[test]
fn three_devices_in_one_command_take_less_than_twice_what_one_takes() {
    let (machine, asked, _locks) = machine(0);
    add_all(&machine);
    let (one, _) = asked.during(|| assert!(attach_to_web(&machine, &[E1000]).is_ok()));
    detach_from_web(&machine, &[E1000]).unwrap();
    let (three, _) = asked.during(|| assert!(attach_to_web(&machine, &[E1000, EDU, NVME]).is_ok()));
    println!("an attach of one device asks {one} questions, of three {three}");
    assert!(three < 2 * one, "{one} questions, and {three}");
}

/// What each command takes with so many devices of two slots at once, in the order of the list below.
fn taken_at_once(count: u8) -> Vec<(&'static str, (usize, usize))> {
    let (machine, asked, _locks) = machine(0);
    let devices: Vec<Sbdf> = (0..count).map(|devfn| Sbdf::from_devfn(0, 0, 0x80 + devfn)).collect();
    for (number, device) in (0u64..).zip(&devices) {
        let registers = [(0xa_0000_0000 + number * 0x10_0000, 0x10_0000, 0x0014_0204)];
        machine.add_function(&device.to_string(), "0x020000", "", 0, &registers);
    }
    let names: Vec<String> = devices.iter().map(Sbdf::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut taken = Vec::new();
    let mut note = |name, work: &dyn Fn()| taken.push((name, asked.during(work)));
    note("assignable add", &|| assignable::add(&machine.host, &devices, "pcidom").unwrap());
    note("attach", &|| assert!(attach_to_web(&machine, &names).is_ok()));
    note("detach", &|| detach_from_web(&machine, &names).unwrap());
    note("assignable remove", &|| assignable::remove(&machine.host, &devices, false).unwrap());
    machine.assert_no_violations();
    taken
}

#[test]
fn a_guest_gets_and_loses_sixteen_devices_with_less_than_three_times_the_questions_of_one() {
    let (one, sixteen) = (taken_at_once(1), taken_at_once(16));
    for ((name, (questions, messages)), (_, (more_questions, more_messages))) in one.into_iter().zip(sixteen) {
        println!("{name}: {questions} questions, {messages} messages; of sixteen {more_questions}, {more_messages}");
        let most = match name {
            "attach" | "detach" => 3,
            "assignable add" => 4,
            // Devices leave a pool one after the other.
            _ => 16,
        };
        assert!(more_questions < most * questions, "{name}: {questions} questions, and {more_questions}");
    }
}
