//! A read of configuration space, which most requests are: everything on its way is here, and nothing else.

use pciif::{ErrorCode, ReadRequest};

use super::all_ones::AllOnesDetector;
use super::{AssignedFunction, Counters};
use crate::config::BadAccess;
use crate::platform::{ConfigSpace, Width};
use crate::topology::{DeviceId, Topology};

/// Result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// This is the answer, and nothing else is to be done.
    Done(ErrorCode, u32),
    /// There is no such function: [`execute`](super::execute()) has the answer.
    Absent,
    /// The function was found not to answer just now: this is what it reads as.
    Lost(DeviceId, u32),
}

/// Executes a read. `find` is that of [`execute`](super::execute()).
#[inline(always)]
pub(crate) fn read<'a, H: ConfigSpace + 'a>(
    request: &ReadRequest,
    topology: &Topology,
    find: impl FnOnce(DeviceId) -> Option<(&'a mut AssignedFunction, &'a H)>,
    counters: &mut Counters,
) -> ReadOutcome {
    let Some(id) = topology.lookup(request.domain, request.bus, request.devfn) else { return ReadOutcome::Absent };
    let Some((function, hw)) = find(id) else { return ReadOutcome::Absent };
    if !function.presence.is_here() {
        return away(function, request.size, counters);
    }
    if request.size == 4 && request.offset != 0 {
        let hw = &AllOnesDetector::new(hw);
        if let Some(value) = function.config.read_dword(hw, request.offset)
            && !hw.is_absent()
        {
            counters.reads.bump();
            return ReadOutcome::Done(ErrorCode::Success, value);
        }
    }
    read_any(&{ *request }, id, function, hw, counters)
}

/// A function that does not answer reads as ones, as it would without us.
#[cold]
#[inline(never)]
fn away(function: &AssignedFunction, size: i32, counters: &mut Counters) -> ReadOutcome {
    if function.presence.is_absent() {
        return ReadOutcome::Absent;
    }
    counters.reads.bump();
    ReadOutcome::Done(ErrorCode::Success, ones(size))
}

fn ones(size: i32) -> u32 {
    u32::try_from(size).ok().and_then(Width::from_bytes).map_or(u32::MAX, Width::bits)
}

/// The long way of all reads that the short one of most is not for.
#[inline(never)]
fn read_any(
    request: &ReadRequest,
    id: DeviceId,
    function: &mut AssignedFunction,
    hw: &impl ConfigSpace,
    counters: &mut Counters,
) -> ReadOutcome {
    let hw = &AllOnesDetector::new(hw);
    // The ids are answered from our own copy, but reading them is how drivers find out whether a function is still there.
    if (0..4).contains(&request.offset) {
        hw.read_config(0, Width::Dword);
    }
    let value = function.config.read(hw, request.offset, request.size);
    if hw.is_absent() {
        counters.reads.bump();
        return ReadOutcome::Lost(id, ones(request.size));
    }
    match value {
        Ok(value) => {
            counters.reads.bump();
            ReadOutcome::Done(ErrorCode::Success, value)
        }
        Err(error) => {
            counters.bad_accesses.bump();
            // Behind the end there is nothing, which reads as ones; a read that cannot exist reads nothing.
            let value = if error == BadAccess::PastEnd { u32::MAX } else { 0 };
            ReadOutcome::Done(ErrorCode::InvalidOffset, value)
        }
    }
}
