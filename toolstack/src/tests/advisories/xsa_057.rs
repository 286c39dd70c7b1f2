//! XSA-57 (CVE-2013-2211): libxl left nodes of consoles writable for the guest, which toolstack and dom0 believed.
//!
//! Ours: of what commands write a guest can change nothing but its own frontend directory, whose nodes are believed to be numbers and no more; a stub can change the nodes that
//! were made for it to write, and those of its own announcements.

use super::attached;
use crate::fake::{STUB, WEB};

/// Paths below which a domain may write; `/state` and the like at the end of what was made for the stub.
fn is_guests(path: &str) -> bool {
    ["/local/domain/5/device/pci/0", "/local/domain/5/data", "/local/domain/5/error"]
        .iter()
        .any(|own| path == *own || path.starts_with(&format!("{own}/")))
}

fn is_stubs(path: &str) -> bool {
    let Some(inside) = path.strip_prefix("/local/domain/3/") else { return false };
    let last = inside.rsplit('/').next().unwrap_or_default();
    let written = ["state", "vdev", "root"].iter().any(|name| last == *name || last.starts_with(&format!("{name}-")));
    let is_made_for_it = inside.starts_with("pool/") && last == "state"
        || inside.starts_with("backend/pci/") && (written || last == "root_num");
    is_made_for_it || ["data", "error", "control/shutdown"].iter().any(|own| inside.starts_with(own))
}

#[test]
fn nodes_of_commands_are_not_for_guests_and_stubs_to_write() {
    let machine = attached();
    let paths: Vec<String> = machine.with(|world| world.paths().map(str::to_owned).collect());
    let mut refused = 0;
    machine.with(|world| {
        for path in &paths {
            for (domain, may) in [(WEB, is_guests(path)), (STUB, is_stubs(path))] {
                if may {
                    continue;
                }
                for target in [path.clone(), format!("{}/new", path.trim_end_matches('/'))] {
                    let written = world.store.change(domain, |store| store.write(&target, "1"));
                    assert!(written.is_err(), "domain {domain} writes {target}");
                    refused += 1;
                }
                assert!(
                    world.store.change(domain, |store| store.remove(path)).is_err(),
                    "domain {domain} removes {path}"
                );
            }
        }
    });
    assert!(refused > 200, "{refused} nodes");
}

#[test]
fn the_device_database_is_not_even_for_them_to_read() {
    let machine = attached();
    let paths: Vec<String> = machine.with(|world| world.paths().map(str::to_owned).collect());
    machine.with(|world| {
        for path in paths.iter().filter(|path| path.starts_with("/tool/pcidom") || path.starts_with("/libxl/pci")) {
            for domain in [WEB, STUB] {
                assert!(world.store.change(domain, |store| store.read(path)).is_err(), "domain {domain} reads {path}");
            }
        }
    });
}
