//! `pcidom restart` and `pcidom upgrade`. The stub is what stands in its memory: an image that begins with "bad" crashes, one with "mad" hangs, any
//! other one starts.

use std::path::PathBuf;
use std::time::Duration;

use pcidom_abi::{image as layout, paths};
use xen_types::DomId;

use crate::error::Error;
use crate::fake::{Machine, STUB, World};
use crate::ops::replace::{Maker, Started, installed, restart, upgrade};

/// Frames of the stub: its page tables, and its image from the first page to the last.
const TABLES: u64 = 0x3000;
const IMAGE: u64 = 0x3100;
const FACTS: u64 = IMAGE + (layout::FACTS - layout::TEXT.start) / 4096;
const AT: usize = 0x100;

/// A machine whose stub runs the image that `running` makes, and may be started again.
fn machine(running: &Maker) -> Machine {
    let machine = Machine::new();
    machine.with(|world| {
        let entry = |frame: u64| frame << 12 | 1;
        let pages = (layout::END - layout::TEXT.start) / 4096;
        let first = usize::try_from(layout::TEXT.start / 4096 % 512).unwrap();
        let mapped: Vec<(usize, u64)> = (first..).zip((IMAGE..IMAGE + pages).map(entry)).collect();
        for (table, entries) in [
            (0, vec![(0, entry(TABLES + 1))]),
            (1, vec![(0, entry(TABLES + 2))]),
            (2, vec![(1, entry(TABLES + 3))]),
            (3, mapped),
        ] {
            world.memory.make_table(STUB, TABLES + table, &entries);
        }
        world.memory.roots.insert(STUB, TABLES);
        world.memory.give(STUB, IMAGE..IMAGE + pages);
        for (page, bytes) in (IMAGE..).zip(running.memory()) {
            world.memory.pages.insert(page, bytes);
        }
        set_fact(world, layout::MAY_RESTART, 1);
        world.on_nmi = Some(Box::new(start));
    });
    machine
}

fn set_fact(world: &mut World, offset: usize, value: u64) {
    let page = world.memory.pages.entry(FACTS).or_insert([0; 4096]);
    page[AT + offset..AT + offset + 8].copy_from_slice(&value.to_le_bytes());
    let sum = layout::sum(&page[AT + 8..AT + layout::FACTS_END]);
    page[AT..AT + 8].copy_from_slice(&sum.to_le_bytes());
}

fn fact(world: &World, offset: usize) -> u64 {
    let page = world.memory.pages[&FACTS];
    u64::from_le_bytes(page[AT + offset..AT + offset + 8].try_into().unwrap())
}

/// What the image in the stub's memory does when an NMI interrupts it.
fn start(world: &mut World, domain: DomId) {
    assert_eq!((domain, world.memory.nmi_entries.get(&STUB)), (STUB, Some(&layout::TEXT.start)));
    match &world.memory.pages[&IMAGE][..3] {
        b"bad" => return set_fact(world, layout::MAY_RESTART, layout::FAILED),
        b"mad" => return,
        _ => {}
    }
    if fact(world, layout::MAY_RESTART) == layout::TRIAL {
        set_fact(world, layout::MAY_RESTART, 1);
    }
    let (count, len) = (fact(world, layout::RESTARTS), fact(world, layout::WORDS_LEN));
    let words = world.memory.pages[&FACTS][AT + 40..][..usize::try_from(len).unwrap()].to_vec();
    let value = format!("{count} 5000 {}", String::from_utf8(words).unwrap());
    world.write(&paths::of_stub(STUB, paths::relative::RESTARTS), &value);
}

/// The pages of the image in the stub's memory, without data and facts.
fn memory(machine: &Machine) -> Vec<[u8; 4096]> {
    let count = (layout::RODATA.end - layout::TEXT.start) / 4096;
    machine.with(|world| (IMAGE..IMAGE + count).map(|frame| world.memory.pages[&frame]).collect())
}

fn file(machine: &Machine, maker: &Maker) -> PathBuf {
    machine.tree.write("new.elf", maker.file());
    machine.tree.path().join("new.elf")
}

#[track_caller]
fn assert_goes_on(machine: &Machine) {
    machine.with(|world| assert!(world.memory.pauses.is_empty() && world.value("/tool/pcidom/paused").is_none()));
    machine.assert_no_violations();
}

fn restarts(machine: &Machine) -> Option<String> {
    machine.with(|world| world.value(&paths::of_stub(STUB, paths::relative::RESTARTS)).map(str::to_owned))
}

#[test]
fn an_image_is_started_again() {
    let old = Maker::new(b"old");
    let machine = machine(&old);
    for count in 1..=5 {
        let started = restart(&machine.host, "pcidom").unwrap();
        assert_eq!((started.release.as_str(), started.took_inside), ("0.7.3", Duration::from_micros(5)));
        assert!(memory(&machine) == old.memory(), "the image has changed");
        assert_eq!(restarts(&machine).unwrap(), format!("{count} 5000 pcidom restart"));
        machine.with(|world| assert_eq!(fact(world, layout::MAY_RESTART), 1));
        assert_goes_on(&machine);
    }
}

#[test]
fn an_image_takes_the_place_of_another() {
    let old = Maker::new(b"old");
    let mut new = Maker::new(b"new");
    new.release = "0.8.0\0";
    let machine = machine(&old);
    let Started { release, before, .. } = upgrade(&machine.host, "pcidom", &file(&machine, &new)).unwrap();
    assert_eq!((release.as_str(), before.as_str()), ("0.8.0", "0.7.3"));
    assert!(memory(&machine) == new.memory(), "not the new image");
    assert_eq!(restarts(&machine).unwrap(), "1 5000 pcidom upgrade from 0.7.3 to 0.8.0");
    assert_goes_on(&machine);
}

