//! What dom0 and the pool say about a device before it moves between dom0's drivers and a pool: plans of such moves are made from it.

use pcidom_abi::{DeviceNode, paths};
use xen_types::{DomId, Sbdf};

use crate::device::resources::DeviceResources;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::domain;
use crate::ops::parking;
use crate::records::device_table;
use crate::records::guard;
use crate::records::reset_note::{self, ResetNote};
use crate::sysfs::PCIBACK;

/// Asks for what stands in xenstore about some devices, for all of them together, during [`dom0::Dom0::at_one_moment`]: whoever looks at one of them then finds
/// it known. With the `stub` also for what it says of them.
pub(crate) fn look_ahead(
    host: &Host,
    stub: Option<DomId>,
    devices: impl IntoIterator<Item = Sbdf>,
) -> Result<(), Error> {
    let mut nodes = Vec::new();
    for device in devices {
        nodes.extend([DeviceNode::Stub, DeviceNode::Frontend, DeviceNode::Phase].map(|node| node.of(device)));
        nodes.extend([DeviceNode::Reset, DeviceNode::Backend, DeviceNode::Persistent].map(|node| node.of(device)));
        nodes.extend([guard::node(device), parking::driver_path_node(device)]);
        nodes.extend(stub.map(|stub| paths::pool_state_node(stub, device)));
    }
    host.read_all(&nodes)?;
    Ok(())
}

/// One device as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceStatus {
    pub(crate) resources: DeviceResources,
    /// dom0 sees it. Of one that was pulled out there is what the pool says.
    pub(crate) is_there: bool,
    /// The driver that has it.
    pub(crate) driver: Option<String>,
    /// What an admin has written to `driver_override`.
    pub(crate) driver_override: Option<String>,
    /// The driver's folder in sysfs to which it goes back, as xl notes it (`driver_path`).
    pub(crate) noted_driver: Option<String>,
    /// xen-pciback accepts it.
    pub(crate) has_slot: bool,
    /// The stub that has it in its pool.
    pub(crate) stub: Option<DomainName>,
    /// What became of its reset since it came into the pool.
    pub(crate) reset: Option<ResetNote>,
    /// It is noted for which backend it is, whether that is there or not.
    pub(crate) has_backend: bool,
    /// Linux knows a way to reset this function alone.
    pub(crate) can_reset: bool,
}

impl DeviceStatus {
    pub(crate) fn gather(host: &Host, device: Sbdf) -> Result<Self, Error> {
        let record = device_table::load_one(host, device)?;
        let resources = match record {
            Some(record) => DeviceResources::find(host, record.stub, device)?,
            None => DeviceResources::gather(host, device)?,
        };
        let is_there = host.sysfs.exists(device);
        Ok(Self {
            resources,
            is_there,
            driver: host.sysfs.driver(device),
            driver_override: host.sysfs.driver_override(device),
            noted_driver: parking::noted_driver(host, device)?,
            has_slot: is_there && host.sysfs.has_pciback_slot(device)?,
            stub: record.map(|record| domain::named(host, record.stub)).transpose()?,
            reset: reset_note::load(host, device)?,
            has_backend: device_table::backend(host, device)?.is_some(),
            can_reset: host.sysfs.can_reset(device),
        })
    }

    pub(crate) fn device(&self) -> Sbdf {
        self.resources.device
    }

    pub(crate) fn is_with_pciback(&self) -> bool {
        self.driver.as_deref() == Some(PCIBACK)
    }

    /// Whether no driver of dom0 is at it.
    pub(crate) fn is_parked(&self) -> bool {
        !self.is_there || self.is_with_pciback()
    }
}
