//! Stubs whose image hangs.

use super::*;
use pcidom_abi::paths;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use xen_types::DomId;

const LOOK: Duration = Duration::from_millis(400);

/// A bench whose stubs note how often they were interrupted.
fn bench() -> (Bench, Rc<Cell<u32>>) {
    let bench = Bench::new();
    let count = Rc::new(Cell::new(0));
    let interrupted = count.clone();
    bench.machine.with(|world| {
        world.on_nmi = Some(Box::new(move |_, stub| {
            assert_eq!(stub, STUB);
            interrupted.set(interrupted.get() + 1);
        }));
    });
    (bench, count)
}

/// Lets time pass, of which the stub runs for a part, and the broker look.
fn pass(bench: &Bench, broker: &mut Broker<'_, FakeRings>, worked: Duration) {
    bench.machine.with(|world| *world.memory.ran.entry(STUB).or_default() += worked);
    bench.pass(LOOK);
    broker.turn().unwrap();
}

fn questions(bench: &Bench, stub: DomId) -> Vec<String> {
    bench.machine.with(|world| world.children(&paths::query_node(stub)))
}

#[test]
fn one_that_is_busy_and_does_not_answer_is_interrupted_and_then_left_alone_for_a_while() {
    let (bench, interrupted) = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.watch_for_hangs();
    let before = bench.machine.dump();
    let mut looks = 0;
    while interrupted.get() == 0 {
        pass(&bench, &mut broker, LOOK);
        looks += 1;
        assert!(broker.idle().unwrap() <= LOOK);
    }
    assert_eq!(looks, 4, "the first look only begins");
    bench.machine.dump().assert_same(&before, "the question was taken back");
    let said = bench.machine.with(|world| world.notes.join("\n"));
    assert!(said.contains("domain 3 hangs and is interrupted"), "{said}");
    for _ in 0..12 {
        pass(&bench, &mut broker, LOOK);
    }
    assert_eq!(interrupted.get(), 1, "it needs a while to start");
    for _ in 0..5 {
        pass(&bench, &mut broker, LOOK);
    }
    assert_eq!(interrupted.get(), 2, "it hangs still");
    bench.machine.assert_no_violations();
}

#[test]
fn one_that_sleeps_is_asked_nothing_and_one_that_gets_no_processor_is_waited_for() {
    let (bench, interrupted) = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.watch_for_hangs();
    for _ in 0..20 {
        pass(&bench, &mut broker, LOOK / 5);
        assert!(questions(&bench, STUB).is_empty() && questions(&bench, OTHER).is_empty());
    }
    pass(&bench, &mut broker, LOOK);
    assert_eq!(questions(&bench, STUB).len(), 1);
    for _ in 0..100 {
        pass(&bench, &mut broker, Duration::ZERO); // paused, or others have the processor
    }
    assert_eq!(interrupted.get(), 0);
    // It comes to answer.
    let [question] = &questions(&bench, STUB)[..] else { panic!("not one question") };
    bench.machine.with(|world| world.write(&paths::statistics_node(STUB), &format!("{question} 1 2 3")));
    pass(&bench, &mut broker, LOOK);
    assert!(questions(&bench, STUB).is_empty());
    bench.machine.with(|world| assert!(!world.has_node(&paths::statistics_node(STUB))));
    assert_eq!(interrupted.get(), 0);
}

#[test]
fn one_whose_question_a_command_has_taken_away_is_asked_again() {
    let (bench, interrupted) = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.watch_for_hangs();
    for _ in 0..30 {
        pass(&bench, &mut broker, LOOK);
        bench.machine.with(|world| world.remove(&paths::query_node(STUB)));
    }
    assert_eq!(interrupted.get(), 0, "nothing is known of it");
}

#[test]
fn one_that_crashes_again_and_again_is_asked_anew_each_time() {
    let (bench, interrupted) = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.watch_for_hangs();
    for count in 1..30 {
        pass(&bench, &mut broker, LOOK);
        let restarts = paths::of_stub(STUB, paths::relative::RESTARTS);
        bench.machine.with(|world| world.write(&restarts, &format!("{count} 20000000 a bug")));
    }
    assert_eq!(interrupted.get(), 0, "a third crash within a minute could end the domain");
    for _ in 0..4 {
        pass(&bench, &mut broker, LOOK);
    }
    assert_eq!(interrupted.get(), 1, "now it hangs");
}

#[test]
fn one_that_is_gone_is_forgotten() {
    let (bench, interrupted) = bench();
    let process = bench.process();
    let mut broker = bench.start(&process);
    broker.watch_for_hangs();
    pass(&bench, &mut broker, LOOK);
    pass(&bench, &mut broker, LOOK);
    bench.machine.with(|world| world.destroy(STUB));
    process.changed(path::RELEASE_DOMAIN);
    for _ in 0..5 {
        pass(&bench, &mut broker, LOOK);
    }
    assert_eq!(interrupted.get(), 0);
    bench.machine.assert_no_violations();
}
