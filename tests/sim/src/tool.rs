//! The toolstack's nodes (`docs/xenstore.md`), in libxl's shapes.

use pci_config::{Policy, permitted_writes};
use pcidom_abi::pool::PolicyNumbers;
use pcidom_abi::{AerValue, DeviceNode, Phase, paths};
use xen_types::{DomId, Sbdf};

use crate::broker::quiesce;
use crate::device::Function;
use crate::xen::SimXen;
use xenstored::{Direct, Refusal};

pub use crate::xen::ecam;

/// dom0's hand.
#[derive(Clone, Debug)]
pub struct SimTool {
    xen: SimXen,
    stub: DomId,
}

impl SimTool {
    /// For the stub in this domain.
    #[must_use]
    pub const fn new(xen: SimXen, stub: DomId) -> Self {
        Self { xen, stub }
    }

    /// Changes the store as one.
    ///
    /// # Panics
    /// When xenstored refuses, which it does not to dom0 unless the test is wrong.
    pub fn change<T>(&self, work: impl FnOnce(&mut Direct<'_>) -> Result<T, Refusal>) -> T {
        self.xen.store().change(DomId::DOM0, work).expect("dom0 may do everything")
    }

    /// Writes one node.
    pub fn write(&self, path: &str, value: &str) {
        self.change(|store| store.write(path, value));
    }

    /// A node's value.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<String> {
        self.xen.store().peek(path)
    }

    /// The BE dir of a guest.
    #[must_use]
    pub fn backend_dir(&self, guest: DomId) -> String {
        format!("/local/domain/{}/backend/pci/{guest}/0", self.stub)
    }

    /// The FE dir of a guest.
    #[must_use]
    pub fn frontend_dir(guest: DomId) -> String {
        format!("/local/domain/{guest}/device/pci/0")
    }

    /// The error node of a guest.
    #[must_use]
    pub fn error(&self, guest: DomId) -> Option<String> {
        self.read(&format!("/local/domain/{}/error/backend/pci/{guest}/0/error", self.stub))
    }

    /// A node of the BE dir.
    #[must_use]
    pub fn backend(&self, guest: DomId, name: &str) -> Option<String> {
        self.read(&format!("{}/{name}", self.backend_dir(guest)))
    }

    /// The pool's `state` of a device.
    #[must_use]
    pub fn pool_state(&self, address: Sbdf) -> Option<String> {
        self.read(&format!("{}/state", self.pool_dir(address)))
    }

    fn pool_dir(&self, address: Sbdf) -> String {
        format!("/local/domain/{}/pool/{}", self.stub, address.path_component())
    }

    /// Creates the stub's domain with the nodes that libxl and the tool give it.
    pub fn create_stub(&self) {
        let stub = self.stub;
        self.xen.create_domain(stub);
        let (owner, reader) = (format!("n{stub}"), format!("r{stub}"));
        self.change(|store| {
            let dir = format!("/local/domain/{stub}");
            store.mkdir(&dir)?;
            store.set_permissions(&dir, &["n0", &reader])?;
            store.write(&format!("{dir}/domid"), stub.to_string())?;
            for name in ["backend", "pool"] {
                store.mkdir(&format!("{dir}/{name}"))?;
            }
            store.mkdir(&format!("{dir}/control"))?;
            for name in ["control/shutdown", "data", "error"] {
                store.mkdir(&format!("{dir}/{name}"))?;
                store.set_permissions(&format!("{dir}/{name}"), &[&owner])?;
            }
            Ok(())
        });
    }

    /// Creates a guest's domain.
    pub fn create_guest(&self, guest: DomId) {
        self.xen.create_domain(guest);
        self.change(|store| {
            let dir = format!("/local/domain/{guest}");
            store.mkdir(&dir)?;
            store.set_permissions(&dir, &["n0", &format!("r{guest}")])
        });
    }

    /// Ends a guest: its domain and its tree, as `xl destroy` does. The BE dir stays.
    pub fn destroy_guest(&self, guest: DomId) {
        self.xen.destroy_domain(guest);
        self.change(|store| store.remove(&format!("/local/domain/{guest}")));
        self.xen.store().announce("@releaseDomain");
    }

    /// Plugs a function in and puts it into the pool.
    pub fn add_to_pool(&self, address: Sbdf, function: Function) {
        self.xen.plug(ecam(address), function);
        self.xen.permit(self.stub, ecam(address), true);
        self.describe(address, &format!("{:x}", ecam(address)));
        self.change(|store| {
            store.write(&DeviceNode::Stub.of(address), self.stub.to_string())?;
            store.write(&DeviceNode::Phase.of(address), Phase::Pool.name())
        });
    }

