//! The guest side: does what dom0 says and sends back what came of it.
//!
//! Requests and answers travel as xenstore nodes below the guest's own `data/bench`, so they need no network, no disk and no
//! second console, and they work however little of the guest does:
//!
//! | node | value |
//! |---|---|
//! | `ready` | written once the guest listens |
//! | `request` | `NUMBER COMMAND`, written by dom0 |
//! | `output/N` | what the command printed, in pieces |
//! | `done` | `NUMBER CODE PIECES`, written after the pieces |

use std::{
    fs::File,
    os::unix::fs::FileExt,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{boot, disk, frontend::Frontend, hold, latency, process, store::Store, transfer, uevents};

/// Size of one piece of output: xenstored allows guests 2,048 bytes a node, with its permissions and its children's names.
const PIECE: usize = 1536;
/// Most pieces: a guest may own 1,000 nodes. Longer output is cut.
const PIECES: usize = 900;
/// Nothing that a case asks of a guest takes longer.
const LIMIT: Duration = Duration::from_mins(2);

/// Serves dom0 for ever.
pub(crate) fn run() -> Result<()> {
    let options = std::fs::read_to_string("/proc/cmdline")?;
    let modules =
        options.split_whitespace().find_map(|option| option.strip_prefix("bench.load=")).unwrap_or("xen-pcifront");
    for module in modules.split(',').filter(|module| !module.is_empty()) {
        boot::load_module(module)?;
    }
    // It booted quietly, to be quick; from now on everything it says may explain a failure.
    std::fs::write("/proc/sys/kernel/printk", "8")?;
    let mut store = Store::open()?;
    store.watch("data/bench/request")?;
    store.write("data/bench/ready", b"1")?;
    println!("agent: ready");
    let mut last = String::new();
    let mut frontend = None;
    loop {
        store.wait(Instant::now() + Duration::from_hours(1))?;
        let Some(request) = store.text("data/bench/request")? else { continue };
        let (number, command) = request.split_once(' ').context("a request without a number")?;
        if number == last {
            continue;
        }
        number.clone_into(&mut last);
        let (code, output) = execute(command, &mut store, &mut frontend);
        let (code, pieces) = match send(&mut store, &output) {
            Ok(pieces) => (code, pieces),
            Err(error) => (255, send(&mut store, format!("sending the output: {error:#}").as_bytes())?),
        };
        store.write("data/bench/done", format!("{number} {code} {pieces}").as_bytes())?;
    }
}

/// Writes the pieces of a command's output and returns how many there are.
fn send(store: &mut Store, output: &[u8]) -> Result<usize> {
    let pieces = output.chunks(PIECE).take(PIECES);
    let count = pieces.len();
    for (index, piece) in pieces.enumerate() {
        store.write(&format!("data/bench/output/{index}"), piece)?;
    }
    Ok(count)
}

/// Runs a command: one of our own, or a line for the shell.
fn execute(command: &str, store: &mut Store, frontend: &mut Option<Frontend>) -> (i32, Vec<u8>) {
    let words: Vec<&str> = command.split(' ').collect();
    let done = match words[..] {
        ["load", module, ref parameters @ ..] => {
            boot::load_module_with(module, &parameters.join(" ")).map(|()| Vec::new())
        }
        ["unload", module] => boot::unload_module(module).map(|()| Vec::new()),
        ["reload", module, times] => reload(module, times),
        ["read-often", path, offset, count] => read_often(path, offset, count),
        ["read-latency", path, offset, milliseconds] => latency::of_reads(path, offset, milliseconds),
        ["time-access", kind, path, offset, length, count] => latency::of_accesses(kind, path, offset, length, count),
        ["await-bound", driver] => uevents::await_bound(driver),
        ["disk-speed", path, mib, reads] => disk::speed(path, mib, reads),
        ["disk-write", path, seed, mib] => disk::write(path, seed, mib),
        ["disk-check", path, seed, mib] => disk::check(path, seed, mib),
        ["front-open", backend] => Frontend::open(store, backend).map(|new| {
            // The old one stays as it was: nobody tells the backend.
            std::mem::forget(frontend.replace(new));
            Vec::new()
        }),
        ["front-read", address, offset] => {
            frontend.as_ref().context("no frontend").and_then(|frontend| frontend.read(address, offset))
        }
        ["front-state", state] => Frontend::go(store, state),
        ["start-anew", rounds] => start_anew(store, rounds),
        ["hold", address, bytes] => hold::hold(address, bytes),
        ["peek"] => hold::peek(),
        ["let-go"] => hold::let_go(),
        ["transfer", address, seed, mib] => transfer::from_guest(address, seed, mib),
        _ => return shell(command).unwrap_or_else(|error| (255, format!("{error:#}").into_bytes())),
    };
    done.map_or_else(|error| (255, format!("{error:#}").into_bytes()), |output| (0, output))
}

fn shell(command: &str) -> Result<(i32, Vec<u8>)> {
    let outcome = process::run(Command::new("sh").args(["-c", command]), Instant::now() + LIMIT)?;
    Ok((outcome.code(), [outcome.stdout, outcome.stderr.into_bytes()].concat()))
}

/// `start-anew ROUNDS`: the frontend's state vanishes and is 1 again, without a word from the driver.
fn start_anew(store: &mut Store, rounds: &str) -> Result<Vec<u8>> {
    for _ in 0..rounds.parse()? {
        store.remove("device/pci/0/state")?;
        store.write("device/pci/0/state", b"1")?;
    }
    Ok(Vec::new())
}

/// `reload MODULE TIMES`: a driver that goes and comes again turns its device's interrupts off and on.
fn reload(module: &str, times: &str) -> Result<Vec<u8>> {
    for _ in 0..times.parse()? {
        boot::unload_module(module)?;
        boot::load_module(module)?;
    }
    Ok(Vec::new())
}

/// `read-often FILE OFFSET COUNT`: reads the dword at `OFFSET` of a configuration space file `COUNT` times, which must give
/// the same value each time. A shell would need a process for each.
fn read_often(path: &str, offset: &str, count: &str) -> Result<Vec<u8>> {
    let (offset, count): (u64, u32) = (offset.parse()?, count.parse()?);
    let file = File::open(path).with_context(|| format!("opening {path}"))?;
    let read = || -> Result<[u8; 4]> {
        let mut dword = [0; 4];
        file.read_exact_at(&mut dword, offset)?;
        Ok(dword)
    };
    let first = read()?;
    for _ in 1..count {
        let next = read()?;
        if next != first {
            bail!("read {first:02x?}, then {next:02x?}");
        }
    }
    Ok(first.to_vec())
}
