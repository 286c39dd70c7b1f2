//! The contract as the documents have it, and a copy of it, so that a change of it is noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;

use pcidom_abi::paths::{self, relative};
use pcidom_abi::{BrokerCommand, DeviceNode, ExportMode, PermittedWrites, Phase, PoolState, pool, statistics};
use xen_types::{DomId, Sbdf};
use xenstore::path::{child, validate};

const XENSTORE: &str = include_str!("../../../docs/xenstore.md");
const BROKER: &str = include_str!("../../../docs/broker.md");

const STUB: DomId = DomId(3);

fn device() -> Sbdf {
    Sbdf::new(0, 0, 5, 0).unwrap()
}

/// The nodes in the first column of every table: `/a/b`, and in the same cell `c` for `/a/c`.
fn described() -> BTreeSet<String> {
    let mut nodes = BTreeSet::new();
    for row in XENSTORE.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cell = row.split(" | ").next().unwrap();
        let mut directory = "";
        for name in cell.split('`').skip(1).step_by(2) {
            match name.rsplit_once('/') {
                Some((parent, _)) => {
                    directory = parent;
                    nodes.insert(name.to_owned());
                }
                None => drop(nodes.insert(format!("{directory}/{name}"))),
            }
        }
    }
    nodes
}

/// A path of the contract in the words of the document.
fn in_words(path: &str) -> String {
    let words = [("{device}", "BDF"), ("{guest}", "F"), ("{pid}", "PID"), ("{domain}", "DOMID"), ("{uuid}", "UUID")];
    let path = words.into_iter().fold(path.to_owned(), |path, (name, word)| path.replace(name, word));
    assert!(!path.contains('{'), "{path}");
    path
}

#[test]
fn every_node_is_described_and_every_described_one_is_known() {
    let described = described();
    let mut known = BTreeSet::new();
    known.insert(paths::BROKER.to_owned());
    known.extend(paths::TOOL_PATHS.iter().map(|path| in_words(path)));
    known.extend(DeviceNode::ALL.map(|node| format!("/tool/pcidom/device/BDF/{}", node.name())));
    known.extend(pool::NODES.map(|name| match name.strip_prefix("resource-") {
        Some(_) => "pool/BDF/resource-M".to_owned(),
        None => format!("pool/BDF/{name}"),
    }));
    known.extend(relative::ANNOUNCED.map(|path| format!("/local/domain/S/{path}")));
    // These two are directories.
    known.remove("/tool/pcidom/device/BDF");
    known.remove("/local/domain/S/data/pcidom/query");
    known.insert("/local/domain/S/data/pcidom/query/N".to_owned());
    let missing: Vec<_> = known.difference(&described).collect();
    assert!(missing.is_empty(), "docs/xenstore.md does not describe {missing:?}");

    let ours = described.iter().filter(|path| {
        path.starts_with("/tool/") || path.starts_with("pool/") || path.starts_with("/local/domain/S/data/")
    });
    let unknown: Vec<_> = ours.filter(|path| !known.contains(*path)).collect();
    assert!(unknown.is_empty(), "the contract does not have {unknown:?}");
}

#[test]
fn every_word_is_described() {
    let states = [PoolState::New, PoolState::Free, PoolState::Assigned(STUB), PoolState::Released];
    let more = [PoolState::Absent(STUB), PoolState::Refused(String::new())];
    for state in states.iter().chain(&more) {
        let word = state.word();
        assert!([format!("`{word}`"), format!("`{word} ")].iter().any(|text| XENSTORE.contains(text)), "{word}");
    }
    let phases = Phase::ALL.map(Phase::name);
    for word in phases.into_iter().chain(ExportMode::ALL.map(ExportMode::name)).chain(statistics::NAMES) {
        assert!(XENSTORE.contains(&format!("`{word}`")), "{word}");
    }
    for command in BrokerCommand::ALL {
        let number = if command.raw() < 0x100 { command.raw().to_string() } else { format!("{:#x}", command.raw()) };
        let row = format!("{number} `{command}`");
        assert!(BROKER.contains(&row), "docs/broker.md does not describe {row}");
    }
}

