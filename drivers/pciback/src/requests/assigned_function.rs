//! An assigned function with its virtual configuration space and interrupts.

use super::{Away, DeniedWrites, LogOnce, Noticed, Presence};
use crate::config::VirtualConfig;

/// Which interrupts a function has besides its line. No pirq is kept: the broker unmaps what it has mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Interrupts {
    /// None.
    #[default]
    Off,
    /// MSI.
    Msi,
    /// MSI-X.
    MsiX,
}

/// A function while it is assigned: what its guest sees of it, and what was told about it already.
#[derive(Clone, Debug)]
pub(crate) struct AssignedFunction {
    /// The guest's view.
    pub(crate) config: VirtualConfig,
    /// Interrupts that are enabled for the guest.
    pub(crate) interrupts: Interrupts,
    /// Whether it answers.
    pub(crate) presence: Presence,
    /// Time up to which the resets are paid for that its guest has had ([`Away::since_reset`]).
    resets_paid_ns: u64,
    /// Its guest's writes that did not get through.
    pub(crate) denied_writes: DeniedWrites,
    noticed: Noticed,
}

impl AssignedFunction {
    /// A function that was not used yet.
    #[must_use]
    pub(crate) const fn new(config: VirtualConfig) -> Self {
        Self {
            config,
            interrupts: Interrupts::Off,
            presence: Presence::Here,
            resets_paid_ns: 0,
            denied_writes: DeniedWrites::NONE,
            noticed: Noticed::NONE,
        }
    }

    /// As new: for the next guest, or the same after a restart.
    pub(crate) fn reset(&mut self) {
        self.config.reset();
        self.interrupts = Interrupts::Off;
        self.denied_writes = DeniedWrites::NONE;
        self.noticed = Noticed::NONE;
    }

    /// It was reset at its guest's wish: the guest sees it as it is then, when it answers again.
    pub(crate) fn was_reset(&mut self, now_ns: u64) {
        self.config.reset();
        self.presence = Presence::Away(Away::since_reset(now_ns, &mut self.resets_paid_ns));
    }

    /// The notice, if the function has not issued it yet.
    pub(crate) fn news(&mut self, notice: Option<LogOnce>) -> Option<LogOnce> {
        notice.filter(|notice| self.noticed.is_news(*notice))
    }
}