    /// Gives devices' DMA to a guest, and enters that they are its own and what may be written to them.
    pub(crate) fn assign(&self, guest: DomId, devices: impl Iterator<Item = Sbdf>) {
        for device in devices {
            self.xen.assign(device, guest);
            let policy = Policy::default().with_resets(true, true);
            let list = self.xen.with_function(ecam(device), |function| permitted_writes(function, &policy));
            let list = list.map(|list| list.to_node().expect("few registers"));
            self.change(|store| {
                if let Some(list) = &list {
                    store.write(&DeviceNode::PermittedWrites.of(device), list)?;
                }
                store.write(&DeviceNode::Frontend.of(device), guest.to_string())?;
                store.write(&DeviceNode::Phase.of(device), Phase::Attached.name())
            });
        }
    }

    /// Writes the pool's nodes of a device.
    pub fn describe(&self, address: Sbdf, ecam: &str) {
        let (dir, writable) = (self.pool_dir(address), format!("b{}", self.stub));
        self.change(|store| {
            store.write(&format!("{dir}/ecam"), ecam)?;
            store.write(&format!("{dir}/resource-0"), "0xfeb00000 0x1000 mem32")?;
            store.write(&format!("{dir}/irq"), "11")?;
            store.write(&format!("{dir}/online"), "1")?;
            store.write(&format!("{dir}/state"), "new")?;
            store.set_permissions(&format!("{dir}/state"), &["n0", &writable])
        });
    }

    /// Tells the stub that dom0 resets a device for its guest.
    pub fn offer_reset(&self, address: Sbdf) {
        let numbers = PolicyNumbers(Policy::default().with_resets(true, true).policy_flags().numbers());
        self.write(&format!("{}/policy", self.pool_dir(address)), &numbers.to_string());
        self.write(&format!("{}/state", self.pool_dir(address)), "new");
    }

    /// Takes back a device that a guest has left: quiesces it where that was not done, and enters that it is nobody's.
    pub(crate) fn release(&self, guest: DomId, device: Sbdf) {
        let has_vectors = self.read(&DeviceNode::Vectors.of(device)).is_some_and(|vectors| vectors != "none");
        let is_quiesced = self.xen.with_function(ecam(device), |function| function.is_quiesced());
        if has_vectors || is_quiesced == Some(false) {
            quiesce(&self.xen, guest, device);
        }
        self.xen.deassign(device);
        self.change(|store| {
            for node in [DeviceNode::Vectors, DeviceNode::Intx, DeviceNode::Frontend, DeviceNode::PermittedWrites] {
                remove_if_there(store, &node.of(device))?;
            }
            store.write(&DeviceNode::Phase.of(device), Phase::Pool.name())
        });
    }

    /// Asks the stub to let go of a device, or to take it again.
    pub fn set_online(&self, address: Sbdf, is_online: bool) {
        self.write(&format!("{}/online", self.pool_dir(address)), if is_online { "1" } else { "0" });
    }

    /// Has a guest told of a device's error: the value of the device's `aer` node.
    pub fn tell(&self, address: Sbdf, value: AerValue) {
        let (node, writable) = (format!("{}/aer", self.pool_dir(address)), format!("b{}", self.stub));
        self.change(|store| {
            store.write(&node, value.to_string())?;
            store.set_permissions(&node, &["n0", &writable])
        });
    }

    /// What that node says.
    #[must_use]
    pub fn told(&self, address: Sbdf) -> Option<String> {
        self.read(&format!("{}/aer", self.pool_dir(address)))
    }

    /// Has nothing more to tell of a device.
    pub fn tell_no_more(&self, address: Sbdf) {
        self.change(|store| remove_if_there(store, &format!("{}/aer", self.pool_dir(address))));
    }

    /// Takes a device's nodes away, and the permission.
    pub fn remove_from_pool(&self, address: Sbdf) {
        self.change(|store| {
            store.remove(&self.pool_dir(address))?;
            store.remove(&paths::device_dir(address))
        });
        self.xen.permit(self.stub, ecam(address), false);
    }

    /// Both directories of a guest that has none, in one transaction.
    pub fn attach(&self, guest: DomId, devices: &[Sbdf]) {
        self.assign(guest, devices.iter().copied());
        self.change(|store| {
            self.write_backend_dir(store, guest, devices)?;
            self.write_frontend_dir(store, guest)
        });
    }

    /// The same with an export mode of the guest's own.
    pub fn attach_as(&self, guest: DomId, mode: &str, devices: &[Sbdf]) {
        self.assign(guest, devices.iter().copied());
        self.change(|store| {
            self.write_backend_dir(store, guest, devices)?;
            store.write(&format!("{}/export", self.backend_dir(guest)), mode)?;
            self.write_frontend_dir(store, guest)
        });
    }

