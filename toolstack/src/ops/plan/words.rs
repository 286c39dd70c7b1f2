//! Steps in words: for `--dry-run`, for `-v`, and for the message of a step that fails.

use std::fmt::{Display, Formatter, Result};

use xen_types::Sbdf;

use super::{Plan, Right, Step};
use crate::error::list;
use crate::records::device_spec::DeviceSpec;
use crate::xen::Permission;
use ::dom0::Seconds;

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

impl Display for Plan {
    /// One step a line, numbered.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (number, step) in (1..).zip(&self.steps) {
            write!(f, "{}{number:>3}. {step}", if number == 1 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl Display for Right {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Memory(frames) => {
                let (first, bytes) = (frames.first.0 * PAGE_BYTES, frames.count * PAGE_BYTES);
                let last = first.saturating_add(bytes.saturating_sub(1));
                write!(f, "the registers at {first:#x}-{last:#x} ({} pages)", frames.count)
            }
            Self::Ports(ports) => {
                write!(f, "the I/O ports {:#x}-{:#x}", ports.first, ports.first + ports.count.saturating_sub(1))
            }
            Self::MappedInterrupt(gsi) => write!(f, "the mapping of interrupt {gsi}"),
            Self::Interrupt(gsi) => write!(f, "interrupt {gsi}"),
        }
    }
}

/// The verb that goes with these.
fn be(devices: &[Sbdf]) -> &'static str {
    if devices.len() == 1 { "is" } else { "are" }
}

/// Several devices of a guest by their addresses.
fn names(devices: &[DeviceSpec]) -> String {
    list(&devices.iter().map(|spec| spec.device).collect::<Vec<_>>())
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::NoteIntents { intents } => {
                let devices: Vec<_> = intents.iter().map(|(device, _)| *device).collect();
                write!(f, "note in the intent log what is done with {}", list(&devices))
            }
            Self::NoteDriver { device, driver, .. } => write!(f, "note that the driver {driver} had {device}"),
            Self::UnbindDriver { device, driver } => write!(f, "unbind {device} from the driver {driver}"),
            Self::AddSlot { device } => write!(f, "have xen-pciback accept {device}"),
            Self::RemoveSlot { device } => write!(f, "have xen-pciback forget {device}"),
            Self::OverrideDriver { device, admins, driver } => {
                write!(f, "set the driver_override of {device}, which is {admins}, to {driver}")
            }
            Self::BindDriver { device, driver } => write!(f, "bind {device} to the driver {driver}"),
            Self::RestoreOverride { device, admins } => {
                write!(f, "set the driver_override of {device} to {admins} again")
            }
            Self::Quarantine { device, .. } => write!(f, "put the DMA of {device} into quarantine"),
            Self::EndQuarantine { device } => write!(f, "end the quarantine of {device}"),
            Self::SaveConfiguration { device, .. } => write!(f, "save the configuration of {device}"),
            Self::QuiesceAndReset { device, .. } => write!(f, "quiesce and reset {device}"),
            Self::ConfigSpace { stub, device, permission: Permission::Allow } => {
                write!(f, "let {stub} read the configuration space of {device}")
            }
            Self::ConfigSpace { stub, device, permission: Permission::Revoke } => {
                write!(f, "forbid {stub} to read the configuration space of {device}")
            }
            Self::EnterPool { stub, devices } => {
                let devices: Vec<Sbdf> = devices.iter().map(|entering| entering.device).collect();
                write!(f, "enter {} into the pool of {stub}", list(&devices))
            }
            Self::AwaitVerdict { stub, devices } => write!(f, "wait until {stub} has checked {}", list(devices)),
            Self::LeavePool { stub, resources, .. } => write!(f, "have {stub} let go of {}", resources.device),
            Self::RemovePoolEntry { stub, device } => write!(f, "remove {device} from the pool of {stub}"),
            Self::ForgetDriver { device, path } => write!(f, "forget the note that {path} had {device}"),
            Self::RecordAdded { remembered, backend, name, .. } => {
                match remembered.is_empty() {
                    true => f.write_str("note that all is done")?,
                    false => write!(f, "note {} for {backend}, to go there as soon as it is ready", list(remembered))?,
                }
                name.iter().try_for_each(|(device, name)| write!(f, ", and that {device} is called {name}"))
            }
            Self::RecordRemoved { devices } => write!(f, "remove {} from the device database", list(devices)),
            _ => self.fmt_of_guest(f),
        }
    }
}

