//! Errors of devices: what the toolstack has a guest told of them (docs/protocol.md §3.5, docs/xenstore.md), and that a device is gone.
//!
//! A page has room for one notification. What is under way stands in the device's `aer` node and in the page, so a restart in place goes on with it.

use pcidom_abi::AerValue;
use pciif::{AerNotification, ErrorResult};
use xen_types::Sbdf;

use super::Frontend;
use crate::handshake::Outcome;
use crate::platform::Platform;
use crate::pool::Relay;
use crate::requests::Presence;

impl<P: Platform> Frontend<P> {
    /// Goes on with what the `aer` node of one of its devices says: what the node is to say now, if anything else.
    pub(crate) fn relay(&mut self, platform: &P, address: Sbdf, value: Option<AerValue>) -> Option<AerValue> {
        let Self { state, exports, signal, .. } = self;
        let Outcome::Exported(virtual_address) = *state.devices.get(&address)? else { return None };
        let is_told_of_other =
            exports.devices().any(|device| device.relay == Relay::Notified && device.info().sbdf() != address);
        let device = exports.at(virtual_address)?;
        let before = core::mem::take(&mut device.relay);
        let value = value.filter(|value| *value == AerValue::NOTIFIED || value.as_notification().is_some());
        let Some(value) = value else {
            if before != Relay::Nothing {
                signal.raise();
            }
            return None;
        };
        if value == AerValue::ISOLATE {
            device.parts().0.presence = Presence::Gone;
            device.note(false); // for a restart in place
            signal.raise();
            return Some(AerValue::answer(ErrorResult::Disconnect as u32));
        }
        let link = &mut state.connected_mut()?.link;
        let next = match value.as_notification() {
            None if is_told_of_other => Some(AerValue::answer(0)), // lost in a restart
            None => link.page.error_result().map(AerValue::answer),
            Some(_) if is_told_of_other => None,
            Some((command, state)) => match link.page.notify_error(virtual_address, command, state) {
                AerNotification::Busy => None,
                AerNotification::Deaf => Some(AerValue::answer(ErrorResult::NoHandler as u32)),
                AerNotification::Sent => {
                    platform.notify(link.port());
                    Some(AerValue::NOTIFIED)
                }
            },
        };
        device.relay = match next {
            Some(AerValue::NOTIFIED) => Relay::Notified,
            None if value == AerValue::NOTIFIED => Relay::Notified,
            None => Relay::Waits,
            Some(_) => Relay::Nothing,
        };
        link.await_answer();
        if device.relay == Relay::Nothing {
            signal.raise(); // others may wait for the page
        }
        next
    }

    /// Tells the frontend of one device that is gone; of the next when it has answered, which nothing waits for. The device whose `aer` node is to be
    /// looked at, because the page is free.
    pub(crate) fn tell_losses(&mut self, platform: &P) -> Option<Sbdf> {
        let link = &mut self.state.connected_mut()?.link;
        link.tell_losses(platform, &mut self.exports);
        link.page.error_result()?;
        let waits = self.exports.devices().filter(|device| device.relay != Relay::Nothing);
        waits.max_by_key(|device| device.relay).map(|device| device.info().sbdf())
    }
}
