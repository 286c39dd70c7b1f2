//! What a command is going to do, as data: a [`Plan`] is a list of [`Step`]s. It is made from what a command was asked for and what was found,
//! by functions that touch nothing (`pool`, `attach`, `release`), and carried out by `executor`, which is the one place that says what each
//! step does and what undoes it. `--dry-run` prints a plan instead (`words`).

pub(crate) mod attach;
pub(crate) mod pool;
pub(crate) mod release;
#[cfg(test)]
mod tests;
mod words;

use std::time::Duration;

use pci_config::Policy;
use pcidom_abi::Intent;
use xen_types::{DomId, Sbdf};

use crate::device::resources::{DeviceResources, GuestRights};
use crate::error::DomainName;
use crate::ops::connect::Until;
use crate::ops::patience::Patience;
use crate::records::device_spec::DeviceSpec;
use crate::records::device_table::Keep;
use crate::records::export::Export;
use crate::records::reset_note::ResetNote;
use crate::sysfs::Decode;
use crate::xen::{Frames, Permission, Ports};

/// Steps in the order in which they are carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) on_failure: OnFailure,
}

/// What happens to the steps done when a later one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// They are undone, last first.
    Undo,
    /// They stay, and the device table says `detaching`: the next command goes on from there (`recover.rs`). Nobody could give a guest back
    /// what it has let go of.
    LeaveToNext,
}

impl Plan {
    pub(crate) fn undone(steps: Vec<Step>) -> Self {
        Self { steps, on_failure: OnFailure::Undo }
    }

    /// Both, one after the other: for people, who are told of all.
    pub(crate) fn then(mut self, next: Self) -> Self {
        self.steps.extend(next.steps);
        Self { steps: self.steps, on_failure: next.on_failure }
    }
}

/// A right of a guest that it needs to use a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// To map registers.
    Memory(Frames),
    Ports(Ports),
    /// The interrupt is among the guest's, under its own number.
    MappedInterrupt(u32),
    Interrupt(u32),
}

impl Right {
    /// All of these, in the order in which they are given.
    pub(crate) fn all(rights: &GuestRights) -> Vec<Self> {
        let interrupts = rights.gsis.iter().flat_map(|gsi| [Self::MappedInterrupt(*gsi), Self::Interrupt(*gsi)]);
        let memory = rights.frames.iter().map(|frames| Self::Memory(*frames));
        memory.chain(rights.ports.iter().map(|ports| Self::Ports(*ports))).chain(interrupts).collect()
    }
}

/// Whether it is known that nobody has anything of a device any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// The audit says it.
    Through,
    /// The admin does not care.
    Away,
}

/// A device that enters a pool, and what there was of it before: a note of its reset, and of its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entering {
    pub(crate) device: Sbdf,
    pub(crate) had_reset: Option<ResetNote>,
    pub(crate) had_backend: bool,
}

