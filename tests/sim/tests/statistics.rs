//! dom0 asks the stub for its statistics: each says what its name promises, and they come back to where they were.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;

use pcidom_abi::statistics::NAMES;
use pciif::{Command, Request};
use sim::world::{STUB, World};
use xen_types::Sbdf;

const A: Sbdf = Sbdf::from_devfn(0, 3, 0);
const B: Sbdf = Sbdf::from_devfn(0, 5, 0x10);

const QUERY: &str = "/local/domain/3/data/pcidom/query";
const ANSWER: &str = "/local/domain/3/data/pcidom/statistics";

fn ask(world: &mut World, question: &str) -> Option<String> {
    world.tool.write(&format!("{QUERY}/{question}"), "");
    world.settle();
    let answer = world.tool.read(ANSWER);
    world.tool.change(|store| store.remove(QUERY).and_then(|()| store.remove(ANSWER)));
    world.settle();
    answer
}

fn statistics(world: &mut World) -> BTreeMap<&'static str, u64> {
    let answer = ask(world, "7").expect("an answer");
    let mut numbers = answer.split_ascii_whitespace().map(|number| number.parse().unwrap());
    assert_eq!(numbers.next(), Some(7), "the number of the question");
    let numbers: Vec<u64> = numbers.collect();
    assert_eq!(numbers.len(), NAMES.len());
    NAMES.into_iter().zip(numbers).collect()
}

#[test]
fn statistics_are_what_their_names_say() {
    let mut world = World::new(&[A, B]);
    world.xen.advance_ns(1_000);
    let guest = world.connect(5, &[A]);
    let statistics = statistics(&mut world);
    let held = world.xen.held_by(STUB);
    for (name, want) in [
        ("uptime_ns", 1_000),
        ("mapped_pages", held.pages + held.ecam_pages),
        ("grants", 1),
        ("ports", held.ports + 1), // and the broker's
        ("watches", 5),
        ("transactions", 0),
        ("timers", 0),
        ("store_requests", 0),
        ("frontends", 1),
        ("devices", 2),
        ("denied_writes", 0),
        ("broker_timeouts", 0),
    ] {
        assert_eq!(statistics[name], want as u64, "{name}");
    }
    assert!(statistics["reads"] > 0 && statistics["no_device"] > 0, "a bus scan: {statistics:?}");
    let reads = statistics["reads"];
    let request = Request { size: 4, ..Request::new(Command::ConfRead, Sbdf::from_devfn(0, 0, 0)) };
    assert!(world.ask(guest, &request).is_some());
    assert_eq!(self::statistics(&mut world)["reads"], reads + 1);
}

#[test]
fn what_a_guest_had_is_not_counted_when_it_is_gone() {
    let mut world = World::new(&[A, B]);
    let before = statistics(&mut world);
    let guest = world.connect(5, &[A, B]);
    let meanwhile = statistics(&mut world);
    assert!(meanwhile["mapped_pages"] > before["mapped_pages"] && meanwhile["watches"] > before["watches"]);
    world.destroy(guest);
    world.tool.remove_dirs(guest);
    world.settle();
    let after = statistics(&mut world);
    for name in [
        "mapped_pages",
        "ports",
        "grants",
        "watches",
        "transactions",
        "timers",
        "store_requests",
        "frontends",
        "devices",
    ] {
        assert_eq!(after[name], before[name], "{name}");
    }
}

#[test]
fn nobody_who_does_not_ask_is_answered() {
    let mut world = World::new(&[A]);
    assert_eq!(world.tool.read(ANSWER), None);
    for question in ["-1", "x", "4294967296", "1x"] {
        assert_eq!(ask(&mut world, question), None, "{question}");
    }
    for question in ["1-", "1-0000-03-00", "1-0000-03-00-0-0", "-0000-03-00-0", "x-0000-03-00-0", "1-0000:03:00.0"] {
        assert_eq!(ask(&mut world, question), None, "{question}");
    }
    // The question's own removal is no question.
    assert!(ask(&mut world, "1").is_some());
    assert_eq!(world.tool.read(ANSWER), None);
}

/// The card's places are those of `pci_config::fakes::network_card`.
#[test]
fn what_a_guest_writes_in_vain_is_counted_by_place() {
    let mut world = World::new(&[A, B]);
    let guest = world.connect(5, &[A]);
    let question = |world: &mut World, device: &str| ask(world, &format!("9-{device}"));
    assert_eq!(question(&mut world, "0000-03-00-0").as_deref(), Some("9 "));
    assert_eq!(question(&mut world, "0000-05-02-0").as_deref(), Some("9 "), "nobody has it");
    assert_eq!(question(&mut world, "0001-03-00-0").as_deref(), Some("9 "), "there is no such device");
    let virt = Sbdf::from_devfn(0, 0, 0);
    for (offset, size, times) in [(0x2c, 2, 3), (0x10, 4, 1), (0x35, 1, 1)] {
        for _ in 0..times {
            assert!(world.ask(guest, &Request::conf_write(virt, offset, size, 0x55)).is_some());
        }
    }
    assert_eq!(
        question(&mut world, "0000-03-00-0").as_deref(),
        Some("9 44 3 53 1 "),
        "a base address register is no harm"
    );
    world.destroy(guest);
    world.tool.remove_dirs(guest);
    world.settle();
    assert_eq!(question(&mut world, "0000-03-00-0").as_deref(), Some("9 "));
}
