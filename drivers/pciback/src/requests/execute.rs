//! Every request but a read: a write is judged by the policy, an interrupt request by what the function has.

use pciif::{Command, ErrorCode, Reply, Request};

use super::all_ones::AllOnesDetector;
use super::{AssignedFunction, BrokerRequest, Counters, Interrupts, LogOnce, interrupts};
use crate::config::{Denied, WriteError, WriteOutcome};
use crate::platform::ConfigSpace;
use crate::topology::{DeviceId, Topology};

/// Answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// At once.
    Now(Reply<'static>),
    /// When the broker has done this. Nothing that is counted or told has happened yet, so the request may be executed again.
    Later(BrokerRequest),
    /// It is a read of a function that is there: [`read`](super::read()) has the answer.
    Read,
}

/// Result of executing a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Executed {
    /// The answer for the frontend.
    pub(crate) answer: Answer,
    /// The function it was about, `None` where there is no such one.
    pub(crate) device: Option<DeviceId>,
    /// Something for the log, together with the request.
    pub(crate) notice: Option<LogOnce>,
    /// The function was found not to answer just now.
    pub(crate) is_loss: bool,
}

/// Executes any other request.
///
/// `find` gives the assigned function and its hardware for what the topology found; `None` where it is not served at the moment
/// (under release, or gone), which the frontend sees as no function at all.
pub(crate) fn execute<'a, H: ConfigSpace + 'a>(
    request: &Request,
    topology: &Topology,
    find: impl FnOnce(DeviceId) -> Option<(&'a mut AssignedFunction, &'a H)>,
    counters: &mut Counters,
) -> Executed {
    let device = topology.lookup(request.domain, request.bus, request.devfn);
    let absent = Executed { answer: Answer::Now(Reply::NO_DEVICE), device: None, notice: None, is_loss: false };
    // The look-up comes before everything else: an unknown command to an unknown function is answered "no such function".
    let found = device.and_then(find).filter(|(function, _)| !function.presence.is_absent());
    let Some((function, hw)) = found else {
        counters.no_device.bump();
        return absent;
    };
    let is_here = function.presence.is_here();
    let hw = &AllOnesDetector::new(hw);
    let (answer, notice) = match request.command() {
        Some(Command::ConfRead) => (Answer::Read, None),
        // What is written to a function in its reset is lost.
        Some(Command::ConfWrite) if !is_here => {
            counters.writes.bump();
            counters.dropped_writes.bump();
            (Answer::Now(Reply::success(request.value)), None)
        }
        Some(Command::ConfWrite) => conf_write(request, function, hw, counters),
        Some(command @ (Command::EnableMsi | Command::EnableMsix | Command::EnableMultiMsi)) => {
            match interrupts::enable(command, request, function, hw) {
                Some(job) if is_here => (Answer::Later(job), None),
                _ => {
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
    let is_loss = is_here && hw.is_absent();
    let answer = match answer {
        // As of a function that is away already.
        Answer::Later(BrokerRequest::Write { .. } | BrokerRequest::Restore(_)) if is_loss => {
            Answer::Now(Reply::success(request.value))
        }
        Answer::Later(BrokerRequest::EnableMsi(_) | BrokerRequest::EnableMsix(_)) if is_loss => {
            Answer::Now(Reply::error(ErrorCode::OpFailed, 0))
        }
        answer => answer,
    };
    Executed { answer, device, notice: function.news(notice), is_loss }
}

fn conf_write(
    request: &Request,
    function: &mut AssignedFunction,
    hw: &impl ConfigSpace,
    counters: &mut Counters,
) -> (Answer, Option<LogOnce>) {
    let (err, notice) = match function.config.write(hw, request.offset, request.size, request.value) {
        Ok(outcome) => {
            if outcome.has_lost_address {
                return (Answer::Later(BrokerRequest::Restore(function.config.command_state())), None);
            }
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

/// The part of a permitted write that is for the hardware. The virtual part is already done.
fn job(outcome: &WriteOutcome) -> Option<BrokerRequest> {
    let mut writes = outcome.hardware().copied();
    Some(BrokerRequest::Write { now: writes.next()?, then: writes.next(), failed: false })
}