/// One thing to do. [`crate::ops::executor`] says how, and what undoes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    // Between dom0's drivers and a pool.
    /// Writes the intent log.
    NoteIntents {
        intents: Vec<(Sbdf, Intent)>,
    },
    /// Notes for xl which driver had the device; `before` is what was noted until now.
    NoteDriver {
        device: Sbdf,
        driver: String,
        before: Option<String>,
    },
    UnbindDriver {
        device: Sbdf,
        driver: String,
    },
    /// Has xen-pciback accept the device.
    AddSlot {
        device: Sbdf,
    },
    RemoveSlot {
        device: Sbdf,
    },
    /// Has `driver_override` name the driver instead of what an admin wrote there.
    OverrideDriver {
        device: Sbdf,
        admins: String,
        driver: String,
    },
    BindDriver {
        device: Sbdf,
        driver: String,
    },
    RestoreOverride {
        device: Sbdf,
        admins: String,
    },
    /// Gives the device's DMA to nobody. For a device that was parked already that is nothing to undo.
    Quarantine {
        device: Sbdf,
        was_parked: bool,
    },
    EndQuarantine {
        device: Sbdf,
    },
    /// Saves the device's configuration as the one that it gets back after resets and guests. Of one that `is_known` what was saved when it first came counts.
    SaveConfiguration {
        device: Sbdf,
        is_known: bool,
    },
    /// Of a device on its way into a pool.
    QuiesceAndReset {
        device: Sbdf,
        decode: Decode,
    },
    /// Whether the stub may map the device's page of configuration space.
    ConfigSpace {
        stub: DomainName,
        device: Sbdf,
        permission: Permission,
    },
    /// Describes the devices to the stub, all at once, with the registers and the interrupts that dom0 sees then.
    EnterPool {
        stub: DomainName,
        devices: Vec<Entering>,
    },
    /// Waits until the stub has looked at the devices, and found them fit.
    AwaitVerdict {
        stub: DomainName,
        devices: Vec<Sbdf>,
    },
    /// Has the stub let go of a free device.
    LeavePool {
        stub: DomainName,
        resources: DeviceResources,
        reset: Option<ResetNote>,
    },
    RemovePoolEntry {
        stub: DomainName,
        device: Sbdf,
    },
    /// Removes xl's note of the driver, which was this.
    ForgetDriver {
        device: Sbdf,
        path: String,
    },
    /// The devices are where they should be. Those in `remembered` go to the backend as soon as there is one.
    RecordAdded {
        intents: Vec<Sbdf>,
        remembered: Vec<Sbdf>,
        backend: String,
        /// A name for one of them, for xl too.
        name: Option<(Sbdf, String)>,
    },
    RecordRemoved {
        devices: Vec<Sbdf>,
    },

    // To a guest.
    /// Notes whose the devices are going to be, and which guest they follow; `keeps` is `None` where that stays. `before` is whom they followed.
    Reserve {
        stub: DomainName,
        guest: DomainName,
        /// The HVM guest whose stub domain `guest` is.
        target: Option<DomainName>,
        devices: Vec<Sbdf>,
        keeps: Option<Vec<Keep>>,
        before: Vec<(Sbdf, Option<Keep>)>,
        /// What was noted of their resets.
        resets: Vec<(Sbdf, ResetNote)>,
    },
    /// Tells stub and broker what the guest may do besides what any guest may.
    SetPolicy {
        stub: DomainName,
        device: Sbdf,
        policy: Policy,
    },
    /// Resets the device, unless it is as its last reset left it.
    Reset {
        stub: DomainName,
        device: Sbdf,
        decode: Decode,
        is_fresh: bool,
    },
    /// Brings the device into the state in which a driver expects it.
    PrepareForDriver {
        device: Sbdf,
        decode: Decode,
    },
    /// Notes for the broker what the guest may have written to the devices: after their resets, as they are what the guest finds.
    PermitWrites {
        devices: Vec<DeviceSpec>,
    },
    /// Does nothing. When what comes behind it was undone, the guest must have kept nothing of the devices: it may be running, and have made
    /// use of a right while it had it.
    AuditOnUndo {
        guest: DomainName,
        resources: Vec<DeviceResources>,
    },
    Grant {
        guest: DomainName,
        right: Right,
    },
    /// Gives the device's DMA to the guest.
    Assign {
        guest: DomainName,
        device: Sbdf,
        is_relaxed: bool,
    },
    /// Writes both directories of a guest that has none.
    WriteDirectories {
        stub: DomainName,
        guest: DomainName,
        export: Export,
        devices: Vec<DeviceSpec>,
        resources: Vec<DeviceResources>,
    },
    /// Adds the devices to those that the guest has, and has it look.
    AddEntries {
        stub: DomainName,
        guest: DomainName,
        export: Export,
        devices: Vec<DeviceSpec>,
        resources: Vec<DeviceResources>,
        patience: Patience,
    },
    /// Says what the guest lacks that its drivers need.
    TellNeeds {
        guest: DomainName,
    },
    AwaitGuest {
        stub: DomainName,
        guest: DomainName,
        devices: Vec<Sbdf>,
        patience: Patience,
        until: Until,
    },
    /// Has the device model show the device to an HVM guest.
    Plug {
        target: DomainName,
        device: DeviceSpec,
    },
    RecordAttached {
        devices: Vec<Sbdf>,
        intents: Vec<Sbdf>,
    },

    // From a guest.
    /// Has an HVM guest let go of the devices, and its device model with it. One that does not loses them `by_force`.
    Unplug {
        target: DomainName,
        devices: Vec<Sbdf>,
        timeout: Duration,
        by_force: bool,
    },
    /// Asks the guest to let go of the devices, and waits until it has. It is asked no more where it does nothing, unless its devices are taken
    /// `by_force`.
    AskGuest {
        stub: DomainName,
        guest: DomainName,
        devices: Vec<Sbdf>,
        timeout: Duration,
        by_force: bool,
    },
    RecordDetaching {
        devices: Vec<Sbdf>,
    },
    /// Asks a guest to close whose stub is gone.
    CloseOrphan {
        stub: DomId,
        guest: DomainName,
    },
    /// Notes the interrupts of these devices while they are known, and that some follow nobody any more.
    NoteInterrupts {
        resources: Vec<DeviceResources>,
        no_longer_persistent: Vec<Sbdf>,
    },
    /// Stops the device's DMA and unmaps its vectors. Of one that dom0 does not see there are only the vectors.
    Quiesce {
        guest: DomId,
        device: Sbdf,
        resources: Option<DeviceResources>,
    },
    RemoveEntries {
        stub: DomainName,
        guest: DomainName,
        devices: Vec<Sbdf>,
    },
    RemoveDirectories {
        stub: DomainName,
        guest: DomainName,
    },
    /// Waits until the stub has the devices back.
    AwaitReturn {
        stub: DomainName,
        guest: DomId,
        devices: Vec<Sbdf>,
    },
    /// Takes the device's DMA from the guest.
    Unassign {
        guest: DomainName,
        device: Sbdf,
        may_be_absent: bool,
    },
    Revoke {
        guest: DomainName,
        right: Right,
        may_be_absent: bool,
    },
    /// Looks for what the guest has kept of the devices. One of which it has something is assigned to no other guest.
    Audit {
        guest: DomainName,
        resources: Vec<DeviceResources>,
    },
    /// Begins a reset, whose end [`Step::ReturnToPool`] waits for.
    BeginReset {
        device: Sbdf,
        decode: Decode,
    },
    /// Has the guest close, which has no devices any more. Its directories go then, or anyhow where that is done `by_force`.
    Close {
        stub: DomainName,
        guest: DomainName,
        by_force: bool,
    },
    /// Returns the devices to the pool of a stub that is there, or to the plain parked ones.
    ReturnToPool {
        stub: DomainName,
        is_stub_there: bool,
        guest: DomainName,
        devices: Vec<Sbdf>,
        looked: Looked,
    },
}

/// What a step that fails does to the rest of a plan that is not undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing more is done.
    Stops,
    /// This device stays on its way, and the others go on.
    SetsAside(Sbdf),
    /// The steps of its kind that come next are done too, and then nothing more.
    StopsAfterItsKind,
}

impl Step {
    /// Where the plan is not undone.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Quiesce { device, .. } => Failure::SetsAside(*device),
            Self::Unassign { .. } | Self::Revoke { .. } => Failure::StopsAfterItsKind,
            _ => Failure::Stops,
        }
    }

    /// Whether a signal may stop it in its midst: it waits, and undoes itself what it has begun.
    pub(crate) fn is_interruptible(&self) -> bool {
        matches!(self, Self::AskGuest { .. } | Self::AwaitGuest { .. } | Self::Unplug { .. })
    }

    /// Whether all is done but a note of that: then a signal comes too late.
    pub(crate) fn is_conclusion(&self) -> bool {
        matches!(self, Self::RecordAdded { .. } | Self::RecordRemoved { .. } | Self::RecordAttached { .. })
    }
}