impl Step {
    fn fmt_of_guest(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Reserve { guest, devices, keeps, .. } => {
                write!(f, "reserve {} for {guest}", list(devices))?;
                let follow = keeps.as_ref().is_some_and(|keeps| !keeps.is_empty());
                if follow { f.write_str(", for after its reboots too") } else { Ok(()) }
            }
            Self::SetPolicy { stub, device, policy } => {
                write!(f, "tell {stub} and the broker that {device} has {policy}")
            }
            Self::Reset { device, is_fresh: true, .. } => {
                write!(f, "no reset of {device}: it is as its last one left it")
            }
            Self::Reset { device, is_fresh: false, .. } => write!(f, "reset {device}"),
            Self::PrepareForDriver { device, .. } => write!(f, "enable the decoders of {device}, for a driver"),
            Self::PermitWrites { devices } => {
                write!(f, "note for the broker what may be written to {}", names(devices))
            }
            Self::AuditOnUndo { guest, resources } => {
                let devices: Vec<_> = resources.iter().map(|resources| resources.device).collect();
                write!(f, "from here on, undoing ends with a look at what {guest} has kept of {}", list(&devices))
            }
            Self::Grant { guest, right } => write!(f, "allow {guest} {right}"),
            Self::Assign { guest, device, is_relaxed } => {
                write!(f, "give the DMA of {device} to {guest}")?;
                if *is_relaxed { f.write_str(", with the relaxed rule for reserved memory") } else { Ok(()) }
            }
            Self::WriteDirectories { stub, guest, devices, .. } => {
                write!(f, "write the directories of {stub} and {guest} with {}", names(devices))
            }
            Self::AddEntries { guest, devices, .. } => {
                write!(f, "add {} to the devices of {guest}, and have it look", names(devices))
            }
            Self::TellNeeds { guest } => write!(f, "look what {guest} lacks that its drivers need"),
            Self::AwaitGuest { guest, devices, .. } => write!(f, "wait until {guest} uses {}", list(devices)),
            Self::Plug { target, device } => write!(f, "have the device model of {target} show it {}", device.device),
            Self::RecordAttached { devices, .. } => write!(f, "note that {} {} attached", list(devices), be(devices)),
            Self::AskGuest { guest, devices, timeout, by_force, .. } => {
                write!(f, "ask {guest} to let go of {}, and wait {} at most", list(devices), Seconds(*timeout))?;
                f.write_str(if *by_force { "; go on without it then" } else { "" })
            }
            Self::Unplug { target, devices, timeout, by_force } => {
                let (devices, timeout) = (list(devices), Seconds(*timeout));
                write!(f, "have the device model of {target} take {devices} from it, and wait {timeout} at most")?;
                f.write_str(if *by_force { "; go on without it then" } else { "" })
            }
            Self::RecordDetaching { devices } => {
                write!(f, "note that {} {} being detached", list(devices), be(devices))
            }
            Self::CloseOrphan { guest, .. } => write!(f, "ask {guest} to close its frontend, whose backend is gone"),
            Self::NoteInterrupts { resources, no_longer_persistent } => {
                let devices: Vec<_> = resources.iter().map(|resources| resources.device).collect();
                match (devices.is_empty(), no_longer_persistent.is_empty()) {
                    (false, true) => write!(f, "note the interrupts of {}", list(&devices)),
                    (false, false) => {
                        write!(f, "note the interrupts of {}, and that no guest is followed", list(&devices))
                    }
                    (true, false) => write!(f, "note that no guest is followed by {}", list(no_longer_persistent)),
                    (true, true) => f.write_str("nothing to note"),
                }
            }
            Self::Quiesce { device, .. } => write!(f, "quiesce {device} and unmap its vectors"),
            Self::RemoveEntries { guest, devices, .. } => {
                write!(f, "remove {} from the devices of {guest}", list(devices))
            }
            Self::RemoveDirectories { stub, guest } => write!(f, "remove the directories of {stub} and {guest}"),
            Self::AwaitReturn { stub, devices, .. } => write!(f, "wait until {stub} has {} back", list(devices)),
            Self::Unassign { guest, device, .. } => write!(f, "take the DMA of {device} from {guest}"),
            Self::Revoke { guest, right, .. } => write!(f, "take from {guest} {right}"),
            Self::Audit { guest, resources } => {
                let devices: Vec<_> = resources.iter().map(|resources| resources.device).collect();
                write!(f, "look through {guest} for what it has kept of {}", list(&devices))
            }
            Self::BeginReset { device, .. } => write!(f, "reset {device}"),
            Self::Close { guest, .. } => write!(f, "have {guest} close its connection"),
            Self::ReturnToPool { stub, is_stub_there: true, devices, .. } => {
                write!(f, "return {} to the pool of {stub}", list(devices))
            }
            Self::ReturnToPool { devices, .. } => write!(f, "leave {} parked, in no pool", list(devices)),
            _ => Ok(()),
        }
    }
}
