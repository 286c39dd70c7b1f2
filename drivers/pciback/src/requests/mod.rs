//! One request in, one reply out: what a frontend's request means for the function it names (docs/protocol.md §4).
//!
//! Nothing here waits, allocates or panics, whatever the request says. What people should know comes back as a [`LogOnce`],
//! which each function issues once for each reason while it is assigned, so no frontend can flood the log (XSA-43).

mod all_ones;
mod broker_request;
mod counters;
mod denied_writes;
mod interrupts;
mod log_once;

pub(crate) use broker_request::{BrokerAnswer, Verdict};
pub use broker_request::{BrokerRequest, Interrupts};
pub use counters::{Count, Counters};
pub use denied_writes::DeniedWrites;
pub(crate) use interrupts::are_entries_valid;
pub use log_once::{LogOnce, Noticed};

use pciif::{Command, ErrorCode, ReadRequest, Reply, Request};

use crate::config::{BadAccess, Denied, VirtualConfig, WriteError, WriteOutcome};
use crate::platform::{ConfigSpace, Width};
use crate::pool::device_info::DeviceId;
use crate::topology::Topology;
use all_ones::AllOnesDetector;

/// A function while it is assigned: what its guest sees of it, and what was told about it already.
#[derive(Clone, Debug)]
pub struct AssignedFunction {
    /// The guest's view.
    pub config: VirtualConfig,
    /// What the broker has turned on for the guest.
    pub interrupts: Interrupts,
    /// It does not answer any more. Stays so until it is given back, even if something answers again: that may be another.
    pub is_gone: bool,
    /// Its guest's writes that did not get through.
    pub denied_writes: DeniedWrites,
    noticed: Noticed,
}

impl AssignedFunction {
    /// A function that nobody has used yet.
    #[must_use]
    pub const fn new(config: VirtualConfig) -> Self {
        Self {
            config,
            interrupts: Interrupts::Off,
            is_gone: false,
            denied_writes: DeniedWrites::NONE,
            noticed: Noticed::NONE,
        }
    }

    /// As new: for the next guest, or the same after a restart.
    pub fn reset(&mut self) {
        self.config.reset();
        self.interrupts = Interrupts::Off;
        self.denied_writes = DeniedWrites::NONE;
        self.noticed = Noticed::NONE;
    }

