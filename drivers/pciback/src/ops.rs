//! One request in, one reply out: what a frontend's request means for the function it names (pci-protocol §4).
//!
//! Nothing here waits, allocates or panics, whatever the request says. What people should know comes back as a [`Notice`],
//! which each function issues once for each reason while it is lent, so no frontend can flood the log (XSA-43).

mod counters;
mod notice;

pub use counters::{Count, Counters};
pub use notice::{Notice, Noticed};

use pciif::{Command, ErrorCode, Reply, Request};

use crate::config::{BadAccess, Denied, VirtualConfig, WriteError, WriteOutcome};
use crate::device::{DeviceId, DeviceInfo};
use crate::platform::ConfigSpace;
use crate::topology::Topology;

/// A function while it is lent: what its guest sees of it, and what was told about it already.
#[derive(Clone, Debug)]
pub struct LentFunction {
    /// The guest's view.
    pub config: VirtualConfig,
    noticed: Noticed,
}

impl LentFunction {
    /// Builds the guest's view from the description and the hardware.
    #[must_use]
    pub fn new(info: &DeviceInfo, hw: &impl ConfigSpace) -> Self {
        Self { config: VirtualConfig::new(info, hw), noticed: Noticed::default() }
    }

    /// As new: for the next guest, or the same after a restart.
    pub fn reset(&mut self) {
        self.config.reset();
        self.noticed = Noticed::default();
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The answer for the frontend.
    pub reply: Reply<'static>,
    /// The function it was about, `None` where there is no such one.
    pub device: Option<DeviceId>,
    /// Something for the log, together with the request.
    pub notice: Option<Notice>,
}

/// Executes a request.
///
/// `find` gives the lent function and its hardware for what the topology found; `None` where it is not served at the moment
/// (under release, or gone), which the frontend sees as no function at all.
pub fn execute<'a, H: ConfigSpace + 'a>(
    request: &Request,
    topology: &Topology,
    find: impl FnOnce(DeviceId) -> Option<(&'a mut LentFunction, &'a H)>,
    counters: &mut Counters,
) -> Executed {
    let device = topology.lookup(request.domain, request.bus, request.devfn);
    // The look-up comes before everything else: an unknown command to an unknown function is answered "no such function".
    let Some((function, hw)) = device.and_then(find) else {
        counters.no_device.bump();
        return Executed { reply: Reply::NO_DEVICE, device: None, notice: None };
    };
    let (reply, notice) = match request.command() {
        Some(Command::ConfRead) => conf_read(request, function, hw, counters),
        Some(Command::ConfWrite) => conf_write(request, function, hw, counters),
        Some(Command::EnableMsi | Command::EnableMsix) => {
            counters.interrupts_refused.bump();
            (Reply::error(ErrorCode::OpFailed, 0), Some(Notice::NoInterrupts))
        }
        // Never on, so off already; the value is the pirq that the function has then, that of its line.
        Some(Command::DisableMsi | Command::DisableMsix) => {
            counters.interrupts_disabled.bump();
            (Reply::success(function.config.interrupt_line().into()), None)
        }
        Some(
            Command::AerDetected
            | Command::AerResume
            | Command::AerMmio
            | Command::AerSlotReset
            | Command::EnableMultiMsi,
        )
        | None => {
            counters.unknown_commands.bump();
            (Reply::error(ErrorCode::NotImplemented, request.value), Some(Notice::UnknownCommand))
        }
    };
    Executed { reply, device, notice: notice.filter(|notice| function.noticed.is_news(*notice)) }
}

fn conf_read(
    request: &Request,
    function: &LentFunction,
    hw: &impl ConfigSpace,
    counters: &mut Counters,
) -> (Reply<'static>, Option<Notice>) {
    match function.config.read(hw, request.offset, request.size) {
        Ok(value) => {
            counters.reads.bump();
            (Reply::success(value), None)
        }
        Err(error) => {
            counters.bad_accesses.bump();
            // Behind the end there is nothing, which reads as ones; a read that cannot exist reads nothing.
            let value = if error == BadAccess::PastEnd { u32::MAX } else { 0 };
            (Reply::error(ErrorCode::InvalidOffset, value), None)
        }
    }
}

fn conf_write(
    request: &Request,
    function: &mut LentFunction,
    hw: &impl ConfigSpace,
    counters: &mut Counters,
) -> (Reply<'static>, Option<Notice>) {
    let (err, notice) = match function.config.write(hw, request.offset, request.size, request.value) {
        Ok(outcome) => {
            let notice = after_write(&outcome, counters);
            let refused = matches!(notice, Some(Notice::NoBroker(_)));
            (if refused { ErrorCode::AccessDenied } else { ErrorCode::Success }, notice)
        }
        Err(WriteError::Access(_)) => {
            counters.bad_accesses.bump();
            (ErrorCode::InvalidOffset, None)
        }
        Err(WriteError::Denied(denied)) => {
            counters.denied_writes.bump();
            (ErrorCode::AccessDenied, (denied == Denied::VpdWrite).then_some(Notice::VpdWrite))
        }
    };
    // The value goes back as it came, as from Linux's backend.
    (Reply { err, value: request.value, vectors: &[] }, notice)
}

/// Counts a write that passed the policy, and says what should be told about it. Nobody carries out hardware writes yet, so
/// the guest is told that they were refused; what is virtual has taken place.
fn after_write(outcome: &WriteOutcome, counters: &mut Counters) -> Option<Notice> {
    if let Some(write) = outcome.hardware().next() {
        counters.no_broker.bump();
        return Some(Notice::NoBroker(write.register));
    }
    counters.writes.bump();
    if outcome.is_dropped {
        counters.dropped_writes.bump();
        return Some(Notice::DroppedWrite);
    }
    None
}

#[cfg(test)]
mod tests;
