//! The corpus of each target, and variations of it that are the same each time. `make fuzz` looks further.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use fuzz::{TARGETS, Target, mutate::vary};
use sim::random::Random;

/// The seeds of a target by their names; the empty input is always one.
fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut seeds: Vec<(String, Vec<u8>)> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    seeds.push(("nothing".to_owned(), Vec::new()));
    seeds
}

/// Runs the target, and says what to do about a failure.
fn run(target: &Target, name: &str, input: &[u8]) {
    if let Err(cause) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        eprintln!("target {}, {name}: keep this as a file of its corpus: b\"{}\"", target.name, input.escape_ascii());
        resume_unwind(cause);
    }
}

fn replay(target: &Target) {
    let seeds = seeds(target);
    assert!(seeds.len() > 1, "{} has no corpus", target.name);
    for (name, input) in &seeds {
        run(target, name, input);
    }
    let inputs: Vec<Vec<u8>> = seeds.into_iter().map(|(_, input)| input).collect();
    let mut random = Random::new(1);
    for number in 0..target.variations {
        run(target, &format!("variation {number}"), &vary(&inputs, &mut random));
    }
}

/// A test for each target, so that they run beside each other.
macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { replay(fuzz::target(stringify!($name)).expect("a target")); })*

        #[test]
        fn every_target_has_a_test_and_no_folder_is_without_one() {
            let tests = [$(stringify!($name)),*];
            assert!(TARGETS.iter().map(|target| target.name).eq(tests));
            for folder in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap() {
                let name = folder.unwrap().file_name();
                assert!(tests.iter().any(|test| name == **test), "{}", name.display());
            }
        }
    };
}

targets! {
    requests frontend_nodes backend_nodes store_answers broker_ring broker_list capabilities config_writes xenstore_bytes store_values contract policy
    permitted_writes resource_file page_tables device_words xl_cfg libxl_json plan_file settings quirks host_files
}
