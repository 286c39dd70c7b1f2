//! Carries out plans. What each [`Step`] does and what undoes it stands here side by side, in [`Executor::perform`] and [`undo`]; how, in the modules
//! below. A command that changes several things in several places (Xen, sysfs, xenstore) is a plan: either all its steps stay, or none does;
//! or, from where a guest has let go, the next command goes on.

mod attach;
mod pool;
mod release;

use std::collections::BTreeMap;

use xen_types::Sbdf;

use crate::audit;
use crate::device::pristine;
use crate::device::quiesce::release as release_devices;
use crate::device::reset::Resetting;
use crate::error::{DomainName, Error};
use crate::host::Host;
use crate::host::needs;
use crate::host::terminal;
use crate::ops::close;
use crate::ops::connect::{self, Connection};
use crate::ops::device_model;
use crate::ops::hot_unplug::{self, phases};
use crate::ops::in_use::{self, Leaks};
use crate::ops::intent_log;
use crate::ops::parking;
use crate::ops::plan::{Failure, OnFailure, Plan, Right, Step};
use crate::ops::pool::{self as pool_nodes, STUB_PATIENCE};
use crate::records::device_table::{self, Phase};
use crate::records::reset_note::ResetNote;
use crate::store::Change;
use crate::sysfs::ConfigWalk as _;
use crate::xen::Permission;

/// Carries out one plan, which is undone if it fails in its midst and says so.
pub(crate) fn execute(host: &Host, plan: &Plan) -> Result<(), Error> {
    run(host, |executor| executor.carry_out(plan))
}

/// Carries out plans one after the other: `body` makes each when what it is made from is known. If it fails, those are undone that say so.
///
/// # Errors
/// The body's.
pub(crate) fn run<T>(host: &Host, body: impl FnOnce(&mut Executor<'_>) -> Result<T, Error>) -> Result<T, Error> {
    let mut executor = Executor::new(host);
    let result = body(&mut executor);
    if result.is_err() {
        host.without_stopping(|| executor.roll_back());
    }
    result
}

/// Steps done so far, and their results.
pub(crate) struct Executor<'a> {
    host: &'a Host,
    /// Steps to be undone.
    done: Vec<Step>,
    /// Results of the resets of devices that came into the pool.
    resets: BTreeMap<Sbdf, Option<ResetNote>>,
    /// Resets under way.
    resetting: Vec<(Sbdf, Resetting)>,
    /// State of a guest's connection with its new devices.
    connection: Option<Connection>,
    /// The guest has closed, or its directories go though it has not.
    is_closed: bool,
    /// Devices that stay on their way, and why.
    set_aside: Vec<(Sbdf, Error)>,
    /// Devices of which a guest has leaked mappings.
    leaks: Leaks,
}

impl<'a> Executor<'a> {
    fn new(host: &'a Host) -> Self {
        Self {
            host,
            done: Vec::new(),
            resets: BTreeMap::new(),
            resetting: Vec::new(),
            connection: None,
            is_closed: false,
            set_aside: Vec::new(),
            leaks: Leaks::default(),
        }
    }

    /// State of a guest's connection with its new devices.
    pub(crate) fn connection(&self) -> Option<Connection> {
        self.connection
    }

    /// These devices stay on their way, whatever the plan says.
    pub(crate) fn set_aside(&mut self, devices: Vec<(Sbdf, Error)>) {
        self.set_aside.extend(devices);
    }

