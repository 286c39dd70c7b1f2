//! Where the nodes are.
//!
//! Two trees are ours. `/tool/pcidom` belongs to dom0 alone. The other one is in the stub's own `/local/domain/S`: the stub says
//! these paths without that prefix ([`relative`]), because it need not know its own number; dom0 says them in full.

use alloc::format;
use alloc::string::String;
use core::fmt::Display;

use xen_types::{DomId, Sbdf};
use xenstore::path::{child, domain_path};

/// A value that formats as one component of a path.
trait Component {
    fn component(self) -> impl Display;
}

impl Component for DomId {
    fn component(self) -> impl Display {
        self
    }
}

impl Component for Sbdf {
    fn component(self) -> impl Display {
        self.path_component()
    }
}

impl Component for u32 {
    fn component(self) -> impl Display {
        self
    }
}

impl Component for &str {
    fn component(self) -> impl Display {
        self
    }
}

/// Declares a list of paths: for each line a function that makes the path, and the lines themselves for the documents' test.
macro_rules! paths {
    ($(#[$list_doc:meta])* $list:ident; $($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) = $path:literal;)*) => {
        $(
            $(#[$doc])*
            #[doc = concat!("\n\n`", $path, "`")]
            #[must_use]
            pub fn $name($($arg: $type),*) -> String {
                $(let $arg = Component::component($arg);)*
                format!($path)
            }
        )*
        $(#[$list_doc])*
        pub const $list: &[&str] = &[$($path),*];
    };
}

/// Everything that the tool keeps. `n0`: no guest can read or write it.
pub const TOOL: &str = "/tool/pcidom";
/// The device database: a directory for each device that a stub has or is to have.
pub const DEVICES: &str = "/tool/pcidom/device";
/// The intent log: devices on their way between dom0's drivers, xen-pciback and a stub.
pub const INTENTS: &str = "/tool/pcidom/work";
/// The guests whose stale vectors are being unmapped.
pub const VECTOR_CLEANUPS: &str = "/tool/pcidom/vector-cleanup";
/// The commands that are changing something.
pub const COMMANDS: &str = "/tool/pcidom/command";
/// The domains that a command has paused.
pub const PAUSED: &str = "/tool/pcidom/paused";
/// The guests that `pcidom create` is making.
pub const CREATIONS: &str = "/tool/pcidom/create";

/// What the broker that was started last announces, a [`crate::PartVersion`].
pub const BROKER: &str = "/tool/pcidom/broker";
/// The devices that xl shall give to nobody although no stub has them, each with the reason.
pub const HELD: &str = "/tool/pcidom/held";

paths! {
    /// Path patterns below [`TOOL`], with names for their variable components.
    TOOL_PATHS;
    /// A device's directory in the device database, with the nodes of [`crate::DeviceNode`].
    device_dir(device: Sbdf) = "/tool/pcidom/device/{device}";
    /// A device's [`crate::Intent`].
    intent_node(device: Sbdf) = "/tool/pcidom/work/{device}";
    /// What an admin has in a device's `driver_override`, while a command has something else there.
    override_node(device: Sbdf) = "/tool/pcidom/work/{device}/override";
    /// Stands (empty) while a command unmaps vectors of a guest that no device is known to have: nothing is mapped for it meanwhile.
    vector_cleanup_node(guest: DomId) = "/tool/pcidom/vector-cleanup/{guest}";
    /// A command that is changing something. The value is when its process began ([`crate::ProcessId::started`]).
    command_node(pid: u32) = "/tool/pcidom/command/{pid}";
    /// A domain that a command has paused: its [`crate::PauseNote`].
    paused_node(domain: DomId) = "/tool/pcidom/paused/{domain}";
    /// A guest that is being made: its [`crate::CreationProgress`].
    creation_node(uuid: &str) = "/tool/pcidom/create/{uuid}";
    /// Why xl shall not give a device to anybody.
    held_node(device: Sbdf) = "/tool/pcidom/held/{device}";
}

pub mod relative {
    //! The stub's paths as the stub itself says them: relative to its own `/local/domain/S`.

    use alloc::format;
    use alloc::string::String;

    use xen_types::Sbdf;
    use xenstore::path::relative::component;

    use super::Component;

    /// Where the tool describes the devices of a stub.
    pub const POOL: &str = "pool";
    /// Where the stub announces itself.
    pub const ANNOUNCEMENTS: &str = "data/pcidom";
    /// What the stub announces, a [`crate::PartVersion`]; there when it is ready to serve.
    pub const VERSION: &str = "data/pcidom/version";
    /// The [`crate::ExportMode`] of guests for which none was chosen.
    pub const EXPORT: &str = "data/pcidom/export";
    /// The grant (decimal) of the page that the stub shares with the broker.
    pub const RING_REF: &str = "data/pcidom/ring-ref";
    /// The port (decimal) that the stub offers to the broker.
    pub const RING_PORT: &str = "data/pcidom/event-channel";
    /// Where dom0 asks the stub something: a node below it is a [`crate::statistics::Query`].
    pub const QUERY: &str = "data/pcidom/query";
    /// Where the stub answers, in the form of [`crate::statistics::parse_answer`].
    pub const STATISTICS: &str = "data/pcidom/statistics";

    /// Where the stub says that it was started again in place: how often, the nanoseconds from the last crash until it was ready again, and its last
    /// words then.
    pub const RESTARTS: &str = "data/pcidom/restarts";

    /// The nodes of [`ANNOUNCEMENTS`].
    pub const ANNOUNCED: [&str; 7] = [VERSION, EXPORT, RING_REF, RING_PORT, QUERY, STATISTICS, RESTARTS];

    paths! {
        /// Path patterns below a stub's own directory, with names for their variable components.
        PATHS;
        /// The description of one device, with the nodes of [`crate::pool`].
        pool_dir(device: Sbdf) = "pool/{device}";
    }

    /// Takes apart the path of a watch event under [`POOL`]: the device and what follows (`online`; empty for the directory).
    #[must_use]
    pub fn split_pool(path: &str) -> Option<(Sbdf, &str)> {
        let (device, rest) = component(path.strip_prefix(POOL)?.strip_prefix('/')?);
        Some((Sbdf::parse_path_component(device).ok()?, rest))
    }
}

/// A path of a stub, from what the stub itself calls it: `/local/domain/S/…`.
#[must_use]
pub fn of_stub(stub: DomId, relative: &str) -> String {
    child(&domain_path(stub), relative)
}

/// Where the tool describes a stub's devices: `/local/domain/S/pool`.
#[must_use]
pub fn pool_root(stub: DomId) -> String {
    of_stub(stub, relative::POOL)
}

/// The description of one device: `/local/domain/S/pool/BDF`.
#[must_use]
pub fn pool_dir(stub: DomId, device: Sbdf) -> String {
    of_stub(stub, &relative::pool_dir(device))
}

/// What the stub says about one device, a [`crate::PoolState`]: `/local/domain/S/pool/BDF/state`.
#[must_use]
pub fn pool_state_node(stub: DomId, device: Sbdf) -> String {
    child(&pool_dir(stub, device), crate::pool::STATE)
}

/// Where the stub announces itself: `/local/domain/S/data/pcidom`.
#[must_use]
pub fn announcements_dir(stub: DomId) -> String {
    of_stub(stub, relative::ANNOUNCEMENTS)
}

/// What the stub announces, a [`crate::PartVersion`], there when it is ready to serve: `/local/domain/S/data/pcidom/version`.
#[must_use]
pub fn version_node(stub: DomId) -> String {
    of_stub(stub, relative::VERSION)
}

/// The mode of guests for which none was chosen: `/local/domain/S/data/pcidom/export`.
#[must_use]
pub fn export_node(stub: DomId) -> String {
    of_stub(stub, relative::EXPORT)
}

/// The grant of the page that the stub shares with the broker: `/local/domain/S/data/pcidom/ring-ref`.
#[must_use]
pub fn ring_ref_node(stub: DomId) -> String {
    of_stub(stub, relative::RING_REF)
}

/// The port that the stub offers to the broker: `/local/domain/S/data/pcidom/event-channel`.
#[must_use]
pub fn ring_port_node(stub: DomId) -> String {
    of_stub(stub, relative::RING_PORT)
}

/// Where the stub is asked: `/local/domain/S/data/pcidom/query`.
#[must_use]
pub fn query_node(stub: DomId) -> String {
    of_stub(stub, relative::QUERY)
}

/// Where the stub answers: `/local/domain/S/data/pcidom/statistics`.
#[must_use]
pub fn statistics_node(stub: DomId) -> String {
    of_stub(stub, relative::STATISTICS)
}
