//! XSA-155 (CVE-2015-8550): backends read a word of the shared page, checked it, and read it again when they used it. A guest that changed it in between had
//! passed the check with another value.
//!
//! Ours: a request is copied out of the page once, and only the copy is checked and used. Here another CPU of the guest changes the page all the time, while the real
//! stub and the real broker serve it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pciback::platform::Width;
use pciif::{Command, Request};

use super::{ATTACKER, MINE, THEIRS, V, assert_served, register, registers, vectors, world};

/// Offsets of the words of a request in the page (docs/protocol.md §3.1).
const WORDS: [(usize, [u32; 4]); 7] = [
    (4, [Command::ConfWrite.raw(), Command::EnableMsix.raw(), Command::ConfRead.raw(), 77]),
    (20, [0, 0, 0x10, 0x100]),
    (24, [4, 0x10, 0x52, u32::MAX]),
    (28, [2, 4, 1, 1 << 31]),
    (32, [0x0406, 2, 0xffff, u32::MAX]),
    (36, [0, 4, 32, u32::MAX]),
    (40, [0x0001_ffff, 0x000f_ffff, 0x0010_ffff, 0xffff_ffff]),
];

#[test]
fn a_page_that_changes_while_it_is_read_opens_nothing() {
    let mut world = world();
    let (mine, theirs) = (registers(&world, MINE), registers(&world, THEIRS));
    let page = Arc::clone(world.guest(ATTACKER).page().expect("connected"));
    let is_over = Arc::new(AtomicBool::new(false));
    let other_cpu = {
        let (page, is_over) = (Arc::clone(&page), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let mut turn = 0_usize;
            while !is_over.load(Ordering::Relaxed) {
                turn = turn.wrapping_add(1);
                let (offset, values) = WORDS[turn % WORDS.len()];
                page.set_word(offset, values[turn / WORDS.len() % values.len()]);
            }
        })
    };
    for _ in 0..3_000 {
        world.guest(ATTACKER).publish(&Request::conf_write(V, 4, 2, 0x0406));
        world.work();
        assert!(vectors(&world) <= 32);
    }
    is_over.store(true, Ordering::Relaxed);
    other_cpu.join().expect("it only writes");
    // Bus mastering, and what the broker does for vectors: INTx Disable and the Enable bits. Nothing else has a way to the device.
    let after = registers(&world, MINE);
    for (dword, (before, after)) in mine.iter().zip(&after).enumerate() {
        let open = match dword * 4 {
            0x04 => 0x0414,
            0x0c => 0x4000_00ff,
            0x4c => 0x9e03,
            0x50 => 0x0071_0000,
            0x60 => 0xc000_0000,
            _ => 0,
        };
        assert_eq!((before ^ after) & !open, 0, "{:#x}", dword * 4);
    }
    assert_eq!(register(&world, 4, Width::Word) & 3, 3);
    assert_eq!(registers(&world, THEIRS), theirs);
    assert_served(&mut world);
}
