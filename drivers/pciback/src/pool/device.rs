//! A device of the pool, and its states between assignment and release.

use alloc::string::{String, ToString as _};

use super::device_info::DeviceInfo;
use crate::broker_client::Broker;
use crate::config::{Answering, HardwareWrite, VirtualConfig, check_quiesced, check_servable, is_absent};
use crate::platform::{ConfigSpace as _, ConfigWrite as _, Platform};
use crate::requests::{AssignedFunction, Away, BrokerRequest, Cleanup, Interrupts, Next, Presence, Verdict};
use crate::topology::Traits;

/// One function: what the tool said about it, its mapped configuration space, and what a guest sees of that.
pub(crate) struct PoolDevice<P: Platform> {
    info: DeviceInfo,
    config: P::ConfigPage,
    function: AssignedFunction,
    /// Clean-up that the broker still has to do.
    pub(crate) cleanup: Cleanup,
    /// It has a place in the broker's queue of cleanups.
    is_queued: bool,
    /// It has a place among those that are looked for.
    is_looked_for: bool,
    /// Its guest sees it as the only function of its slot.
    is_alone: bool,
    /// Its guest has had something written to it or turned on.
    pub(crate) is_touched: bool,
    /// Its guest has let it go.
    pub(super) is_given_back: bool,
    /// Who was notified that it is gone.
    pub(crate) notified: Notified,
    /// How far the guest was told of its error.
    pub(crate) relay: Relay,
}

/// Bits of a function's note, besides those of [`VirtualConfig::guest_state`].
mod note {
    pub(super) const MSI: u32 = 1 << 24;
    pub(super) const MSI_X: u32 = 1 << 25;
    pub(super) const DISABLE: u32 = 1 << 26;
    pub(super) const TOUCHED: u32 = 1 << 27;
    pub(super) const ABSENT: u32 = 1 << 28;
    pub(super) const GIVEN_BACK: u32 = 1 << 29;
    pub(super) const AWAY: u32 = 1 << 30;
    pub(super) const TO_BE_RESET: u32 = 1 << 31;
}

/// Who was notified that a function is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Notified {
    /// Neither.
    #[default]
    None,
    /// The toolstack.
    Toolstack,
    /// The guest too, if it listens.
    Guest,
}

/// How far a guest was told of an error that the device's `aer` node has. In the order in which devices are looked at when the page is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Relay {
    /// There is nothing to be told.
    #[default]
    Nothing,
    /// The page has another notification.
    Waits,
    /// It was notified, and its answer was not taken yet.
    Notified,
}

impl<P: Platform> PoolDevice<P> {
    /// Builds the guest's view of the function behind `config`, of which [`PoolDevice::check`] tells whether it is one that we can show.
    pub(crate) fn new(info: DeviceInfo, config: P::ConfigPage) -> Self {
        let (view, fault) = VirtualConfig::read_from(&info.description(), &config);
        if let Some(fault) = fault {
            plain_log::warning!(
                "pool: {}: a list of its capabilities leads to {:#x}, which is none",
                info.sbdf(),
                u32::from(fault.pointer)
            );
        }
        let function = AssignedFunction::new(view);
        Self {
            info,
            config,
            function,
            cleanup: Cleanup::None,
            is_queued: false,
            is_looked_for: false,
            is_alone: false,
            is_touched: false,
            is_given_back: false,
            notified: Notified::None,
            relay: Relay::Nothing,
        }
    }

    /// Keeps what neither the hardware nor xenstore can tell after a restart in place. `is_asked`: the broker is asked to turn vectors on.
    pub(crate) fn note(&self, is_asked: bool) {
        let vectors = match self.function.interrupts {
            Interrupts::Off => 0,
            Interrupts::Msi => note::MSI,
            Interrupts::MsiX => note::MSI_X,
        };
        let flag = |flag, is_set| if is_set { flag } else { 0 };
        let presence = match self.function.presence {
            Presence::Here => 0,
            Presence::Away(Away { next: Next::Look, .. }) => note::AWAY,
            Presence::Away(Away { next: Next::Reset, .. }) => note::AWAY | note::TO_BE_RESET,
            Presence::Gone => note::ABSENT,
        };
        self.config.set_note(
            self.function.config.guest_state()
                | vectors
                | presence
                | flag(note::DISABLE, is_asked || self.cleanup == Cleanup::Disable)
                | flag(note::TOUCHED, self.is_touched)
                | flag(note::GIVEN_BACK, self.is_given_back),
        );
    }

