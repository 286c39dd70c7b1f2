//! Fuzz targets: code of ours that reads what others write, each with what must hold whatever they write.
//!
//! A target takes bytes and panics where it finds something. `make fuzz` runs each under libFuzzer (`src/main.rs`), which looks for bytes that reach code
//! that none reached before; `make test-host` replays the corpus and some hundred variations of it (`tests/replay.rs`).
//!
//! | module | whose words |
//! |---|---|
//! | [`guest`] | a guest's: its page, its keys; and what toolstack and xenstored tell the stub |
//! | [`stub`] | a stub's that was taken over: the ring of the broker |
//! | [`device`] | a device's: its configuration space |
//! | [`text`] | nodes, files and command lines |
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]
#![forbid(unsafe_code)]

pub mod device;
pub mod guest;
pub mod input;
pub mod mutate;
pub mod stub;
pub mod text;

/// A target.
#[derive(Debug)]
pub struct Target {
    /// Its name, and that of its folder in `corpus`.
    pub name: &'static str,
    /// Panics where the bytes show that something does not hold.
    pub run: fn(&[u8]),
    /// How many variations of the corpus `make test-host` tries: as many as take a fraction of a second.
    pub variations: u32,
}

/// All of them.
pub const TARGETS: [Target; 22] = [
    Target { name: "requests", run: guest::requests, variations: 100 },
    Target { name: "frontend_nodes", run: guest::frontend_nodes, variations: 100 },
    Target { name: "backend_nodes", run: guest::backend_nodes, variations: 60 },
    Target { name: "store_answers", run: guest::store_answers, variations: 500 },
    Target { name: "broker_ring", run: stub::broker_ring, variations: 30 },
    Target { name: "broker_list", run: stub::broker_list, variations: 30 },
    Target { name: "capabilities", run: device::capabilities, variations: 300 },
    Target { name: "config_writes", run: device::config_writes, variations: 500 },
    Target { name: "xenstore_bytes", run: text::xenstore_bytes, variations: 1_000 },
    Target { name: "store_values", run: text::store_values, variations: 1_000 },
    Target { name: "contract", run: text::contract, variations: 1_000 },
    Target { name: "policy", run: text::policy, variations: 1_000 },
    Target { name: "permitted_writes", run: text::permitted_writes, variations: 1_000 },
    Target { name: "resource_file", run: text::resource_file, variations: 1_000 },
    Target { name: "page_tables", run: pcidom::fuzz::page_tables, variations: 30 },
    Target { name: "device_words", run: |data| text::read(data, pcidom::fuzz::device_words), variations: 1_000 },
    Target { name: "xl_cfg", run: pcidom::fuzz::xl_cfg, variations: 1_000 },
    Target { name: "libxl_json", run: |data| text::read(data, pcidom::fuzz::libxl_json), variations: 1_000 },
    Target { name: "plan_file", run: |data| text::read(data, pcidom::fuzz::plan_file), variations: 1_000 },
    Target { name: "settings", run: |data| text::read(data, pcidom::fuzz::settings), variations: 1_000 },
    Target { name: "quirks", run: |data| text::read(data, pcidom::fuzz::quirks), variations: 1_000 },
    Target { name: "host_files", run: pcidom::fuzz::host_files, variations: 1_000 },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    const ALL: &[Target] = &TARGETS;
    ALL.iter().find(|target| target.name == name)
}
