//! The commands that are at work, each noted in `/tool/pcidom/command/PID` with the time at which it began. One whose process is gone has
//! left something: the broker sees that, and has it put right at once instead of when the next command comes.

use pcidom_abi::paths;
use pcidom_broker::commands::noted;
use xen_types::DomId;
use xenstore::Permission;

use crate::error::Error;
use crate::host::Host;
use crate::host::process::ProcessId;
use crate::store::Change;

/// Does the work of a command that changes something: noted, and stopping at a safe point when a signal asks it to.
pub(crate) fn run(host: &Host, act: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let own = host.process.own();
    let mut begin = Change::directory(paths::TOOL, &[Permission::none(DomId::DOM0)]).to_vec();
    begin.push(Change::write(node(own), own.started));
    host.process.listen();
    host.commit(&begin)?;
    let done = act();
    let forgotten = host.commit(&forget(&[own]));
    match (done, host.process.signal()) {
        (Ok(()), Some(signal)) => host.note(&format!("{signal} came too late: everything is done")),
        // Ctrl-C goes to xl too.
        (Err(Error::Xl { .. }), Some(signal)) => return Err(Error::Interrupted(signal)),
        (done, _) => done?,
    }
    forgotten
}

/// Forgets the commands that are gone, when what they left was put right.
pub(crate) fn forget_dead(host: &Host) -> Result<(), Error> {
    let dead: Vec<ProcessId> = noted(host)?.into_iter().filter(|owner| !host.process.runs(*owner)).collect();
    if dead.is_empty() { Ok(()) } else { host.commit(&forget(&dead)) }
}

fn forget(owners: &[ProcessId]) -> Vec<Change> {
    let mut changes: Vec<Change> = owners.iter().map(|owner| Change::remove(node(*owner))).collect();
    changes.push(Change::remove_if_empty(paths::COMMANDS));
    changes.push(Change::remove_if_empty(paths::TOOL));
    changes
}

fn node(owner: ProcessId) -> String {
    paths::command_node(owner.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Machine;
    use crate::xen::StopSignal;
    use fakes::FakeProcesses;
    use pcidom_broker::commands::Commands;

    fn noted(machine: &Machine) -> Vec<String> {
        machine.with(|world| world.children(paths::COMMANDS))
    }

    #[test]
    fn a_command_is_noted_while_it_works_and_not_after() {
        let machine = Machine::new();
        machine.with(|world| world.process = 12);
        let outcome = run(&machine.host, || {
            assert_eq!(noted(&machine), ["12"]);
            assert_eq!(Commands::look(&machine.host, &FakeProcesses(machine.world.clone())).unwrap(), Commands::AtWork);
            Err(Error::NoIommu)
        });
        assert!(matches!(outcome, Err(Error::NoIommu)));
        assert_eq!(Commands::look(&machine.host, &FakeProcesses(machine.world.clone())).unwrap(), Commands::None);
        machine.with(|world| assert_eq!(world.value("/tool/pcidom"), None));
    }

    #[test]
    fn one_that_was_killed_stays_noted_until_it_is_put_right() {
        let machine = Machine::new();
        machine.with(|world| {
            world.process = 12;
            world.write(&paths::command_node(12), "1");
            world.write(&paths::command_node(11), "1");
            world.write(&paths::command_node(13), "nonsense");
        });
        assert_eq!(Commands::look(&machine.host, &FakeProcesses(machine.world.clone())).unwrap(), Commands::Died);
        forget_dead(&machine.host).unwrap();
        assert_eq!(noted(&machine), ["12"]);
        assert_eq!(Commands::look(&machine.host, &FakeProcesses(machine.world.clone())).unwrap(), Commands::AtWork);
    }

    #[test]
    fn a_signal_that_came_too_late_is_told() {
        let machine = Machine::new();
        let signalled = || {
            machine.with(|world| world.signal = Some(StopSignal::Interrupt as u8));
            Ok(())
        };
        run(&machine.host, signalled).unwrap();
        machine.with(|world| assert_eq!(world.notes, ["SIGINT came too late: everything is done"]));
    }
}
