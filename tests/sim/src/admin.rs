//! A scripted toolstack, one command at a time, with bookkeeping of rights to devices.
//!
//! It is strict: rights to a device that somebody else may reach fail the test.

use std::collections::BTreeMap;

use xen_types::{DomId, Sbdf};

use crate::tool::SimTool;

/// Something that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Devices go to a guest, all or none.
    Attach(DomId, Vec<Sbdf>),
    /// Devices leave a guest.
    Detach(DomId, Vec<Sbdf>),
    /// Everything leaves a guest, and its directories with it.
    Close(DomId),
}

impl Command {
    /// Whom it concerns.
    #[must_use]
    pub const fn guest(&self) -> DomId {
        match self {
            Self::Attach(guest, _) | Self::Detach(guest, _) | Self::Close(guest) => *guest,
        }
    }
}

/// dom0's commands.
#[derive(Debug)]
pub struct Admin {
    tool: SimTool,
    /// Who may reach a device: what was given to a guest and not taken back.
    pub rights: BTreeMap<Sbdf, DomId>,
    /// The command that has not ended.
    pub command: Option<Command>,
}

impl Admin {
    /// Without anything done.
    #[must_use]
    pub const fn new(tool: SimTool) -> Self {
        Self { tool, rights: BTreeMap::new(), command: None }
    }

    /// The devices that nobody has and that the pool says are free.
    #[must_use]
    pub fn free(&self, devices: &[Sbdf]) -> Vec<Sbdf> {
        let is_free = |device: &&Sbdf| {
            !self.rights.contains_key(device) && self.tool.pool_state(**device).as_deref() == Some("free")
        };
        devices.iter().filter(is_free).copied().collect()
    }

    /// The devices in a guest's entries.
    #[must_use]
    pub fn listed(&self, guest: DomId) -> Vec<Sbdf> {
        self.tool.entries(guest).into_iter().map(|(device, _)| device).collect()
    }

    fn has_directory(&self, guest: DomId) -> bool {
        self.tool.backend(guest, "frontend").is_some()
    }

    /// Gives free devices to a guest.
    ///
    /// # Panics
    /// When somebody has one, or a command is under way.
    pub fn attach(&mut self, guest: DomId, devices: &[(Sbdf, Option<u8>)]) {
        assert_eq!(self.command, None, "one command at a time");
        for (device, _) in devices {
            let before = self.rights.insert(*device, guest);
            assert_eq!(before, None, "{device} is somebody's");
        }
        let addresses = devices.iter().map(|(device, _)| *device).collect::<Vec<_>>();
        if self.has_directory(guest) {
            self.tool.hot_attach(guest, devices);
        } else {
            self.tool.attach(guest, &addresses);
        }
        self.command = Some(Command::Attach(guest, addresses));
    }

    /// Takes devices away from a guest and, in the same transition, gives it others.
    ///
    /// # Panics
    /// As [`Admin::attach`].
    pub fn change(&mut self, guest: DomId, attach: &[(Sbdf, Option<u8>)], detach: &[Sbdf]) {
        assert_eq!(self.command, None, "one command at a time");
        for (device, _) in attach {
            let before = self.rights.insert(*device, guest);
            assert_eq!(before, None, "{device} is somebody's");
        }
        self.tool.hot_change(guest, attach, detach);
        self.command = Some(Command::Detach(guest, detach.to_vec()));
    }

    /// Closes a guest's directories for good.
    pub fn close(&mut self, guest: DomId) {
        self.tool.request_close(guest);
        self.command = Some(Command::Close(guest));
    }

    /// Looks how far the command has come, and takes back the rights to what nobody has any more. True when something happened.
    pub fn step(&mut self) -> bool {
        let is_done = self.command.clone().is_some_and(|command| self.is_done(&command));
        if is_done {
            self.command = None;
        }
        self.reclaim() || is_done
    }

    fn is_done(&self, command: &Command) -> bool {
        let guest = command.guest();
        if !self.has_directory(guest) {
            return true; // it died, and what it had was collected
        }
        let ours = self.tool.backend(guest, "state").unwrap_or_default();
        match command {
            Command::Attach(_, devices) if self.tool.is_settled(guest) => {
                let entries = self.tool.entries(guest);
                let failed = entries.iter().filter(|(device, state)| devices.contains(device) && state == "6");
                let failed = failed.map(|(device, _)| *device).collect::<Vec<_>>();
                self.tool.remove_entries(guest, &failed);
                true
            }
            Command::Detach(_, devices) if self.tool.is_settled(guest) || ours == "6" => {
                self.tool.remove_entries(guest, devices);
                true
            }
            Command::Close(_) if ours == "6" => {
                self.tool.remove_dirs(guest);
                true
            }
            _ => false,
        }
    }

    /// Nobody waits any longer: undone, or done by force.
    pub fn time_out(&mut self, by_force: bool) {
        let Some(command) = self.command.take() else { return };
        let guest = command.guest();
        if !self.has_directory(guest) {
            return;
        }
        // What was to come, alone or with a detach, does not.
        let is_new = |(_, state): &(Sbdf, String)| state == "1";
        let new = self.tool.entries(guest).into_iter().filter(is_new).map(|(device, _)| device);
        match command {
            Command::Attach(_, devices) => self.tool.roll_back_attach(guest, &devices),
            Command::Detach(_, devices) if by_force => {
                let gone = devices.into_iter().chain(new).collect::<Vec<_>>();
                self.tool.roll_back_attach(guest, &gone);
            }
            Command::Detach(_, devices) => {
                self.tool.remove_entries(guest, &new.collect::<Vec<_>>());
                self.tool.roll_back_detach(guest, &devices);
            }
            Command::Close(_) => self.tool.remove_dirs(guest),
        }
    }

    /// The guest's domain is gone: so are its directories.
    pub fn guest_died(&mut self, guest: DomId) {
        if self.has_directory(guest) {
            self.tool.remove_dirs(guest);
        }
    }

    fn reclaim(&mut self) -> bool {
        let tool = &self.tool;
        let is_left = |(device, guest): &(&Sbdf, &DomId)| {
            let is_listed = tool.entries(**guest).iter().any(|(listed, _)| listed == *device);
            let state = tool.pool_state(**device).unwrap_or_default();
            !is_listed && state != format!("assigned {guest}") && state != format!("absent {guest}")
        };
        let left = self.rights.iter().filter(is_left).map(|(device, guest)| (*device, *guest)).collect::<Vec<_>>();
        for (device, guest) in &left {
            self.tool.release(*guest, *device);
            self.rights.remove(device);
        }
        !left.is_empty()
    }
}