    /// The nodes of so many virtual buses, those that are there included.
    ///
    /// # Errors
    /// As xenstored.
    pub fn write_roots(&self, store: &mut Direct<'_>, guest: DomId, buses: usize) -> Result<(), Refusal> {
        for root in (0..buses).map(|root| format!("root-{root}")) {
            if store.read(&format!("{}/{root}", self.backend_dir(guest))).is_err() {
                self.write_for_stub(store, guest, &root, "")?;
            }
        }
        Ok(())
    }

    /// The FE dir alone.
    ///
    /// # Errors
    /// As xenstored.
    pub fn write_frontend_dir(&self, store: &mut Direct<'_>, guest: DomId) -> Result<(), Refusal> {
        let dir = Self::frontend_dir(guest);
        store.mkdir(&dir)?;
        store.set_permissions(&dir, &[&format!("n{guest}"), &format!("r{}", self.stub)])?;
        store.write(&format!("{dir}/backend"), self.backend_dir(guest))?;
        store.write(&format!("{dir}/backend-id"), self.stub.to_string())?;
        store.write(&format!("{dir}/state"), "1")
    }

    /// The BE dir alone.
    ///
    /// # Errors
    /// As xenstored.
    pub fn write_backend_dir(&self, store: &mut Direct<'_>, guest: DomId, devices: &[Sbdf]) -> Result<(), Refusal> {
        let dir = self.backend_dir(guest);
        let (ours, peer) = (format!("r{}", self.stub), format!("r{guest}"));
        store.mkdir(&dir)?;
        store.set_permissions(&dir, &["n0", &ours, &peer])?;
        store.write(&format!("{dir}/frontend"), Self::frontend_dir(guest))?;
        store.write(&format!("{dir}/frontend-id"), guest.to_string())?;
        store.write(&format!("{dir}/online"), "1")?;
        store.write(&format!("{dir}/domain"), "guest")?;
        for (index, address) in (0..).zip(devices) {
            self.write_device(store, guest, index, *address)?;
        }
        store.write(&format!("{dir}/num_devs"), devices.len().to_string())?;
        self.write_for_stub(store, guest, "root_num", "")?;
        self.write_roots(store, guest, devices.len().max(1))?;
        self.write_for_stub(store, guest, "state", "1")
    }

    /// The nodes of one device.
    ///
    /// # Errors
    /// As xenstored.
    pub fn write_device(&self, store: &mut Direct<'_>, guest: DomId, index: u32, address: Sbdf) -> Result<(), Refusal> {
        let dir = self.backend_dir(guest);
        store.write(&format!("{dir}/key-{index}"), address.to_string())?;
        store.write(&format!("{dir}/dev-{index}"), address.to_string())?;
        let options = "msitranslate=0,power_mgmt=0,permissive=0,rdm_policy=strict";
        store.write(&format!("{dir}/opts-{index}"), options)?;
        self.write_for_stub(store, guest, &format!("vdev-{index}"), "")?;
        self.write_for_stub(store, guest, &format!("state-{index}"), "1")
    }

    pub(crate) fn write_for_stub(
        &self,
        store: &mut Direct<'_>,
        guest: DomId,
        name: &str,
        value: &str,
    ) -> Result<(), Refusal> {
        let path = format!("{}/{name}", self.backend_dir(guest));
        store.write(&path, value)?;
        store.set_permissions(&path, &["n0", &format!("b{}", self.stub), &format!("r{guest}")])
    }

    /// Asks both sides to close for good, as libxl does with any device.
    pub fn request_close(&self, guest: DomId) {
        let dir = self.backend_dir(guest);
        self.change(|store| {
            store.write(&format!("{dir}/online"), "0")?;
            store.write(&format!("{dir}/state"), "5")
        });
    }

    /// Removes the BE dir and, if it is still there, the FE dir.
    pub fn remove_dirs(&self, guest: DomId) {
        self.change(|store| {
            store.remove(&format!("/local/domain/{}/backend/pci/{guest}", self.stub))?;
            match store.remove(&Self::frontend_dir(guest)) {
                Err(Refusal::NoSuchNode) => Ok(()), // the guest is gone
                other => other,
            }
        });
    }
}

/// Removes a node where there is one.
pub(crate) fn remove_if_there(store: &mut Direct<'_>, path: &str) -> Result<(), Refusal> {
    match store.remove(path) {
        Err(Refusal::NoSuchNode) => Ok(()),
        other => other,
    }
}
