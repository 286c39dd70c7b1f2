//! Time-outs for backend and guest. Each side's time runs from the moment when it was asked, and only while it is to
//! act: the command's own work and the other side's delay do not count.

use std::time::Duration;

use crate::error::{DomainName, Error, StateName};
use crate::host::{Host, Look};
use crate::records::directories::Ends;
use xenstore::XenbusState;

/// Time-out of the stub for checking a device or releasing one. It does so in milliseconds; this is what libxl grants a
/// backend on a machine that is busy with other things.
pub(crate) const STUB_PATIENCE: Duration = Duration::from_secs(10);

/// Time added for each further device, for either side: on a busy machine a guest's drivers take long to probe one.
const FOR_EACH_DEVICE: Duration = Duration::from_millis(500);

/// As [`STUB_PATIENCE`] for several devices at once.
pub(crate) fn with_stub(devices: usize) -> Duration {
    STUB_PATIENCE + for_further(devices)
}

fn for_further(devices: usize) -> Duration {
    FOR_EACH_DEVICE.saturating_mul(u32::try_from(devices.saturating_sub(1)).unwrap_or(u32::MAX))
}

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Stub,
    Guest,
}

impl Side {
    /// Whose turn it is to change something.
    pub(crate) fn of(Ends { back, front }: Ends) -> Self {
        let stubs_turn = match (back, front) {
            (XenbusState::Initialised, XenbusState::Initialised)
            | (XenbusState::Reconfiguring | XenbusState::Connected, XenbusState::Reconfiguring)
            | (XenbusState::Reconfigured, XenbusState::Connected) => true,
            (back, _) => back < XenbusState::Initialised,
        };
        if stubs_turn { Self::Stub } else { Self::Guest }
    }
}

/// Time-outs of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    guest: Duration,
    stub: Duration,
}

impl Patience {
    /// Where the guest may take `timeout` for one device, and there are so many. Who gives a guest longer than a stub needs knows this
    /// host to be slow, so the stub gets as long.
    pub(crate) fn new(timeout: Duration, devices: usize) -> Self {
        Self { guest: timeout + for_further(devices), stub: timeout.max(STUB_PATIENCE) + for_further(devices) }
    }

    const fn with(self, side: Side) -> Duration {
        match side {
            Side::Stub => self.stub,
            Side::Guest => self.guest,
        }
    }
}

impl From<Duration> for Patience {
    fn from(timeout: Duration) -> Self {
        Self::new(timeout, 1)
    }
}

/// Counts the time of each side.
struct Meter {
    patience: Patience,
    /// Whose turn it was at the last look, and when that was.
    last: (Side, Duration),
    stub: Duration,
    guest: Duration,
}

impl Meter {
    const fn new(patience: Patience, side: Side, now: Duration) -> Self {
        Self { patience, last: (side, now), stub: Duration::ZERO, guest: Duration::ZERO }
    }

    /// What is left to the side whose turn it is now.
    fn left(&mut self, side: Side, now: Duration) -> Duration {
        let (before, then) = self.last;
        let passed = now.saturating_sub(then);
        match before {
            Side::Stub => self.stub += passed,
            Side::Guest => self.guest += passed,
        }
        self.last = (side, now);
        self.patience.with(side).saturating_sub(self.spent())
    }

    /// What the side has had whose turn it is.
    const fn spent(&self) -> Duration {
        match self.last.0 {
            Side::Stub => self.stub,
            Side::Guest => self.guest,
        }
    }
}

/// Result of a look at both ends.
pub(crate) enum Progress<T> {
    /// They are where they should come.
    Done(T),
    /// It is up to this one.
    Of(Side),
}

/// Waits for both ends of a guest's connection, while other commands may do what they want with other guests. The inner error tells of
/// the side whose time was up, [`Error::GuestSilent`] or [`Error::StubSilent`].
pub(crate) fn wait_by_turns<T>(
    host: &Host,
    (stub, guest): (&DomainName, &DomainName),
    watched: &[String],
    patience: Patience,
    mut look: impl FnMut() -> Result<Progress<T>, Error>,
) -> Result<Result<T, Error>, Error> {
    let mut meter: Option<Meter> = None;
    let found = host.wait_for_guest_while(guest.id, watched, || {
        let side = match look()? {
            Progress::Done(found) => return Ok(Look::Found(found)),
            Progress::Of(side) => side,
        };
        let now = host.elapsed();
        let meter = meter.get_or_insert_with(|| Meter::new(patience, side, now));
        Ok(Look::Wait(meter.left(side, now)))
    })?;
    if let Some(found) = found {
        return Ok(Ok(found));
    }
    let ends = Ends::read(host, stub.id, guest.id)?;
    let (side, after) = meter.map_or((Side::of(ends), Duration::ZERO), |meter| (meter.last.0, meter.spent()));
    Ok(Err(silent(side, (stub, guest), ends, after)))
}

/// The error for a side that did not answer.
fn silent(side: Side, (stub, guest): (&DomainName, &DomainName), ends: Ends, after: Duration) -> Error {
    match side {
        Side::Stub => {
            let waiting_for = format!("serving the devices of {guest}");
            Error::StubSilent { stub: stub.clone(), after, waiting_for }
        }
        Side::Guest => Error::GuestSilent {
            guest: guest.clone(),
            after,
            backend: StateName(ends.back),
            frontend: StateName(ends.front),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn each_side_pays_for_its_own_turns() {
        let mut meter = Meter::new(Patience::new(seconds(5), 1), Side::Stub, seconds(100));
        assert_eq!(meter.left(Side::Stub, seconds(100)), seconds(10));
        assert_eq!(meter.left(Side::Guest, seconds(109)), seconds(5));
        assert_eq!(meter.left(Side::Stub, seconds(112)), seconds(1));
        assert_eq!(meter.left(Side::Guest, seconds(113)), seconds(2));
        assert_eq!(meter.left(Side::Guest, seconds(116)), Duration::ZERO);
        assert_eq!(meter.spent(), seconds(6));
    }

    #[test]
    fn many_devices_take_longer() {
        assert_eq!(Patience::new(seconds(3), 1), Patience { guest: seconds(3), stub: seconds(10) });
        assert_eq!(Patience::new(seconds(60), 1), Patience { guest: seconds(60), stub: seconds(60) });
        assert_eq!(Patience::new(seconds(3), 19), Patience { guest: seconds(12), stub: seconds(19) });
        assert_eq!(with_stub(0), with_stub(1));
    }
}
