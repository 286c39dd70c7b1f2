//! The nodes of a device in the device database.

use alloc::string::String;

use xen_types::Sbdf;
use xenstore::path::child;

use crate::paths;

/// A node in `/tool/pcidom/device/BDF`. The broker trusts these and nothing that a stub says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceNode {
    /// The id of the stub that has the device.
    Stub,
    /// The id of the guest that has the device or is getting it; absent while it is free.
    Frontend,
    /// Of a device for an HVM guest, whose [`DeviceNode::Frontend`] is its stub domain: the guest's id. Absent for PV guests.
    Target,
    /// A [`crate::Phase`].
    Phase,
    /// The policy of the assignment, in the words of `pcidom attach`; absent for the default one.
    Policy,
    /// What the broker may write to the device for its guest: [`crate::PermittedWrites`]. Absent while no guest has the device.
    PermittedWrites,
    /// What became of the reset since a guest last had the device: [`DeviceNode::RESET_DONE`], perhaps with a blank and Linux's names of methods with commas
    /// between, or one of the other words. Absent where somebody may have used it since.
    Reset,
    /// The interrupts that the device had before they were unmapped: a [`crate::PirqSet`].
    Pirqs,
    /// With [`crate::Phase::Leaked`]: who has what, as people read it.
    Leaked,
    /// The name of the stub that the device is for, which outlives the stub.
    Backend,
    /// A persistent assignment: the guest's UUID.
    Persistent,
    /// A persistent assignment: device and options as `pcidom attach` takes them.
    Spec,
    /// A persistent assignment: the guest's [`crate::ExportMode`], if one was chosen.
    Export,
    /// A persistent assignment: the guest's id and its frontend's state when it did not answer. It is not asked again while both are so.
    Silent,
    /// The [`crate::Vectors`] that are mapped for the guest.
    Vectors,
    /// [`DeviceNode::INTX_OFF`] where the guest itself wants INTx disabled, absent otherwise.
    Intx,
    /// How often libxl's note of the device's owner was put right since the device last changed hands (decimal).
    Mended,
    /// Why the device is isolated from the guest that has it: after an error, in words for people. Absent otherwise.
    Isolated,
}

impl DeviceNode {
    /// Every node.
    pub const ALL: [Self; 18] = [
        Self::Stub,
        Self::Frontend,
        Self::Target,
        Self::Phase,
        Self::Policy,
        Self::PermittedWrites,
        Self::Reset,
        Self::Pirqs,
        Self::Leaked,
        Self::Backend,
        Self::Persistent,
        Self::Spec,
        Self::Export,
        Self::Silent,
        Self::Vectors,
        Self::Intx,
        Self::Mended,
        Self::Isolated,
    ];

    /// In [`DeviceNode::Reset`]: it was reset.
    pub const RESET_DONE: &str = "done";
    /// In [`DeviceNode::Reset`]: there is no way to reset it; its registers were written back.
    pub const RESET_NO_METHOD: &str = "no-method";
    /// In [`DeviceNode::Reset`]: no method succeeded.
    pub const RESET_FAILED: &str = "failed";
    /// In [`DeviceNode::Reset`]: it answers with ones since its reset.
    pub const RESET_LOST: &str = "lost";

    /// The value of [`DeviceNode::Intx`].
    pub const INTX_OFF: &str = "off";

    /// The node's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stub => "stub",
            Self::Frontend => "frontend",
            Self::Target => "target",
            Self::Phase => "phase",
            Self::Policy => "policy",
            Self::PermittedWrites => "permitted-writes",
            Self::Reset => "reset",
            Self::Pirqs => "pirqs",
            Self::Leaked => "leaked",
            Self::Backend => "backend",
            Self::Persistent => "persistent",
            Self::Spec => "spec",
            Self::Export => "export",
            Self::Silent => "silent",
            Self::Vectors => "vectors",
            Self::Intx => "intx",
            Self::Mended => "mended",
            Self::Isolated => "isolated",
        }
    }

    /// The node of this device: `/tool/pcidom/device/BDF/NAME`.
    #[must_use]
    pub fn of(self, device: Sbdf) -> String {
        child(&paths::device_dir(device), self.name())
    }
}
