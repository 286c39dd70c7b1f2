//! `pcidom status` with the real backend in the stub.

use super::request;
use crate::cli::prometheus::tests::parse;
use crate::cli::status::{prometheus_down, status};
use crate::error::Error;
use crate::fake::{E1000, EDU, Machine, MachineWithStub, NVME, STUB, device};
use crate::ops::attach::attach;

#[test]
fn it_says_how_the_stub_is_and_leaves_nothing_behind() {
    let machine = MachineWithStub::new();
    crate::ops::assignable::add(&machine.host, &[E1000, EDU, NVME].map(device), "pcidom").unwrap();
    attach(&machine.host, &request("web", &[EDU])).unwrap();
    let before = machine.with_peers(|peers| peers.xen.store().dump());
    let status = status(&machine.host, "pcidom").unwrap();
    status.check().unwrap();
    assert_eq!(machine.with_peers(|peers| peers.xen.store().dump()), before);

    let json: serde_json::Value = serde_json::from_str(&status.json()).unwrap();
    assert_eq!(json["stub"]["id"], STUB.0);
    assert_eq!(json["devices"], serde_json::json!({ "free": 2, "assigned": 1, "refused": 0, "other": 0 }));
    assert_eq!(json["frontends"][0]["guest"]["name"], "web");
    assert_eq!(json["frontends"][0]["frontend_state"], "Connected");
    assert_eq!(json["frontends"][0]["devices"], 1);
    assert_eq!(json["statistics"]["grants"], 1);
    assert_eq!(json["statistics"]["frontends"], 1);
    assert!(json["statistics"]["reads"].as_u64().unwrap() > 0);
    let text = status.text();
    for want in [
        "pcidom (3)",
        "2 free, 1 assigned",
        "web (5): 1 device, backend Connected, frontend Connected",
        "denied writes",
    ] {
        assert!(text.contains(want), "{want}: {text}");
    }
}

#[test]
fn a_collector_reads_the_same() {
    let machine = MachineWithStub::new();
    crate::ops::assignable::add(&machine.host, &[E1000, EDU, NVME].map(device), "pcidom").unwrap();
    attach(&machine.host, &request("web", &[EDU])).unwrap();
    let status = status(&machine.host, "pcidom").unwrap();
    let samples = parse(&status.prometheus());
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let has = |labels: &[(String, String)], (label, text): &(&str, &str)| {
            labels.iter().any(|(other, value)| other == label && value == text)
        };
        let mut found =
            samples.iter().filter(|(other, labels, _)| other == name && wanted.iter().all(|label| has(labels, label)));
        let (_, _, value) = found.next().unwrap_or_else(|| panic!("no {name} {wanted:?}"));
        assert!(found.next().is_none(), "{name} {wanted:?} is there twice");
        *value
    };
    assert_eq!(value("pcidom_up", &[("backend", "pcidom")]), 1.0);
    assert_eq!(value("pcidom_devices", &[("state", "free")]), 2.0);
    assert_eq!(value("pcidom_frontend_devices", &[("guest", "web"), ("domain", "5")]), 1.0);
    assert_eq!(value("pcidom_frontend_connected", &[("guest", "web")]), 1.0);
    assert_eq!(value("pcidom_grants_in_use", &[]), 1.0);
    assert!(value("pcidom_reads_total", &[]) > 0.0);
    // Every statistic is there, and all that is not is told otherwise.
    let statistics = samples.iter().filter(|(name, ..)| {
        ["_total", "_in_use", "_seconds"].iter().any(|end| name.ends_with(end)) || name.starts_with("pcidom_heap_")
    });
    // And the restarts, which are no statistic of its.
    assert_eq!(statistics.count(), pcidom_abi::statistics::COUNT + 1);
    assert_eq!(value("pcidom_restarts_total", &[]), 0.0);
    let silent = parse(&crate::cli::status::status(&Machine::new().host, "pcidom").unwrap().prometheus());
    assert!(silent.contains(&("pcidom_up".to_owned(), vec![("backend".to_owned(), "pcidom".to_owned())], 0.0)));
    assert_eq!(parse(&prometheus_down("other")).len(), 2);
}