    /// The verdict after a plan that was carried out to its end.
    ///
    /// # Errors
    /// The first of the reasons why a device was set aside; [`Error::Leaked`] where the guest has kept something of one.
    pub(crate) fn verdict(&mut self, guest: &DomainName) -> Result<(), Error> {
        let set_aside = std::mem::take(&mut self.set_aside);
        set_aside.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))?;
        std::mem::take(&mut self.leaks).into_result(guest)
    }

    /// Whether a device is not to go where the plan has it go.
    fn stays_away(&self, device: Sbdf) -> bool {
        self.leaks.has(device) || self.set_aside.iter().any(|(other, _)| *other == device)
    }

    /// Carries out a plan.
    ///
    /// # Errors
    /// Those of its steps, and [`Error::Interrupted`].
    pub(crate) fn carry_out(&mut self, plan: &Plan) -> Result<(), Error> {
        let mut failed: Option<Error> = None;
        for step in &plan.steps {
            if step.failure() != Failure::StopsAfterItsKind
                && let Some(error) = failed.take()
            {
                return Err(error);
            }
            // A command may stop before a step, and not in it: a step does one thing or nothing.
            if !step.is_conclusion() {
                self.host.safe_point()?;
            }
            terminal::begin(|| step.to_string());
            self.host.trace(&step.to_string());
            let is_done = match step.is_interruptible() {
                true => self.perform(step),
                false => self.host.without_stopping(|| self.perform(step)),
            };
            match (plan.on_failure, is_done) {
                (OnFailure::Undo, is_done) => {
                    if is_done? {
                        self.done.push(step.clone());
                    }
                }
                (OnFailure::LeaveToNext, Ok(_)) => {}
                (OnFailure::LeaveToNext, Err(error)) => match step.failure() {
                    Failure::Stops => return Err(error),
                    Failure::StopsAfterItsKind => drop(failed.get_or_insert(error)),
                    Failure::SetsAside(device) => {
                        self.host.note(&format!("could not {step}: {error}"));
                        self.set_aside.push((device, error));
                    }
                },
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Undoes what was done, last first. An undo that fails itself is told, and the others go on; but what somebody holds on to goes no
    /// further back.
    fn roll_back(self) {
        for step in self.done.iter().rev() {
            terminal::begin(|| format!("undo: {step}"));
            self.host.trace(&format!("undo: {step}"));
            if let Err(error) = undo(self.host, step) {
                self.host.note(&format!("could not undo \"{step}\": {error}"));
                if matches!(error, Error::Leaked { .. }) {
                    // What was done before goes on being needed. The commands that follow finish it (`recover.rs`).
                    return;
                }
            }
        }
    }

    /// Does one step. False where there was nothing to do, and so there is nothing to undo.
    fn perform(&mut self, step: &Step) -> Result<bool, Error> {
        let host = self.host;
        match step {
            Step::NoteIntents { intents } => host.commit(&intent_log::begin(intents))?,
            Step::NoteDriver { device, driver, .. } => {
                host.commit(&parking::set_driver(*device, Some(format!("/sys/bus/pci/drivers/{driver}"))))?;
            }
            // What is there to let go of may have been pulled out since the plan was made.
            Step::UnbindDriver { device, .. } | Step::RemoveSlot { device } | Step::EndQuarantine { device }
                if !host.sysfs.exists(*device) =>
            {
                return Ok(false);
            }
            Step::UnbindDriver { device, driver } => host.sysfs.unbind(*device, driver)?,
            Step::AddSlot { device } => host.sysfs.add_pciback_slot(*device)?,
            Step::RemoveSlot { device } => host.sysfs.remove_pciback_slot(*device)?,
            Step::OverrideDriver { device, admins, driver } => {
                parking::override_driver(host, *device, admins, driver)?;
            }
            Step::BindDriver { device, driver } => host.sysfs.bind(*device, driver)?,
            Step::RestoreOverride { device, admins } => host.sysfs.set_driver_override(*device, admins)?,
            Step::Quarantine { device, .. } => parking::quarantine(host, *device)?,
            Step::EndQuarantine { device } => return parking::end_quarantine(host, *device),
            Step::SaveConfiguration { device, is_known } => pristine::save(host, *device, *is_known)?,
            Step::QuiesceAndReset { device, decode } => {
                self.resets.insert(*device, pool::quiesce_and_reset(host, *device, *decode)?);
            }
            Step::ConfigSpace { stub, device, permission } => {
                pool_nodes::set_config_space(host, stub.id, *device, *permission)?;
            }
            Step::EnterPool { stub, devices } => {
                let reset = |device| self.resets.get(&device).and_then(Option::as_ref);
                let devices: Vec<(Sbdf, Option<&ResetNote>)> =
                    devices.iter().map(|entering| (entering.device, reset(entering.device))).collect();
                pool::enter(host, stub, &devices)?;
            }
            Step::AwaitVerdict { stub, devices } => pool_nodes::await_verdict(host, stub, devices)?,
            Step::LeavePool { stub, resources, .. } => pool::take_back(host, stub, resources.device)?,
            Step::RemovePoolEntry { stub, device } => {
                host.commit(&pool_nodes::removal(host, stub.id, *device)?)?;
                pristine::forget(host, *device)?;
            }
            Step::ForgetDriver { device, .. } => host.commit(&parking::set_driver(*device, None))?,
            Step::RecordAdded { intents, remembered, backend, name } => {
                let noted = remembered.iter().flat_map(|device| device_table::remember(*device, backend));
                let named = name.iter().map(|(device, name)| Change::write(parking::name_node(*device), name));
                host.commit(&intent_log::done(intents).into_iter().chain(noted).chain(named).collect::<Vec<_>>())?;
            }
            Step::RecordRemoved { devices } => {
                host.commit(&pool::forget(host, devices)?)?;
                devices.iter().try_for_each(|device| pristine::forget(host, *device))?;
            }

            Step::Reserve { stub, guest, target, devices, keeps, .. } => {
                let guests = (guest.id, target.as_ref().map(|target| target.id));
                attach::reserve(host, stub.id, guests, devices, keeps.as_deref())?;
            }
            Step::SetPolicy { stub, device, policy } => {
                host.commit(&pool_nodes::set_policy(host, stub.id, *device, policy))?;
            }
            Step::Reset { device, decode, is_fresh, .. } => attach::reset_for_guest(host, *device, *decode, *is_fresh)?,
            Step::PrepareForDriver { device, decode } => host.sysfs.config(*device)?.prepare(*decode)?,
            Step::PermitWrites { devices } => attach::permit_writes(host, devices)?,
            Step::AuditOnUndo { .. } => {}
            Step::Grant { guest, right } => attach::set_right(host, guest.id, *right, Permission::Allow, step)?,
            Step::Assign { guest, device, is_relaxed } => attach::assign(host, guest.id, *device, *is_relaxed, step)?,
            Step::WriteDirectories { stub, guest, export, devices, .. } => {
                attach::write_directories(host, stub, guest, export, devices)?;
            }
            Step::AddEntries { stub, guest, export, devices, patience, .. } => {
                attach::add_entries(host, (stub, guest), export, devices, *patience)?;
            }
            Step::TellNeeds { guest } => {
                for lack in needs::lacks(host.xl.configuration(guest.id).as_ref()) {
                    host.note(&format!("{guest}: {lack}"));
                }
            }
            Step::AwaitGuest { stub, guest, devices, patience, until } => {
                self.connection = Some(connect::await_connection(host, stub, guest, devices, *patience, *until)?);
            }
            Step::Plug { target, device } => device_model::plug(host, target, device)?,
            Step::RecordAttached { devices, intents } => {
                host.commit(&[phases(devices, Phase::Attached), intent_log::done(intents)].concat())?;
            }

            Step::Unplug { target, devices, timeout, by_force } => {
                release::unplug(host, target, devices, *timeout, *by_force)?;
            }
            Step::AskGuest { stub, guest, devices, timeout, by_force } => {
                release::ask_guest(host, (stub, guest), devices, *timeout, *by_force)?;
            }
            Step::RecordDetaching { devices } => host.commit(&phases(devices, Phase::Detaching))?,
            Step::CloseOrphan { stub, guest } => drop(close::close_orphan(host, *stub, guest, STUB_PATIENCE)?),
            Step::NoteInterrupts { resources, no_longer_persistent } => {
                let mut changes = audit::note_pirqs(host, resources)?;
                changes.extend(no_longer_persistent.iter().copied().flat_map(device_table::forget_keep));
                host.commit(&changes)?;
            }
            Step::Quiesce { guest, device, resources } => {
                release_devices(host, *guest, &[*device], resources.as_slice())?;
            }
            Step::RemoveEntries { stub, guest, devices } => hot_unplug::remove_entries(host, stub, guest, devices)?,
            Step::RemoveDirectories { stub, guest } => {
                host.commit(&release::remove_directories(host, stub.id, guest.id)?)?;
            }
            Step::AwaitReturn { stub, guest, devices } => pool_nodes::await_return(host, stub, *guest, devices)?,
            Step::Unassign { guest, device, may_be_absent } => {
                // It may have been pulled out since the plan was made.
                let may_be_absent = *may_be_absent || !host.sysfs.exists(*device);
                let taken = attach::unassign(host, guest.id, *device, step);
                return release::unless_absent(taken, may_be_absent);
            }
            Step::Revoke { guest, right, may_be_absent } => {
                let taken = attach::set_right(host, guest.id, *right, Permission::Revoke, step);
                return release::unless_absent(taken, *may_be_absent);
            }
            Step::Audit { guest, resources } => self.leaks = in_use::note_leaks(host, guest, resources)?,
            Step::BeginReset { device, decode } => {
                if !self.stays_away(*device) && host.sysfs.exists(*device) {
                    self.resetting.push((*device, Resetting::begin(host, *device, *decode)?));
                }
            }
            Step::Close { stub, guest, by_force } => {
                self.is_closed = close::close(host, stub, guest, STUB_PATIENCE)? || *by_force;
            }
            Step::ReturnToPool { stub, is_stub_there, guest, devices, looked } => {
                let mut changes = Vec::new();
                if self.is_closed {
                    changes = release::remove_directories(host, stub.id, guest.id)?;
                }
                let free = devices.iter().copied().filter(|device| !self.stays_away(*device)).collect();
                let resets = std::mem::take(&mut self.resetting);
                release::return_to_pool(host, (stub, *is_stub_there), free, resets, *looked, changes)?;
            }
        }
        Ok(true)
    }
}

/// Takes back what a step has done, when everything that came after it has been taken back. Steps that are not here leave nothing that would have
/// to be: they wait, they write down what is done at the end of a plan, they leave a device quieter than it was, the undo of the step before them
/// does it, or they belong to plans that are not undone.
fn undo(host: &Host, step: &Step) -> Result<(), Error> {
    match step {
        Step::NoteIntents { intents } => {
            let devices: Vec<Sbdf> = intents.iter().map(|(device, _)| *device).collect();
            host.commit(&intent_log::done(&devices))
        }
        Step::NoteDriver { device, before, .. } => host.commit(&parking::set_driver(*device, before.clone())),
        Step::UnbindDriver { device, driver } => parking::bind(host, *device, driver),
        Step::AddSlot { device } => host.sysfs.remove_pciback_slot(*device),
        Step::RemoveSlot { device } => host.sysfs.add_pciback_slot(*device),
        Step::OverrideDriver { device, admins, .. } => host.sysfs.set_driver_override(*device, admins),
        Step::BindDriver { device, driver } => host.sysfs.unbind(*device, driver),
        Step::Quarantine { device, was_parked: false } => parking::end_quarantine(host, *device).map(drop),
        Step::EndQuarantine { device } => parking::quarantine(host, *device),
        // Nobody has touched it since it was free in its pool.
        Step::RemovePoolEntry { device, .. } => pristine::save(host, *device, true),
        Step::SaveConfiguration { is_known: true, .. } => Ok(()),
        Step::SaveConfiguration { device, is_known: false } => host.sysfs.forget_pristine(*device),
        Step::ConfigSpace { stub, device, permission } => {
            let opposite = match permission {
                Permission::Allow => Permission::Revoke,
                Permission::Revoke => Permission::Allow,
            };
            pool_nodes::set_config_space(host, stub.id, *device, opposite)
        }
        Step::EnterPool { stub, devices } => {
            // Each, whatever becomes of the others.
            let left: Vec<_> = devices.iter().map(|entering| pool::leave(host, stub, entering)).collect();
            left.into_iter().collect()
        }
        Step::LeavePool { stub, resources, reset } => pool::enter_again(host, stub, resources, reset.as_ref()),
        Step::ForgetDriver { device, path } => host.commit(&parking::set_driver(*device, Some(path.clone()))),
        Step::Reserve { guest, devices, before, resets, .. } => {
            attach::unreserve(host, guest.id, devices, before, resets)
        }
        Step::SetPolicy { stub, device, .. } => pool::look_again(host, stub, *device),
        Step::Reset { stub, device, decode, .. } => attach::reset_after_guest(host, stub, *device, *decode),
        Step::PrepareForDriver { device, decode } => Ok(host.sysfs.config(*device)?.walk_and_quiesce(*decode)?),
        Step::PermitWrites { devices } => attach::forget_writes(host, devices),
        Step::AuditOnUndo { guest, resources } => in_use::note_leaks(host, guest, resources).map(drop),
        Step::Grant { guest, right } => {
            let taken = attach::set_right(host, guest.id, *right, Permission::Revoke, step);
            // The domain, or its device model, may have unmapped an interrupt by itself.
            release::unless_absent(taken, matches!(right, Right::MappedInterrupt(_))).map(drop)
        }
        Step::Assign { guest, device, .. } => attach::unassign(host, guest.id, *device, step),
        Step::Plug { target, device } => device_model::unplug(host, target, &[device.device], STUB_PATIENCE),
        Step::WriteDirectories { stub, guest, resources, .. } => {
            attach::remove_directories(host, stub, guest.id, resources)
        }
        Step::AddEntries { stub, guest, resources, .. } => attach::remove_entries(host, stub, guest, resources),
        Step::RestoreOverride { .. }
        | Step::Quarantine { was_parked: true, .. }
        | Step::QuiesceAndReset { .. }
        | Step::AwaitVerdict { .. }
        | Step::RecordAdded { .. }
        | Step::RecordRemoved { .. }
        | Step::TellNeeds { .. }
        | Step::AwaitGuest { .. }
        | Step::RecordAttached { .. }
        | Step::Unplug { .. }
        | Step::AskGuest { .. }
        | Step::RecordDetaching { .. }
        | Step::CloseOrphan { .. }
        | Step::NoteInterrupts { .. }
        | Step::Quiesce { .. }
        | Step::RemoveEntries { .. }
        | Step::RemoveDirectories { .. }
        | Step::AwaitReturn { .. }
        | Step::Unassign { .. }
        | Step::Revoke { .. }
        | Step::Audit { .. }
        | Step::BeginReset { .. }
        | Step::Close { .. }
        | Step::ReturnToPool { .. } => Ok(()),
    }
}
