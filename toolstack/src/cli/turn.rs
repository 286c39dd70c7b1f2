//! The turn of a command that changes something.

use crate::error::Error;
use crate::host::Host;
use crate::ops::recover::{Reclaimed, reclaim};
use crate::ops::unfinished_guests;
use crate::ops::versions;
use crate::records::running_commands;

/// A command that changes something, about a guest perhaps: in its turn, and after what others left was put right.
pub(super) fn changing(
    host: &Host,
    guest: Option<&str>,
    act: impl FnOnce(&[Reclaimed]) -> Result<(), Error>,
) -> Result<(), Error> {
    host.load_settings()?;
    in_turn(host, guest, act)
}

/// The same with the settings as they are.
pub(super) fn in_turn(
    host: &Host,
    guest: Option<&str>,
    act: impl FnOnce(&[Reclaimed]) -> Result<(), Error>,
) -> Result<(), Error> {
    host.lock_commands(guest)?;
    versions::check_broker(host)?;
    running_commands::run(host, || {
        unfinished_guests::settle(host)?;
        let reclaimed = reclaim(host)?;
        running_commands::forget_dead(host)?;
        act(&reclaimed)
    })
}