    /// Brings a device that a guest had before a restart in place to where it was.
    pub(super) fn recall(&mut self, was_absent: bool, now_ns: u64) {
        let note = self.config.note();
        self.function.config.set_guest_state(note);
        if note & note::TO_BE_RESET != 0 {
            // Perhaps it was done, and the function is to be left alone for a while.
            self.function.presence = Presence::Away(Away::to_be_reset(now_ns));
        } else if note & note::AWAY != 0 {
            self.function.presence = Presence::Away(Away::since_reset(now_ns, &mut 0));
        } else if was_absent || note & note::ABSENT != 0 {
            self.function.presence = Presence::Gone;
        }
        self.is_touched = note & note::TOUCHED != 0;
        self.is_given_back = note & note::GIVEN_BACK != 0;
        if note & note::DISABLE != 0 {
            self.cleanup = Cleanup::Disable; // what was on then, and for whom, is not known
        } else if note & note::MSI != 0 {
            self.function.interrupts = Interrupts::Msi;
        } else if note & note::MSI_X != 0 {
            self.function.interrupts = Interrupts::MsiX;
        }
    }

    /// The tool's description of it.
    pub(crate) const fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Both sides of it, to execute a request on.
    pub(crate) const fn parts(&mut self) -> (&mut AssignedFunction, &P::ConfigPage) {
        (&mut self.function, &self.config)
    }

    /// Properties that decide its virtual address.
    pub(crate) fn traits(&self) -> Traits {
        Traits { is_virtual_function: self.info.is_virtual_function(), is_bridge: self.function.config.is_bridge() }
    }

