//! The contract between the parts of pcidom: the stub (driver domain), the broker (`pcidom serve`) and the command (`pcidom attach`, …).
//!
//! They are built separately and may be of different versions, and they meet in two places: in xenstore, and on the page that a stub shares
//! with the broker. Whatever stands in either of them and is not laid down by Xen or libxl is a path or a type of this crate, which
//! formats and parses it. The meaning of each node is in `docs/xenstore.md`, the exchange with the broker in `docs/broker.md`.
//!
//! | module | what |
//! |---|---|
//! | [`paths`] | where the nodes are, in dom0's own tree and in a stub's |
//! | [`DeviceNode`], [`Phase`] | the device database, `/tool/pcidom/device/BDF` |
//! | [`Intent`], [`ProcessId`], [`PauseNote`], [`CreationProgress`] | what commands note so that a killed one can be put right |
//! | [`pool`], [`PoolState`] | the description of each device for its stub, and the stub's answer |
//! | [`Vectors`], [`PirqSet`] | interrupts in the device database |
//! | [`PermittedWrites`] | what the broker may write to a device for its guest |
//! | [`Pristine`] | a function's configuration before any guest had it: a file of dom0's |
//! | [`AerValue`] | what a guest is told of an error of its device, and what it answers |
//! | [`ExportMode`] | how a guest's virtual addresses are chosen |
//! | [`statistics`] | queries to a stub and its answers |
//! | [`BrokerCommand`], [`Features`] | requests on the page between stub and broker |
//! | [`image`] | where a running stub has its image, and what outlives a start of it |
//! | [`PartVersion`], [`ANNOUNCEMENT`] | what each part says of itself, and who understands whom |
//!
//! The nodes of a frontend's and a backend's directory are libxl's and the guests' own: they are in the crate `xenstore`. One node there is
//! ours: [`EXPORT`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(feature = "stub")]
mod aer;
mod device_node;
#[cfg(feature = "stub")]
mod export;
#[cfg(feature = "commands")]
mod intent;
#[cfg(feature = "commands")]
mod pause;
mod permitted_writes;
mod phase;
#[cfg(feature = "commands")]
mod pirqs;
#[cfg(feature = "stub")]
mod pool_state;
mod pristine;
#[cfg(feature = "commands")]
mod pristine_file;
mod process;
#[cfg(feature = "stub")]
mod restarts;
mod ring;
mod vectors;
mod version;

#[cfg(feature = "stub")]
pub mod image;
pub mod paths;
pub mod pool;
#[cfg(feature = "stub")]
pub mod statistics;

#[cfg(feature = "stub")]
pub use aer::AerValue;
pub use device_node::DeviceNode;
#[cfg(feature = "stub")]
pub use export::{EXPORT, ExportMode, UnknownMode};
#[cfg(feature = "commands")]
pub use intent::{CreationProgress, Intent};
#[cfg(feature = "commands")]
pub use pause::{PauseNote, PauseStage};
pub use permitted_writes::{
    Capabilities, Identity, Msi, Msix, PermittedRange, PermittedWrite, PermittedWrites, TooLong, WriteKind,
};
pub use phase::Phase;
#[cfg(feature = "commands")]
pub use pirqs::PirqSet;
#[cfg(feature = "stub")]
pub use pool_state::PoolState;
pub use pristine::{Payload, Pristine, SavedKind, SavedRegister};
pub use process::ProcessId;
#[cfg(feature = "stub")]
pub use restarts::Restarts;
pub use ring::{BrokerCommand, Features};
pub use vectors::Vectors;
pub use version::{ANNOUNCEMENT, Fit, PartVersion, VERSION};

/// The text is not of the form that the node or the page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not in the form of the contract")]
pub struct Malformed;
