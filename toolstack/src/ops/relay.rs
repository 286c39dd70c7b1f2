//! Tells a guest of an error of its device, step by step as Linux's recovery does with its own drivers (`Documentation/PCI/pci-error-recovery.rst`): an
//! error was detected; the device was reset, where the guest's driver wants that; it may go on. A driver that cannot go on, and a guest that does not
//! answer, have their device isolated.
//!
//! `mmio_enabled` is never told: xen-pcifront of Linux 6.1 and 6.12 calls the driver's handler for it without looking whether there is one, and few drivers have it.
//! For the same reason `slot_reset` is told only to a driver that has asked for a reset, and `resume` only to one that has recovered.

use std::time::Duration;

use pcidom_abi::{AerValue, DeviceNode, paths, pool};
use pciif::{ChannelState, Command, ErrorResult};
use xen_types::{DomId, Sbdf};
use xenstore::{Permission, XenbusState, path};

use crate::device::quiesce::await_rest;
use crate::device::resources::DeviceResources;
use crate::error::{Error, HostError};
use crate::host::Host;
use crate::ops::pool::STUB_PATIENCE;
use crate::records::device_table::{Phase, Record};
use crate::records::directories::Ends;
use crate::store::Change;
use crate::sysfs::ConfigWalk as _;

/// Time of a guest to answer, from when it was told.
pub(crate) const GUEST_PATIENCE: Duration = Duration::from_secs(2);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Relayed {
    /// The guest's driver has set the device up anew.
    Recovered,
    /// It handles no errors, or wants to go on by itself.
    Unhandled,
    /// Nobody could tell it: the reason.
    Untold(&'static str),
    /// It cannot go on, and the device is isolated: the reason.
    Isolated(&'static str),
    /// A command has taken the device from the guest meanwhile.
    Taken,
}

/// A guest's word about one notification.
enum Answer {
    /// The driver's, if it is one.
    Is(Option<ErrorResult>),
    /// None within [`GUEST_PATIENCE`].
    Silence,
    /// It was not told: its backend cannot, or the one before was not answered.
    Untold,
    /// The device is not its own any more.
    Taken,
}

/// A device whose guest is told.
struct Relay<'a> {
    host: &'a Host,
    device: Sbdf,
    stub: DomId,
    guest: DomId,
}

/// Tells the guest of a device that was reset and has its registers again.
pub(crate) fn relay(host: &Host, record: &Record, guest: DomId) -> Result<Relayed, Error> {
    // It is connected while its devices change, too.
    if !matches!(Ends::read(host, record.stub, guest)?.front, XenbusState::Connected | XenbusState::Reconfiguring) {
        return Ok(Relayed::Untold("it does not use its devices"));
    }
    let relay = Relay { host, device: record.device, stub: record.stub, guest };
    let told = relay.tell_all();
    // A stub that has not heard yet that the device is isolated hears it later. Then the node goes when the device is given back.
    if host.read(&relay.node())?.is_some_and(|said| said != AerValue::ISOLATE.to_string()) {
        host.commit(&[Change::remove(relay.node())])?;
    }
    told
}

impl Relay<'_> {
    fn tell_all(&self) -> Result<Relayed, Error> {
        const NOT_SET_UP: &str = "its guest's driver could not set it up after the reset";
        let result = match self.tell(Command::AerDetected, ChannelState::Frozen)? {
            Answer::Is(Some(ErrorResult::NeedReset)) => match self.tell(Command::AerSlotReset, ChannelState::Normal)? {
                Answer::Is(Some(ErrorResult::Recovered)) => ErrorResult::Recovered,
                Answer::Is(_) => return self.isolate(NOT_SET_UP),
                other => return self.end(&other),
            },
            Answer::Is(Some(ErrorResult::Disconnect)) => return self.isolate("its guest's driver gives it up"),
            Answer::Is(Some(result)) => result,
            Answer::Is(None) => return self.isolate("its guest's answer to an error is none"),
            other => return self.end(&other),
        };
        if result != ErrorResult::Recovered {
            return Ok(Relayed::Unhandled);
        }
        // Its answer has no meaning, and Linux's may take as long as the driver's work.
        match self.tell(Command::AerResume, ChannelState::Normal)? {
            Answer::Taken => Ok(Relayed::Taken),
            _ => Ok(Relayed::Recovered),
        }
    }

    fn end(&self, answer: &Answer) -> Result<Relayed, Error> {
        match answer {
            Answer::Silence => self.isolate("its guest does not answer to an error within 2 s"),
            Answer::Taken => Ok(Relayed::Taken),
            Answer::Untold | Answer::Is(_) => Ok(Relayed::Untold("its backend does not tell it")),
        }
    }

    fn node(&self) -> String {
        path::child(&paths::pool_dir(self.stub, self.device), pool::AER)
    }

    /// Changes something as long as the guest has the device. False where it has not any more.
    fn commit_while_attached(&self, changes: &[Change]) -> Result<bool, Error> {
        let mut all = vec![
            Change::expect(DeviceNode::Stub.of(self.device), self.stub),
            Change::expect(DeviceNode::Frontend.of(self.device), self.guest),
            Change::expect(DeviceNode::Phase.of(self.device), Phase::Attached),
        ];
        all.extend_from_slice(changes);
        self.host.commit_if(&all)
    }

    /// The node with a value that the stub answers.
    fn question(&self, value: AerValue) -> [Change; 2] {
        Change::node(self.node(), value, &[Permission::none(DomId::DOM0), Permission::both(self.stub)])
    }

    fn tell(&self, command: Command, state: ChannelState) -> Result<Answer, Error> {
        let question = AerValue::notification(command, state);
        if !self.commit_while_attached(&self.question(question))? {
            return Ok(Answer::Taken);
        }
        let said = || {
            let text = self.host.read(&self.node())?.unwrap_or_default();
            Ok::<_, Error>(AerValue::parse(text.as_bytes()).unwrap_or(question))
        };
        let nodes = [self.node()];
        // The guest's page may have what another of its devices is about.
        let told = self.host.wait_for(&nodes, STUB_PATIENCE, || Ok(Some(said()?).filter(|said| *said != question)))?;
        if told.is_none() {
            return Ok(Answer::Untold);
        }
        let answer = self.host.wait_for(&nodes, GUEST_PATIENCE, || Ok(said()?.as_answer()))?;
        Ok(answer.map_or(Answer::Silence, Answer::Is))
    }

    /// No bus mastering, no interrupts, and to the guest it is gone. The broker does nothing for it any more, for want of a list. Decoders stay on: the
    /// guest has its registers mapped, and an access that nobody answers can end the host (XSA-120).
    fn isolate(&self, why: &'static str) -> Result<Relayed, Error> {
        let mut changes = vec![
            Change::remove(DeviceNode::PermittedWrites.of(self.device)),
            Change::write(DeviceNode::Isolated.of(self.device), why),
        ];
        changes.extend(self.question(AerValue::ISOLATE));
        if !self.commit_while_attached(&changes)? {
            return Ok(Relayed::Taken);
        }
        self.quiesce()?;
        let isolate = AerValue::ISOLATE.to_string();
        let heard = || Ok::<_, Error>((self.host.read(&self.node())?.as_ref() != Some(&isolate)).then_some(()));
        self.host.wait_for(&[self.node()], STUB_PATIENCE, heard)?;
        // The broker may have been at something that it began before.
        await_rest(self.host, self.device)?;
        // A command may have taken the device meanwhile, and given it to another guest.
        if self.commit_while_attached(&[Change::expect(DeviceNode::Isolated.of(self.device), why)])? {
            self.quiesce()?;
        }
        Ok(Relayed::Isolated(why))
    }

    fn quiesce(&self) -> Result<(), HostError> {
        let Some(config) = self.host.sysfs.find_config(self.device)? else { return Ok(()) };
        config.walk_and_quiesce(DeviceResources::gather(self.host, self.device)?.decode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{NVME, STUB, WEB, device};
    use crate::tests::attached;

    #[test]
    fn a_stub_that_does_not_answer_learns_later_that_a_device_is_isolated() {
        let machine = attached();
        let relay = Relay { host: &machine.host, device: device(NVME), stub: STUB, guest: WEB };
        // The broker is at something that it began before.
        machine.with(|world| world.write(&DeviceNode::Vectors.of(device(NVME)), "busy"));
        let before = machine.with(|world| world.clock);
        assert_eq!(relay.isolate("a reason").unwrap(), Relayed::Isolated("a reason"));
        let took = machine.with(|world| world.clock) - before;
        assert!(took > STUB_PATIENCE + Duration::from_secs(1), "neither of both was waited for: {took:?}");
        assert_eq!(machine.host.read(&relay.node()).unwrap(), Some(AerValue::ISOLATE.to_string()));
        assert!(machine.config(NVME).is_quiesced());
    }

    #[test]
    fn a_device_that_another_guest_has_meanwhile_is_left_alone() {
        let machine = attached();
        let relay = Relay { host: &machine.host, device: device(NVME), stub: STUB, guest: WEB };
        let mut config = machine.config(NVME);
        config.set_word(4, 0x0006);
        // Taken back, and given to a guest that uses it by now, while a stub that is silent was waited for.
        let tree = machine.tree.clone();
        let isolated = DeviceNode::Isolated.of(device(NVME));
        let others = move |world: &mut fakes::World| {
            world.value(&isolated).is_some() && {
                world.write(&DeviceNode::Frontend.of(device(NVME)), "6");
                world.remove(&isolated);
                tree.write(format!("bus/pci/devices/{NVME}/config"), &config.bytes);
                true
            }
        };
        machine.with(|world| world.incidents.push(Box::new(others)));
        assert_eq!(relay.isolate("a reason").unwrap(), Relayed::Isolated("a reason"));
        assert_eq!(machine.config(NVME).word(4), 0x0006);
    }
}
