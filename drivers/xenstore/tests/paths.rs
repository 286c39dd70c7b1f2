//! The paths as libxl and xenbus have them, absolute and as a domain says its own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use xen_types::{DomId, Sbdf};
use xenstore::path::{self, key, relative};

const STUB: DomId = DomId(3);
const FRONTEND: DomId = DomId(12);

fn device() -> Sbdf {
    Sbdf::new(0, 0, 5, 0).unwrap()
}

#[test]
fn paths_are_those_of_libxl() {
    assert_eq!(path::domain_path(STUB), "/local/domain/3");
    assert_eq!(path::backend_root(STUB), "/local/domain/3/backend/pci");
    assert_eq!(path::backend_dir(STUB, FRONTEND), "/local/domain/3/backend/pci/12/0");
    assert_eq!(path::frontend_dir(FRONTEND), "/local/domain/12/device/pci/0");
    assert_eq!(path::error_node(STUB, FRONTEND), "/local/domain/3/error/backend/pci/12/0/error");
    assert_eq!(path::libxl_pci_dir(device()), "/libxl/pci/0000-00-05-0");
    assert_eq!(path::child("/", "a"), "/a");
    assert_eq!(path::child(&path::backend_dir(STUB, FRONTEND), &key::dev(3)), "/local/domain/3/backend/pci/12/0/dev-3");
}

#[test]
fn every_path_that_we_build_is_one_that_xenstored_takes() {
    let widest = Sbdf::from_devfn(0xffff, 0xff, 0xff);
    let (stub, frontend) = (DomId(u16::MAX), DomId(u16::MAX));
    for built in [
        path::backend_dir(stub, frontend),
        path::frontend_dir(frontend),
        path::error_node(stub, frontend),
        path::libxl_pci_dir(widest),
        relative::error_node(frontend),
        path::INTRODUCE_DOMAIN.into(),
        path::RELEASE_DOMAIN.into(),
    ] {
        assert_eq!(path::validate(&built), Ok(()), "{built}");
    }
}

#[test]
fn events_below_the_backend_lead_back_to_the_frontend() {
    assert_eq!(relative::split_backend(&relative::backend_dir(FRONTEND)), Some((FRONTEND, "")));
    assert_eq!(relative::split_backend("backend/pci/12/0/state-3"), Some((FRONTEND, "state-3")));
}

#[test]
fn other_events_lead_nowhere() {
    for other in [
        "",
        "backend",
        "backend/pci",
        "backend/pci/",
        "backend/pci/12",
        "backend/pci/12/1/state",
        "backend/pci/12/00",
        "backend/pci/x/0",
        "backend/pci/+1/0",
        "backend/pci/65536/0",
        "backend/pcix/12/0",
        "/backend/pci/12/0",
    ] {
        assert_eq!(relative::split_backend(other), None, "{other:?}");
    }
}