#[test]
fn an_image_that_does_not_come_up_is_taken_back() {
    for (code, after) in [(b"bad", Duration::ZERO), (b"mad", Duration::from_secs(3))] {
        let old = Maker::new(b"old");
        let machine = machine(&old);
        machine.with(|world| set_fact(world, layout::MAY_RESTART, 2));
        let error = upgrade(&machine.host, "pcidom", &file(&machine, &Maker::new(code))).unwrap_err();
        assert_eq!(error.code(), "E_UPGRADE_FAILED");
        assert!(
            error.to_string().ends_with("did not come up in pcidom (domain 3); the image before goes on"),
            "{error}"
        );
        let took = machine.with(|world| world.clock);
        assert!((after..after + Duration::from_millis(50)).contains(&took), "{took:?}");
        assert!(memory(&machine) == old.memory(), "not the old image");
        assert!(restarts(&machine).unwrap().starts_with("2 "), "not started again");
        machine.with(|world| assert_eq!(fact(world, layout::MAY_RESTART), 2));
        assert_goes_on(&machine);
    }
}

#[test]
fn nothing_is_touched_where_something_does_not_fit() {
    type Change = fn(&mut World);
    let (old, new) = (Maker::new(b"old"), Maker::new(b"new"));
    let other_layout = Maker { layout: layout::LAYOUT + 1, ..Maker::new(b"old") };
    let cases: [(&Maker, Change, &str); 6] = [
        (&old, |world| set_fact(world, layout::MAY_RESTART, layout::NEVER), "restart=never"),
        (&old, |world| set_fact(world, layout::MAY_RESTART, layout::TRIAL), "a moment ago"),
        (&old, |world| world.memory.pages.get_mut(&FACTS).unwrap()[AT + 300] ^= 4, "damaged"),
        (&old, |world| world.domains.get_mut(&STUB).unwrap().paused = true, "is paused"),
        (&old, |world| world.memory.pages.retain(|_, _| false), "no image of pcidom"),
        (&other_layout, |_| {}, "its memory has layout"),
    ];
    for (running, change, why) in cases {
        let machine = machine(running);
        machine.with(change);
        let pages = |machine: &Machine| machine.with(|world| world.memory.pages.clone());
        let before = pages(&machine);
        let file = file(&machine, &new);
        for error in
            [restart(&machine.host, "pcidom").unwrap_err(), upgrade(&machine.host, "pcidom", &file).unwrap_err()]
        {
            assert_eq!(error.code(), "E_NOT_REPLACEABLE", "{error}");
            assert!(error.to_string().contains(why) && error.hint().is_some(), "{error}");
        }
        assert!(pages(&machine) == before && restarts(&machine).is_none(), "{why}: something was touched");
        assert_goes_on(&machine);
    }
    let machine = machine(&old);
    let error = upgrade(&machine.host, "pcidom", &file(&machine, &other_layout)).unwrap_err();
    assert_eq!(error.code(), "E_UNFIT_IMAGE", "{error}");
    assert_eq!(upgrade(&machine.host, "pcidom", "/nowhere".as_ref()).unwrap_err().code(), "E_FILE");
    assert!(memory(&machine) == old.memory() && restarts(&machine).is_none());
    assert!(matches!(restart(&machine.host, "nobody"), Err(Error::StubNotRunning(_))));
}

/// Each call fails in turn: the stub has one image or the other, whole, and goes on.
#[test]
fn a_call_that_is_refused_leaves_no_half_of_an_image() {
    let (old, new) = (Maker::new(b"old"), Maker::new(b"new"));
    for failing in 1..60 {
        let machine = machine(&old);
        let file = file(&machine, &new);
        machine.with(|world| world.failing_change = Some(failing));
        let done = upgrade(&machine.host, "pcidom", &file);
        let found = memory(&machine);
        assert!(found == old.memory() || found == new.memory(), "half an image at change {failing}");
        machine.with(|world| {
            // One that cannot let the domain go on says so, and leaves the note by which the next command does it.
            let stands = !world.memory.pauses.is_empty();
            assert_eq!(stands, world.has_node("/tool/pcidom/paused/3") && stands, "change {failing}");
            assert!(!stands || done.is_err(), "change {failing}");
        });
        machine.assert_no_violations();
        if machine.with(|world| world.changes < failing) {
            assert!(done.is_ok());
            return;
        }
    }
    panic!("there is no end of changes");
}

#[test]
fn a_stub_that_ends_meanwhile_is_waited_for_no_longer() {
    let machine = machine(&Maker::new(b"old"));
    machine.with(|world| {
        world.on_nmi = Some(Box::new(|world, domain| world.domains.get_mut(&domain).unwrap().shutdown = true))
    });
    assert!(matches!(restart(&machine.host, "pcidom"), Err(Error::StubWentAway(_))));
}

#[test]
fn the_installed_image_is_the_one_that_the_configuration_names() {
    let machine = Machine::new();
    assert_eq!(installed(&machine.host.root).unwrap_err().code(), "E_FILE");
    machine.tree.write("root/etc/xen/pcidom.cfg", "name = 'pcidom'\nkernel = '/usr/lib/xen/boot/pcidom.elf'\n");
    assert_eq!(installed(&machine.host.root).unwrap(), PathBuf::from("/usr/lib/xen/boot/pcidom.elf"));
    machine.tree.write("root/etc/xen/pcidom.cfg", "name = 'pcidom'\n");
    assert_eq!(installed(&machine.host.root).unwrap_err().code(), "E_CONFIG");
}