#[test]
fn restarts_in_place_are_shown_with_their_last_words() {
    let machine = MachineWithStub::new();
    let shown = |machine: &MachineWithStub| {
        let status = status(&machine.host, "pcidom").unwrap();
        let json: serde_json::Value = serde_json::from_str(&status.json()).unwrap();
        (status.text().lines().find(|line| line.starts_with("restarts")).map(str::to_owned), json["restarts"].clone())
    };
    assert_eq!(shown(&machine), (None, serde_json::Value::Null));
    let node = format!("/local/domain/{STUB}/data/pcidom/restarts");
    machine.with_peers(|peers| peers.tool.write(&node, "2 22146000 kernel/src/traps.rs:57: trap\u{1b}[2J 14"));
    let (text, json) = shown(&machine);
    assert_eq!(text.unwrap(), "restarts              2, the last in 22 ms: kernel/src/traps.rs:57: trap?[2J 14");
    assert_eq!((json["count"].as_u64(), json["took_ns"].as_u64()), (Some(2), Some(22_146_000)));
}

#[test]
fn a_stub_that_does_not_answer_is_an_error_but_what_is_known_is_shown() {
    let machine = Machine::new(); // its stub knows no statistics
    let status = status(&machine.host, "pcidom").unwrap();
    assert!(status.text().contains("it does not answer"));
    let json: serde_json::Value = serde_json::from_str(&status.json()).unwrap();
    assert!(json["statistics"].is_null());
    assert!(matches!(status.check(), Err(Error::StubSilent { .. })));
    machine.with(|world| {
        assert_eq!(world.children("/local/domain/3/data/pcidom"), ["export", "version"]);
        assert_eq!(world.watches, [""; 0]);
    });
}

#[test]
fn a_stub_that_is_not_there_is_told_apart_from_one_that_is_not_ready() {
    let machine = Machine::new();
    assert!(matches!(status(&machine.host, "nobody"), Err(Error::StubNotRunning(_))));
    machine.with(|world| world.remove("/local/domain/3/data/pcidom"));
    assert!(matches!(status(&machine.host, "pcidom"), Err(Error::StubNotReady(_))));
}

#[test]
fn errors_of_devices_are_counted_wherever_one_looks() {
    let machine = MachineWithStub::new();
    crate::ops::assignable::add(&machine.host, &[E1000, EDU, NVME].map(device), "pcidom").unwrap();
    let put = |name: &str, correctable: u32, fatal: u32| {
        let dir = format!("bus/pci/devices/{name}");
        let tree = &machine.machine.tree;
        tree.write(
            format!("{dir}/aer_dev_correctable"),
            format!("BadTLP {correctable}\nTOTAL_ERR_COR {correctable}\n"),
        );
        tree.write(format!("{dir}/aer_dev_nonfatal"), "TOTAL_ERR_NONFATAL 0\n");
        tree.write(format!("{dir}/aer_dev_fatal"), format!("MalfTLP {fatal}\nTOTAL_ERR_FATAL {fatal}\n"));
    };
    put(EDU, 3, 1);
    put(NVME, 0, 0);
    let words = "1 fatal, 3 correctable (fatal MalfTLP 1, correctable BadTLP 3)";
    let status = status(&machine.host, "pcidom").unwrap();
    assert!(status.text().contains(&format!("{EDU}: {words}")), "{}", status.text());
    let json: serde_json::Value = serde_json::from_str(&status.json()).unwrap();
    assert_eq!(json["errors"].as_array().unwrap().len(), 1);
    assert_eq!((&json["errors"][0]["device"], &json["errors"][0]["fatal"]), (&EDU.into(), &1.into()));
    let metric = |severity: &str| {
        let labels = [("backend", "pcidom"), ("device", EDU), ("severity", severity)];
        let labels = labels.map(|(label, text)| (label.to_owned(), text.to_owned())).to_vec();
        parse(&status.prometheus())
            .into_iter()
            .find(|(name, own, _)| name == "pcidom_device_errors_total" && *own == labels)
    };
    assert_eq!([metric("correctable"), metric("fatal")].map(|sample| sample.unwrap().2), [3.0, 1.0]);
    let listed = crate::cli::list::devices(&machine.host, None).unwrap();
    let table = crate::cli::list::table(&listed);
    assert!(table.lines().any(|line| line.starts_with(EDU) && line.ends_with(&format!("errors: {words}"))), "{table}");
    assert_eq!(table.matches("errors:").count(), 1);
}
