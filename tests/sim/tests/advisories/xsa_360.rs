//! XSA-360 (CVE-2021-3308): vectors were not freed on a way that a guest could take again and again, until the host had none left.
//!
//! Ours: each way that a guest can leave its vectors behind unmaps them: off by the wrong command, another set over the first, a driver that is unloaded without turning them off, a broker that
//! died in the middle. The simulated guest has room for as many as it is given in a few rounds only.

use pciif::Command;
use sim::broker::Fault;

use super::{ATTACKER, V, ask, assert_served, command, enable_msi, vectors, world};

#[test]
fn no_way_of_leaving_vectors_behind_leaks_one() {
    let mut world = world();
    world.xen.limit_pirqs(40);
    for round in 0..300 {
        match round % 6 {
            0 => assert_eq!(world.ask_msix(ATTACKER, V, &[0, 1, 2, 3, 4, 5, 6, 7]).1.len(), 8, "round {round}"),
            1 => assert_eq!(world.ask_msix(ATTACKER, V, &[8, 9, 10, 11]).1.len(), 4, "over the first, round {round}"),
            2 => {
                assert_eq!(command(&mut world, Command::DisableMsi).err, 0, "the wrong one");
                assert_eq!(ask(&mut world, &enable_msi(8)).err, 0, "round {round}");
            }
            3 => {
                world.guest(ATTACKER).unload();
                world.settle();
                assert_eq!(vectors(&world), 0, "round {round}");
                world.guest(ATTACKER).set_state(1);
                world.settle_deadlines(3);
                assert_eq!(world.states(ATTACKER).1, 4);
            }
            4 => {
                world.broker.faults.push_back(if round % 4 == 0 { Fault::DIE_AFTER } else { Fault::DIE_BEFORE });
                let (answer, _) = world.ask_msix(ATTACKER, V, &[1, 2, 3]);
                assert!(answer.is_none_or(|answer| answer.err != 0), "round {round}: {answer:?}");
                world.broker.start();
                world.run_out_of_time();
                world.settle_deadlines(3);
            }
            _ => assert_eq!(command(&mut world, Command::DisableMsix).err, 0),
        }
        assert!(vectors(&world) <= 8, "round {round}");
    }
    world.guest(ATTACKER).unload();
    world.settle();
    assert_eq!(vectors(&world), 0);
    assert_served(&mut world);
}