#[test]
fn the_paths_stay_where_they_are() {
    for (path, want) in [
        (paths::pool_root(STUB), "/local/domain/3/pool"),
        (paths::pool_dir(STUB, device()), "/local/domain/3/pool/0000-00-05-0"),
        (paths::pool_state_node(STUB, device()), "/local/domain/3/pool/0000-00-05-0/state"),
        (paths::announcements_dir(STUB), "/local/domain/3/data/pcidom"),
        (paths::version_node(STUB), "/local/domain/3/data/pcidom/version"),
        (paths::export_node(STUB), "/local/domain/3/data/pcidom/export"),
        (paths::ring_ref_node(STUB), "/local/domain/3/data/pcidom/ring-ref"),
        (paths::ring_port_node(STUB), "/local/domain/3/data/pcidom/event-channel"),
        (paths::query_node(STUB), "/local/domain/3/data/pcidom/query"),
        (paths::statistics_node(STUB), "/local/domain/3/data/pcidom/statistics"),
        (paths::device_dir(device()), "/tool/pcidom/device/0000-00-05-0"),
        (DeviceNode::Phase.of(device()), "/tool/pcidom/device/0000-00-05-0/phase"),
        (paths::intent_node(device()), "/tool/pcidom/work/0000-00-05-0"),
        (paths::override_node(device()), "/tool/pcidom/work/0000-00-05-0/override"),
        (paths::vector_cleanup_node(DomId(5)), "/tool/pcidom/vector-cleanup/5"),
        (paths::command_node(4711), "/tool/pcidom/command/4711"),
        (paths::paused_node(DomId(5)), "/tool/pcidom/paused/5"),
        (paths::creation_node("0b1e"), "/tool/pcidom/create/0b1e"),
        (paths::held_node(device()), "/tool/pcidom/held/0000-00-05-0"),
    ] {
        assert_eq!(path, want);
    }
    let roots = [
        (paths::DEVICES, "device"),
        (paths::INTENTS, "work"),
        (paths::VECTOR_CLEANUPS, "vector-cleanup"),
        (paths::COMMANDS, "command"),
        (paths::PAUSED, "paused"),
        (paths::CREATIONS, "create"),
        (paths::HELD, "held"),
        (paths::BROKER, "broker"),
    ];
    for (root, path) in roots {
        assert_eq!(root, child(paths::TOOL, path));
    }
}

#[test]
fn xenstored_takes_every_path() {
    let (stub, widest) = (DomId(u16::MAX), Sbdf::from_devfn(0xffff, 0xff, 0xff));
    let mut all = vec![paths::statistics_node(stub), paths::override_node(widest), paths::command_node(u32::MAX)];
    all.extend(pool::NODES.map(|name| child(&paths::pool_dir(stub, widest), name)));
    all.extend(DeviceNode::ALL.map(|node| node.of(widest)));
    all.push(paths::creation_node("00000000-0000-0000-0000-000000000000"));
    all.push(relative::pool_dir(widest));
    for path in all {
        assert_eq!(validate(&path), Ok(()), "{path}");
    }
}

#[test]
fn events_below_the_pool_lead_back_to_the_device() {
    assert_eq!(relative::split_pool(&relative::pool_dir(device())), Some((device(), "")));
    assert_eq!(relative::split_pool("pool/0000-00-05-0/online"), Some((device(), "online")));
    for other in ["", "pool", "pool/", "pool/x", "pool/0000-00-05-8", "pools/0000-00-05-0", "/pool/0000-00-05-0"] {
        assert_eq!(relative::split_pool(other), None, "{other:?}");
    }
}

/// Who changes this line asks whether the parts of the version before still understand it: [`pcidom_abi::VERSION`].
#[test]
fn a_changed_contract_is_noticed() {
    let words = [
        PoolState::Assigned(DomId(5)).to_string(),
        DeviceNode::ALL.map(DeviceNode::name).join(" "),
        Phase::ALL.map(Phase::name).join(" "),
        BrokerCommand::ALL.map(|command| command.raw().to_string()).join(" "),
        pool::NODES.join(" "),
        PermittedWrites::default().to_string(),
    ];
    assert_eq!(pcidom_abi::VERSION, 1);
    assert_eq!(
        words,
        [
            "assigned 5",
            "stub frontend target phase policy permitted-writes reset pirqs leaked backend persistent spec export silent vectors intx mended isolated",
            "pool attaching attached detaching leaked",
            "1 2 3 4 5 10 256 257 258",
            "ecam ids irq online state policy aer resource-0 resource-1 resource-2 resource-3 resource-4 resource-5 resource-6",
            "identity:0:0",
        ]
    );
}

/// They can be used as they are.
#[test]
fn the_generic_crates_do_not_know_us() {
    fn look(dir: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let is_ours = |line: &&str| line.to_lowercase().contains("pcidom");
                found.extend(text.lines().filter(is_ours).map(|line| format!("{}: {line}", path.display())));
            }
        }
    }
    let mut found = Vec::new();
    for name in ["pciif", "xen-types", "xenstore"] {
        look(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name), &mut found);
    }
    assert!(found.is_empty(), "{found:#?}");
}