    /// The notice, if the function has not issued it yet.
    pub(crate) fn news(&mut self, notice: Option<LogOnce>) -> Option<LogOnce> {
        notice.filter(|notice| self.noticed.is_news(*notice))
    }
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At once.
    Now(Reply<'static>),
    /// When the broker has done this. Nothing that is counted or told has happened yet, so the request may be executed again.
    Later(BrokerRequest),
    /// It is a read of a function that is there: [`read`] has the answer.
    Read,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The answer for the frontend.
    pub answer: Answer,
    /// The function it was about, `None` where there is no such one.
    pub device: Option<DeviceId>,
    /// Something for the log, together with the request.
    pub notice: Option<LogOnce>,
    /// The function was found to be gone just now.
    pub is_loss: bool,
}

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HasRead {
    /// This is the answer, and nothing else is to be done.
    Done(ErrorCode, u32),
    /// There is no such function: [`execute`] has the answer.
    Absent,
    /// The function was found to be gone just now, and is not there any more.
    Lost,
}

/// Executes a read, which most requests are: everything on its way is here, and nothing else.
///
/// `find` is that of [`execute`].
#[inline(always)]
pub fn read<'a, H: ConfigSpace + 'a>(
    request: &ReadRequest,
    topology: &Topology,
    find: impl FnOnce(DeviceId) -> Option<(&'a mut AssignedFunction, &'a H)>,
    counters: &mut Counters,
) -> HasRead {
    let Some(id) = topology.lookup(request.domain, request.bus, request.devfn) else { return HasRead::Absent };
    let Some((function, hw)) = find(id) else { return HasRead::Absent };
    if function.is_gone {
        return HasRead::Absent;
    }
    if request.size == 4 && request.offset != 0 {
        let hw = &AllOnesDetector::new(hw);
        if let Some(value) = function.config.read_dword(hw, request.offset)
            && !hw.is_gone()
        {
            counters.reads.bump();
            return HasRead::Done(ErrorCode::Success, value);
        }
    }
    read_any(&{ *request }, function, hw, counters)
}

/// The long way of all reads that the short one of most is not for.
#[inline(never)]
fn read_any(
    request: &ReadRequest,
    function: &mut AssignedFunction,
    hw: &impl ConfigSpace,
    counters: &mut Counters,
) -> HasRead {
    let hw = &AllOnesDetector::new(hw);
    // The ids are answered from our own copy, but reading them is how drivers find out whether a function is still there.
    if (0..4).contains(&request.offset) {
        hw.read_config(0, Width::Dword);
    }
    let value = function.config.read(hw, request.offset, request.size);
    if hw.is_gone() {
        function.is_gone = true;
        return HasRead::Lost;
    }
    match value {
        Ok(value) => {
            counters.reads.bump();
            HasRead::Done(ErrorCode::Success, value)
        }
        Err(error) => {
            counters.bad_accesses.bump();
            // Behind the end there is nothing, which reads as ones; a read that cannot exist reads nothing.
            let value = if error == BadAccess::PastEnd { u32::MAX } else { 0 };
            HasRead::Done(ErrorCode::InvalidOffset, value)
        }
    }
}

/// Executes any other request.
///
/// `find` gives the assigned function and its hardware for what the topology found; `None` where it is not served at the moment
/// (under release, or gone), which the frontend sees as no function at all.
pub fn execute<'a, H: ConfigSpace + 'a>(
    request: &Request,
    topology: &Topology,
    find: impl FnOnce(DeviceId) -> Option<(&'a mut AssignedFunction, &'a H)>,
    counters: &mut Counters,
) -> Executed {
    let device = topology.lookup(request.domain, request.bus, request.devfn);
    let absent = |is_loss| Executed { answer: Answer::Now(Reply::NO_DEVICE), device: None, notice: None, is_loss };
    // The look-up comes before everything else: an unknown command to an unknown function is answered "no such function".
    let found = device.and_then(find).filter(|(function, _)| !function.is_gone);
    let Some((function, hw)) = found else {
        counters.no_device.bump();
        return absent(false);
    };
    let hw = &AllOnesDetector::new(hw);
    let (answer, notice) = match request.command() {
        Some(Command::ConfRead) => (Answer::Read, None),
        Some(Command::ConfWrite) => conf_write(request, function, hw, counters),
        Some(command @ (Command::EnableMsi | Command::EnableMsix | Command::EnableMultiMsi)) => {
            match interrupts::enable(command, request, function, hw) {
                Some(job) => (Answer::Later(job), None),
                None => {
                    counters.interrupts_refused.bump();
                    (Answer::Now(Reply::error(ErrorCode::OpFailed, 0)), Some(LogOnce::BadInterrupts))
                }
            }
        }
        // Either turns off what is on: Debian's frontend asks for MSI to be turned off where it had turned MSI-X on.
        Some(Command::DisableMsi | Command::DisableMsix) => match function.interrupts {
            // The value is the pirq that the function has then, that of its line.
            Interrupts::Off => {
                counters.interrupts_disabled.bump();
                (Answer::Now(Reply::success(function.config.interrupt_line().into())), None)
            }
            Interrupts::Msi | Interrupts::MsiX => (Answer::Later(BrokerRequest::Disable), None),
        },
        Some(Command::AerDetected | Command::AerResume | Command::AerMmio | Command::AerSlotReset) | None => {
            counters.unknown_commands.bump();
            let reply = Reply::error(ErrorCode::NotImplemented, request.value);
            (Answer::Now(reply), Some(LogOnce::UnknownCommand))
        }
    };
    if hw.is_gone() {
        function.is_gone = true;
        return absent(true);
    }
    Executed { answer, device, notice: function.news(notice), is_loss: false }
}

fn conf_write(
    request: &Request,
    function: &mut AssignedFunction,
    hw: &impl ConfigSpace,
    counters: &mut Counters,
) -> (Answer, Option<LogOnce>) {
    let (err, notice) = match function.config.write(hw, request.offset, request.size, request.value) {
        Ok(outcome) => {
            if let Some(job) = job(&outcome) {
                return (Answer::Later(job), None);
            }
            counters.writes.bump();
            if outcome.is_dropped {
                counters.dropped_writes.bump();
                function.denied_writes.note(request.offset);
            }
            (ErrorCode::Success, outcome.is_dropped.then_some(LogOnce::DroppedWrite))
        }
        Err(WriteError::Access(_)) => {
            counters.bad_accesses.bump();
            (ErrorCode::InvalidOffset, None)
        }
        Err(WriteError::Denied(denied)) => {
            counters.denied_writes.bump();
            function.denied_writes.note(request.offset);
            (ErrorCode::AccessDenied, (denied == Denied::VpdWrite).then_some(LogOnce::VpdWrite))
        }
    };
    // The value goes back as it came, as from Linux's backend.
    (Answer::Now(Reply { err, value: request.value, vectors: &[] }), notice)
}

/// What a write that passed the policy leaves for the hardware. What is virtual has taken place.
fn job(outcome: &WriteOutcome) -> Option<BrokerRequest> {
    let mut writes = outcome.hardware().copied();
    Some(BrokerRequest::Write { now: writes.next()?, then: writes.next(), failed: false })
}

#[cfg(test)]
mod tests;
