//! Requests to the broker, and how its answers become replies to guests.

use pcidom_abi::BrokerCommand;
use pciif::{ErrorCode, Reply, Request};
use xen_types::{Errno, Sbdf};

use super::{AssignedFunction, Counters, LogOnce};
use crate::config::{HardwareWrite, Register};

/// The pirqs of an answer, as many as the job has entries.
pub(crate) type Vectors = [u16; pciif::layout::MAX_VECTORS];

/// One thing to ask of the broker (`docs/broker.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokerRequest {
    /// Write a register, and then perhaps another.
    Write {
        /// This one.
        now: HardwareWrite,
        /// Then this one.
        then: Option<HardwareWrite>,
        /// One before could not be written.
        failed: bool,
    },
    /// Turn MSI on with so many vectors.
    EnableMsi(u32),
    /// Turn MSI-X on with so many entries of the page.
    EnableMsix(u32),
    /// Turn MSI and MSI-X off.
    Disable,
    /// Bus master off, vectors off.
    Quiesce,
    /// Write back what the function lost. What its guest has in Command.
    Restore(u32),
}

/// The broker's words. It is dom0's, but it may be of another version: nothing here is taken for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BrokerAnswer {
    pub(crate) err: i32,
    pub(crate) value: u32,
    pub(crate) info: u32,
    pub(crate) vectors: Vectors,
}

/// Verdict on a broker request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Done.
    Done,
    /// The broker said no, or tried and failed.
    Refused(Errno),
    /// No broker is there: nothing was asked.
    Away,
    /// It cannot be: nothing was asked.
    Impossible,
    /// It was asked and there is no answer that can be used: perhaps it is done, perhaps not.
    Unknown,
}

impl BrokerRequest {
    /// The request for the broker's page.
    pub(crate) fn request(&self, device: Sbdf) -> Request {
        let zero = Request {
            cmd: 0,
            domain: device.segment().into(),
            bus: device.bus().into(),
            devfn: device.devfn().into(),
            offset: 0,
            size: 0,
            value: 0,
            info: 0,
        };
        let (command, request) = match *self {
            Self::Write { now, .. } => {
                let (offset, size) = (now.offset.into(), now.width as i32);
                let (value, info) = (now.value, now.mask);
                (BrokerCommand::ConfWrite, Request { offset, size, value, info, ..zero })
            }
            Self::EnableMsi(1) => (BrokerCommand::EnableMsi, zero),
            Self::EnableMsi(info) => (BrokerCommand::EnableMultiMsi, Request { info, ..zero }),
            Self::EnableMsix(value) => (BrokerCommand::EnableMsix, Request { value, ..zero }),
            Self::Disable => (BrokerCommand::DisableMsi, zero),
            Self::Quiesce => (BrokerCommand::Quiesce, zero),
            Self::Restore(value) => (BrokerCommand::Restore, Request { value, ..zero }),
        };
        Request { cmd: command.raw(), ..request }
    }

    /// Whether it is a function level reset that a guest has asked for.
    pub(crate) const fn is_reset(&self) -> bool {
        matches!(self, Self::Write { now: HardwareWrite { register: Register::Reset, .. }, .. })
    }

    pub(crate) const fn is_enable(&self) -> bool {
        matches!(self, Self::EnableMsi(_) | Self::EnableMsix(_))
    }

    /// Verdict of an answer to it.
    pub(crate) fn verdict(&self, answer: Option<&BrokerAnswer>) -> Verdict {
        let Some(answer) = answer else { return Verdict::Unknown };
        if answer.err != ErrorCode::Success.raw() {
            return Verdict::Refused(Errno(i32::try_from(answer.info).unwrap_or(0)));
        }
        // A pirq that the guest could not name or would take for an error is of no use.
        let is_usable = match *self {
            Self::EnableMsi(vectors) => {
                answer.value != 0 && answer.value.saturating_add(vectors - 1) <= u16::MAX.into()
            }
            Self::EnableMsix(entries) => answer.vectors.iter().zip(0..entries).all(|(vector, _)| *vector != 0),
            Self::Write { .. } | Self::Disable | Self::Quiesce | Self::Restore(_) => true,
        };
        if is_usable { Verdict::Done } else { Verdict::Unknown }
    }

    /// The guest's answer. `vectors` and `value` are the broker's.
    pub(crate) fn reply<'a>(
        &self,
        verdict: Verdict,
        request: &Request,
        function: &mut AssignedFunction,
        answer: Option<&'a BrokerAnswer>,
        counters: &mut Counters,
    ) -> (Reply<'a>, Option<LogOnce>) {
        let is_done = verdict == Verdict::Done;
        match *self {
            Self::Write { now, failed, .. } => {
                let is_done = is_done && !failed;
                // Nothing of it is open: dropped, as if it had not been passed on.
                if now.register == Register::Open && matches!(verdict, Verdict::Refused(_)) {
                    counters.dropped_writes.bump();
                    counters.writes.bump();
                    function.denied_writes.note(request.offset);
                    return (Reply::success(request.value), Some(LogOnce::DroppedWrite));
                }
                if is_done {
                    counters.writes.bump();
                } else {
                    counters.no_broker.bump();
                    function.denied_writes.note(request.offset);
                }
                let notice = (!is_done).then_some(match verdict {
                    Verdict::Away | Verdict::Unknown => LogOnce::NoBroker(now.register),
                    _ => LogOnce::WriteRefused(now.register),
                });
                // A reset that did not happen yet happens before the function answers again.
                let err = if is_done || self.is_reset() { ErrorCode::Success } else { ErrorCode::AccessDenied };
                (Reply { err, value: request.value, vectors: &[] }, notice)
            }
            Self::EnableMsi(_) | Self::EnableMsix(_) if is_done => {
                counters.interrupts_enabled.bump();
                let entries = if let Self::EnableMsix(entries) = *self { entries as usize } else { 0 };
                let vectors = answer.and_then(|answer| answer.vectors.get(..entries)).unwrap_or(&[]);
                let value = if entries == 0 { answer.map_or(0, |answer| answer.value) } else { 0 };
                (Reply { err: ErrorCode::Success, value, vectors }, None)
            }
            Self::EnableMsi(_) | Self::EnableMsix(_) => {
                counters.interrupts_refused.bump();
                let notice = match verdict {
                    Verdict::Refused(Errno::ENOSPC) => LogOnce::OutOfInterrupts,
                    Verdict::Refused(errno) => LogOnce::InterruptsRefused(errno),
                    Verdict::Impossible => LogOnce::BadInterrupts,
                    _ => LogOnce::NoInterrupts,
                };
                (Reply::error(ErrorCode::OpFailed, 0), Some(notice))
            }
            // No frontend knows what to do if this fails: they all go on. We see to it that it happens later.
            Self::Restore(_) if is_done => {
                counters.writes.bump();
                (Reply::success(request.value), None)
            }
            Self::Restore(_) => {
                counters.no_broker.bump();
                function.denied_writes.note(request.offset);
                let reply = Reply { err: ErrorCode::AccessDenied, value: request.value, vectors: &[] };
                (reply, Some(LogOnce::NotRestored))
            }
            Self::Disable | Self::Quiesce => {
                counters.interrupts_disabled.bump();
                (Reply::success(function.config.interrupt_line().into()), None)
            }
        }
    }
}