    /// Whether it is still there and does nothing on its own; the reason if not.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.is_absent() {
            return Err("it was gone while it was assigned".to_string()); // whatever answers now
        }
        // It may have been unplugged since it was mapped.
        check_servable(&self.config).map_err(|error| error.to_string())?;
        check_quiesced(&self.config).map_err(|error| error.to_string())
    }

    /// Its registers are those of a quiesced device: it is noted as not touched by a guest, also for a restart in place. A crash while it is assigned to the next
    /// guest would otherwise have it quiesced again, and fail that assignment.
    pub(crate) fn found_quiesced(&mut self) {
        self.is_touched = false;
        // A place that it still has in a queue is passed over while nobody has it.
        self.is_queued = false;
        self.is_looked_for = false;
        self.note(false);
    }

    /// Whether it is known to be gone.
    pub(crate) const fn is_absent(&self) -> bool {
        self.function.presence.is_absent()
    }

    /// Why its guest has lost it.
    pub(crate) fn loss(&self) -> &'static str {
        if matches!(self.function.presence, Presence::Away(Away { next: Next::Reset, .. })) {
            "was not reset as its guest asked for: the broker did not do it"
        } else if is_absent(&self.config) {
            "is gone: it does not answer any more"
        } else {
            "was isolated after an error"
        }
    }

    /// Looks whether it still answers, and has it looked for where it does not.
    pub(crate) fn look_after(&mut self, now_ns: u64, broker: &mut Broker<P>) {
        if self.function.presence.is_here() && is_absent(&self.config) {
            self.lose(now_ns, broker);
        }
    }

    /// It does not answer any more, and is looked for.
    pub(crate) fn lose(&mut self, now_ns: u64, broker: &mut Broker<P>) {
        self.is_touched = true;
        self.function.presence = Presence::Away(Away::lost(now_ns));
        self.note(false);
        self.queue_cleanup(broker);
    }

    /// Makes the guest's view as at the first connect.
    pub(crate) fn reset(&mut self) {
        self.is_given_back = false;
        self.function.reset();
        self.note(false);
    }

    /// Whether the guest is to see it as the only function of its slot.
    pub(crate) fn show_alone(&mut self, is_alone: bool) {
        self.is_alone = is_alone;
        self.function.config.show_alone(&self.config, is_alone);
    }

    /// Its guest releases it: whatever it had turned on goes off, as soon as the broker can.
    pub(crate) fn release(&mut self) {
        self.function.interrupts = Interrupts::Off;
        self.relay = Relay::Nothing;
        if self.is_touched {
            self.cleanup = Cleanup::Quiesce;
        }
        self.note(false);
    }

    /// Its guest has let it go, and does not get it again after a restart in place: it would have to let go once more.
    pub(super) fn give_back(&mut self) {
        self.is_given_back = true;
        // Whether it answers we look when the toolstack has seen to it.
        self.function.presence = if self.is_absent() { Presence::Gone } else { Presence::Here };
        self.release();
    }

    /// Gives it a place in the broker's queue, if there is a cleanup to do and it has none.
    pub(crate) fn queue_cleanup(&mut self, broker: &mut Broker<P>) {
        if self.cleanup != Cleanup::None && !core::mem::replace(&mut self.is_queued, true) {
            broker.queue_cleanup(self.info.sbdf());
        }
        if let Presence::Away(away) = self.function.presence
            && !core::mem::replace(&mut self.is_looked_for, true)
        {
            broker.look_for(self.info.sbdf(), away.at_ns);
        }
    }

    /// Its place in the queue has come, or the time to look for it: what to ask the broker for, if there is anything.
    pub(crate) fn take_cleanup(&mut self, now_ns: u64) -> Option<BrokerRequest> {
        self.is_queued = false;
        self.look_for(now_ns).or_else(|| self.cleanup.request())
    }

    /// Looks for a function that is away, if it is time to.
    fn look_for(&mut self, now_ns: u64) -> Option<BrokerRequest> {
        let Presence::Away(away) = &mut self.function.presence else { return None };
        if now_ns < away.at_ns {
            return None;
        }
        self.is_looked_for = false;
        let reset = |now| BrokerRequest::Write { now, then: None, failed: false };
        match (away.next, self.function.config.who_answers(&self.config, self.info.is_virtual_function())) {
            (Next::Reset, _) => match self.function.config.reset_write() {
                Some(write) => return Some(reset(write)),
                // It did not answer after a restart in place: it is at its reset.
                None => *away = Away::since_reset(now_ns, &mut 0),
            },
            (Next::Look, Answering::Same) => {
                return Some(BrokerRequest::Restore(self.function.config.command_state()));
            }
            (Next::Look, Answering::Nobody) => away.look_later(now_ns),
            (Next::Look, Answering::Other) => self.function.presence = Presence::Gone,
        }
        self.note(false);
        None
    }

    /// It answers again, and has what it lost.
    fn has_returned(&mut self) {
        if matches!(self.function.presence, Presence::Gone) {
            return;
        }
        self.function.presence = Presence::Here;
        self.notified = Notified::None;
        if self.function.config.is_blind() {
            // After a restart in place it did not answer yet.
            self.function.config = VirtualConfig::new(&self.info.description(), &self.config);
            self.function.config.show_alone(&self.config, self.is_alone);
            self.function.config.set_guest_state(self.config.note());
        }
    }

    /// Its guest wants it reset, and does not see it again before that has happened.
    pub(crate) fn await_reset(&mut self, now_ns: u64) {
        self.is_touched = true;
        self.function.presence = Presence::Away(Away::to_be_reset(now_ns));
    }

    /// No broker is there to quiesce it. Vectors of a guest that is alive can still be turned off later.
    pub(crate) fn give_up_quiesce(&mut self) {
        self.cleanup = Cleanup::Disable;
        if self.config.is_writable() {
            self.write(&HardwareWrite::bus_master_off());
        }
    }

    /// Writes a register ourselves, where the page lets us.
    pub(crate) fn write(&mut self, write: &HardwareWrite) {
        self.is_touched = true;
        self.note(false);
        let before = self.config.read_config(write.offset, write.width);
        let value = before & !write.mask | write.value;
        self.config.write_config(write.offset, write.width, value);
    }

    /// Takes note of what a job did to it.
    pub(crate) fn finished(&mut self, job: &BrokerRequest, verdict: Verdict, is_delivered: bool, now_ns: u64) {
        self.conclude(job, verdict, is_delivered, now_ns);
        self.note(false);
    }

    fn conclude(&mut self, job: &BrokerRequest, verdict: Verdict, is_delivered: bool, now_ns: u64) {
        self.is_touched = true;
        let (interrupts, cleanup) = match (job, verdict) {
            (job, Verdict::Done) if job.is_reset() => return self.function.was_reset(now_ns),
            (BrokerRequest::Restore(_), Verdict::Done) => return self.has_returned(),
            (job, verdict) if job.is_reset() || matches!(job, BrokerRequest::Restore(_)) => {
                return match &mut self.function.presence {
                    Presence::Away(away) if matches!(verdict, Verdict::Refused(_)) => away.look_later(now_ns),
                    Presence::Away(away) => away.ask_later(now_ns),
                    Presence::Here | Presence::Gone => {}
                };
            }
            (BrokerRequest::Write { .. }, _) => return,
            (BrokerRequest::Quiesce, Verdict::Done) => {
                self.is_touched = false;
                (Interrupts::Off, Cleanup::None)
            }
            (BrokerRequest::Quiesce, _) => return self.give_up_quiesce(),
            (BrokerRequest::EnableMsi(_), Verdict::Done) if is_delivered => (Interrupts::Msi, self.cleanup),
            (BrokerRequest::EnableMsix(_), Verdict::Done) if is_delivered => (Interrupts::MsiX, self.cleanup),
            // A quiesce that was asked for meanwhile stays asked for.
            (BrokerRequest::Disable, Verdict::Done) if self.cleanup == Cleanup::Disable => {
                (Interrupts::Off, Cleanup::None)
            }
            (BrokerRequest::Disable, Verdict::Done) => (Interrupts::Off, self.cleanup),
            // On or half on, and the guest does not know, or still on though it was to go off: off with it.
            _ => (Interrupts::Off, self.cleanup.max(Cleanup::Disable)),
        };
        self.cleanup = cleanup;
        self.function.interrupts = interrupts;
    }
}
