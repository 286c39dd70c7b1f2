//! The two directories through which backend and frontend find each other, in libxl's shapes (`docs/xenstore.md`).

pub(crate) use pcidom_broker::replaced;

use pcidom_abi::EXPORT;
use xen_types::DomId;
use xenstore::path::{self, key};
use xenstore::{Permission, XenbusState};

use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::records::device_spec::DeviceSpec;
use crate::records::entries::{self, Entries};
use crate::records::export::Export;
use crate::store::Change;

/// Creates both directories for a guest that has none.
pub(crate) fn create(stub: DomId, guest: &DomainName, export: &Export, devices: &[DeviceSpec]) -> Vec<Change> {
    let (backend, frontend) = (path::backend_dir(stub, guest.id), path::frontend_dir(guest.id));
    let ours = [Permission::none(DomId::DOM0), Permission::read(stub), Permission::read(guest.id)];
    let stubs = entries::stub_writable(stub, guest.id);
    let in_backend = |name: &str| path::child(&backend, name);

    let mut changes = Change::directory(backend.clone(), &ours).to_vec();
    changes.extend([
        Change::write(in_backend(key::FRONTEND), &frontend),
        Change::write(in_backend(key::FRONTEND_ID), guest.id),
        Change::write(in_backend(key::ONLINE), 1),
        Change::write(in_backend(key::DOMAIN), guest.name.as_deref().unwrap_or_default()),
    ]);
    if export.is_chosen {
        changes.push(Change::write(in_backend(EXPORT), &export.mode));
    }
    changes.extend(Change::node(in_backend(key::STATE), XenbusState::Initialising, &stubs));
    changes.extend(Entries::none(stub, guest.id).append(export, devices));
    changes.extend(Change::node(in_backend(key::ROOT_NUM), "", &stubs));

    changes.extend(Change::directory(frontend.clone(), &[Permission::none(guest.id), Permission::read(stub)]));
    changes.extend([
        Change::write(path::child(&frontend, key::BACKEND), &backend),
        Change::write(path::child(&frontend, key::BACKEND_ID), stub),
        Change::write(path::child(&frontend, key::STATE), XenbusState::Initialising),
    ]);
    changes
}

/// Refuses a guest whose frontend directory is not ours any more.
pub(crate) fn check_frontend(host: &Host, stub: DomId, guest: &DomainName) -> Result<(), Error> {
    match replaced(host, stub, guest.id)? {
        Some(backend) => Err(Error::FrontendReplaced { guest: guest.clone(), backend }),
        None => Ok(()),
    }
}

/// Removes both directories, what the stub reported about this frontend, and what is empty above them. A frontend directory that was
/// replaced is somebody else's and stays.
pub(crate) fn remove(host: &Host, stub: DomId, guest: DomId) -> Result<Vec<Change>, Error> {
    let backend = path::backend_root(stub);
    let domain = path::domain_path(stub);
    let errors = format!("{domain}/error/backend");
    let mut changes = vec![
        Change::remove(format!("{backend}/{guest}")),
        Change::remove_if_empty(backend),
        Change::remove_if_empty(format!("{domain}/backend")),
        Change::remove(format!("{errors}/pci/{guest}")),
        Change::remove_if_empty(format!("{errors}/pci")),
        Change::remove_if_empty(errors),
    ];
    if replaced(host, stub, guest)?.is_none() {
        changes.push(Change::remove(path::frontend_dir(guest)));
        changes.push(Change::remove_if_empty(format!("{}/device/pci", path::domain_path(guest))));
    }
    Ok(changes)
}

/// The state of the end whose directory this is.
pub(crate) fn end_state(host: &Host, dir: &str) -> Result<XenbusState, Error> {
    host.read_state(&path::child(dir, key::STATE))
}

/// Backend and frontend directory of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) back: XenbusState,
    pub(crate) front: XenbusState,
}

impl Ends {
    pub(crate) fn read(host: &Host, stub: DomId, guest: DomId) -> Result<Self, Error> {
        let nodes = Self::nodes(stub, guest);
        let [back, front] = host.read_many(nodes.each_ref().map(String::as_str))?;
        let state = |value: Option<String>| value.map(XenbusState::parse).unwrap_or_default();
        Ok(Self { back: state(back), front: state(front) })
    }

    /// In use, and nothing is changing.
    pub(crate) fn are_connected(self) -> bool {
        self == Self { back: XenbusState::Connected, front: XenbusState::Connected }
    }

    /// The guest was asked to look at the set of devices, and has not moved.
    pub(crate) fn are_asked(self) -> bool {
        self == Self { back: XenbusState::Reconfiguring, front: XenbusState::Connected }
    }

    /// No frontend has come yet, and the stub has exported what there was.
    pub(crate) fn are_unmet(self) -> bool {
        let absent = matches!(self.front, XenbusState::Unknown | XenbusState::Initialising | XenbusState::InitWait);
        absent && self.back == XenbusState::Initialised
    }

    /// The guest does not use any device (any more).
    pub(crate) fn are_closed(self) -> bool {
        let gone = matches!(self.front, XenbusState::Unknown | XenbusState::Closed);
        gone && matches!(self.back, XenbusState::Unknown | XenbusState::Closed)
    }

    /// What a transaction expects that must happen in just this state.
    pub(crate) fn expected(self, stub: DomId, guest: DomId) -> Vec<Change> {
        let dirs = [(path::backend_dir(stub, guest), self.back), (path::frontend_dir(guest), self.front)];
        let known = dirs.into_iter().filter(|(_, state)| *state != XenbusState::Unknown);
        known.map(|(dir, state)| Change::expect_state(path::child(&dir, key::STATE), state)).collect()
    }

    fn nodes(stub: DomId, guest: DomId) -> [String; 2] {
        [path::backend_dir(stub, guest), path::frontend_dir(guest)].map(|dir| path::child(&dir, key::STATE))
    }

    /// Paths at which to wait for a change, of the domains too. What else is in the directories is written before the state that goes
    /// with it, or in the same transaction.
    pub(crate) fn watched(stub: DomId, guest: DomId) -> Vec<String> {
        let [back, front] = Self::nodes(stub, guest);
        vec![back, front, path::RELEASE_DOMAIN.to_owned()]
    }
}

/// Sets the backend's own state, as only the toolstack may: 4, 5 or 7.
pub(crate) fn set_back(stub: DomId, guest: DomId, state: XenbusState) -> Change {
    Change::write(path::child(&path::backend_dir(stub, guest), key::STATE), state)
}

/// Whether the devices shall stay (1) or go for good (0).
pub(crate) fn set_online(stub: DomId, guest: DomId, online: u8) -> Change {
    Change::write(path::child(&path::backend_dir(stub, guest), key::ONLINE), online)
}
