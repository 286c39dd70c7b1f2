//! The two directories through which backend and frontend find each other, in libxl's shapes (`docs/xenstore.md`).

use std::collections::BTreeSet;

use xen_types::DomId;
use xenstore::{Permission, XenbusState, path};

use crate::device_spec::DeviceSpec;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::store::Change;

/// Slots of a PCI bus.
const SLOTS: usize = 32;

/// Creates both directories for a guest that has none. With everything the stub will write in place already: an unprivileged
/// domain may own only so many nodes, these are dom0's.
pub(crate) fn create(stub: DomId, guest: &DomainName, export: &str, devices: &[DeviceSpec]) -> Vec<Change> {
    let (backend, frontend) = (path::backend_dir(stub, guest.id), path::frontend_dir(guest.id));
    let ours = [Permission::none(DomId::DOM0), Permission::read(stub), Permission::read(guest.id)];
    let stubs = [Permission::none(DomId::DOM0), Permission::both(stub), Permission::read(guest.id)];
    let in_backend = |name: &str| path::child(&backend, name);

    let mut changes = Change::directory(backend.clone(), &ours).to_vec();
    changes.extend([
        Change::write(in_backend("frontend"), &frontend),
        Change::write(in_backend("frontend-id"), guest.id),
        Change::write(in_backend("online"), 1),
        Change::write(in_backend("domain"), guest.name.as_deref().unwrap_or_default()),
        Change::write(in_backend("num_devs"), devices.len()),
    ]);
    changes.extend(Change::node(in_backend("state"), XenbusState::Initialising, &stubs));
    for (index, spec) in devices.iter().enumerate() {
        let numbered = |name: &str| path::child(&backend, &format!("{name}-{index}"));
        changes.extend([
            Change::write(numbered("key"), spec.device),
            Change::write(numbered("dev"), spec.device),
            Change::write(numbered("opts"), spec.opts()),
        ]);
        changes.extend(spec.vdevfn().map(|vdevfn| Change::write(numbered("vdevfn"), format!("{vdevfn:x}"))));
        changes.extend(spec.name.as_ref().map(|name| Change::write(numbered("name"), name)));
        changes.extend(Change::node(numbered("state"), XenbusState::Initialising, &stubs));
        changes.extend(Change::node(numbered("vdev"), "", &stubs));
    }
    changes.extend(Change::node(in_backend("root_num"), "", &stubs));
    for root in 0..roots(export, devices) {
        changes.extend(Change::node(in_backend(&format!("root-{root}")), "", &stubs));
    }

    changes.extend(Change::directory(frontend.clone(), &[Permission::none(guest.id), Permission::read(stub)]));
    changes.extend([
        Change::write(path::child(&frontend, "backend"), &backend),
        Change::write(path::child(&frontend, "backend-id"), stub),
        Change::write(path::child(&frontend, "state"), XenbusState::Initialising),
    ]);
    changes
}

/// How many virtual buses the devices may need in the stub's export mode.
fn roots(export: &str, devices: &[DeviceSpec]) -> usize {
    let buses = || devices.iter().map(|spec| (spec.device.segment(), spec.device.bus())).collect::<BTreeSet<_>>();
    match export {
        "slot" => devices.len().div_ceil(SLOTS),
        "passthrough" => buses().len(),
        _ => 1,
    }
}

/// Removes both directories, what the stub reported about this frontend, and what is empty above them.
pub(crate) fn remove(stub: DomId, guest: DomId) -> Vec<Change> {
    let (backend, frontend) = (path::backend_root(stub), path::frontend_dir(guest));
    let domain = path::domain_path(stub);
    let errors = format!("{domain}/error/backend");
    vec![
        Change::remove(format!("{backend}/{guest}")),
        Change::remove_if_empty(backend),
        Change::remove_if_empty(format!("{domain}/backend")),
        Change::remove(format!("{errors}/pci/{guest}")),
        Change::remove_if_empty(format!("{errors}/pci")),
        Change::remove_if_empty(errors),
        Change::remove(frontend),
        Change::remove_if_empty(format!("{}/device/pci", path::domain_path(guest))),
    ]
}

/// The state of the end whose directory this is.
pub(crate) fn end_state(host: &Host, dir: &str) -> Result<XenbusState, Error> {
    host.read_state(&path::child(dir, "state"))
}
