//! The commands around attach and detach: `create`, `status`, `doctor`.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::{
    dom0::{
        devices::{AHCI, E1000, EDU, NVME},
        fixture::Fixture,
        guests::{Domain, command_line, example_without},
    },
    process,
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    case("pcidom_create_makes_a_guest_that_has_its_devices", makes_a_guest),
    case("pcidom_status_tells_of_the_stub_and_its_guests", status),
    case("pcidom_doctor_finds_this_host_fit", doctor),
    case("pcidom_create_says_what_is_wrong", says_what_is_wrong),
    case("pcidom_create_killed_at_work_is_finished_or_undone", killed),
];

/// Each creates a guest and waits until it has booted, some after a stub.
const fn case(name: &'static str, run: fn(&mut Fixture) -> Result<()>) -> Case {
    Case::within(Duration::from_mins(4), name, run)
}

/// How long a created guest may take from its first instruction to its devices, in seconds: on a busy machine, long.
const BOOT: &str = "90";

/// The name of the guests that these cases create.
pub(super) const NAME: &str = "created";

/// An ordinary configuration as for xl, without what pcidom adds; later settings count.
pub(super) fn configuration(pci: &str, modules: &str) -> Result<String> {
    let kept = example_without(&["passthrough", "e820_host"])?;
    let config = format!(
        "{kept}name = '{NAME}' ; on_crash = \"destroy\"\n\
         extra = \"{}\"\n\
         pci = [ {pci} ]\n",
        command_line(modules)
    );
    let file = format!("/tmp/{NAME}.cfg");
    fs::write(&file, config)?;
    Ok(file)
}

/// A pool, and these devices free in it.
pub(super) fn prepare(fixture: &mut Fixture, devices: &[&str]) -> Result<Domain> {
    let stub = fixture.stub_with_pool()?;
    fixture.broker()?;
    for device in devices {
        fixture.free(device)?;
        expect(device, fixture.pool_state(&stub, device)?.as_deref(), "free")?;
    }
    Ok(stub)
}

fn makes_a_guest(fixture: &mut Fixture) -> Result<()> {
    prepare(fixture, &[EDU, NVME])?;
    let file = configuration("'00:06.0@5', # by its slot\n\t\"bdf=00:07.0,power_mgmt=1\",\n", "xen-pcifront")?;
    let outcome = fixture.try_pcidom(&["create", "--timeout", BOOT, &file, "memory=200"])?;
    ensure!(outcome.code() == 0, "it ended with {}: {}", outcome.code(), outcome.stderr);
    for word in ["passthrough = \"enabled\" was added", "e820_host = 1 was added"] {
        ensure!(outcome.stderr.contains(word), "it does not say {word:?}: {}", outcome.stderr);
    }
    let guest = fixture.find(NAME)?.context("there is no guest")?;
    fixture.domains.push(guest.clone());
    // It was waited for: the guest is connected now, not at some time.
    expect("the frontend", fixture.store.text(&guest.node("device/pci/0/state"))?.as_deref(), "4")?;
    expect("its memory", fixture.store.text(&guest.node("memory/target"))?.as_deref(), "204800")?;
    let deadline = fixture.deadline;
    fixture.store.wait_for(&guest.node("data/bench/ready"), deadline, |value| value.is_some())?;
    let found = fixture.addresses_in(&guest)?;
    ensure!(found.len() == 2, "the guest has {found:?}");
    ensure!(fixture.store.children("/tool/pcidom/create")?.is_empty(), "the guest is still noted as unfinished");
    // What xl sees is not changed by it: no device of dom0's xen-pciback.
    let listed = fixture.xl(&["pci-list", NAME])?;
    ensure!(!listed.contains("00:07.0"), "xl lists {listed}");
    Ok(())
}

fn status(fixture: &mut Fixture) -> Result<()> {
    if fixture.find(NAME)?.is_none() {
        makes_a_guest(fixture)?;
    }
    let stub = fixture.stub()?;
    let before = fixture.store.children(&stub.node("data/pcidom"))?;
    let text = fixture.pcidom(&["status"])?;
    let mut assigned = 0;
    for device in fixture.store.children(&stub.node("pool"))? {
        let state = fixture.store.text(&stub.node(&format!("pool/{device}/state")))?;
        assigned += u32::from(state.is_some_and(|state| state.starts_with("assigned")));
    }
    ensure!(assigned >= 2, "{assigned} devices are assigned");
    let (backend, assigned) = (format!("pcidom ({})", stub.id), format!("{assigned} assigned"));
    for word in [&backend, "running (process", &assigned, "frontend Connected", "heap"] {
        ensure!(text.contains(word), "no {word:?} in: {text}");
    }
    let json = fixture.pcidom(&["status", "--json", "--backend", &stub.id.to_string()])?;
    println!("agent: {}", json.split_whitespace().collect::<Vec<_>>().join(" "));
    let figure = |name: &str| -> Result<u64> {
        let line = json.lines().find(|line| line.contains(&format!("\"{name}\":"))).context(name.to_owned())?;
        Ok(line.trim().trim_end_matches(',').rsplit(' ').next().unwrap_or_default().parse()?)
    };
    // Three devices and at least one guest's page are mapped; the guest's port and the broker's; four watches and one a guest.
    ensure!(figure("mapped_pages")? >= 4 && figure("ports")? >= 2 && figure("watches")? >= 5, "{json}");
    ensure!(figure("heap_used")? > 0 && figure("heap_peak")? >= figure("heap_used")?, "{json}");
    ensure!(figure("uptime_ns")? > 0 && figure("reads")? > 0 && figure("transactions")? == 0, "{json}");
    let after = fixture.store.children(&stub.node("data/pcidom"))?;
    ensure!(before == after, "nodes are left: {after:?}");
    fixture.pcidom_fails(&["status", "--backend", "nowhere"], 1, "nowhere is not running")
}

fn doctor(fixture: &mut Fixture) -> Result<()> {
    if fixture.find(NAME)?.is_none() {
        makes_a_guest(fixture)?;
    }
    // Dom0's own.
    let stub = fixture.stub()?;
    if fixture.pool_state(&stub, AHCI)?.is_some() {
        fixture.pcidom(&["assignable", "remove", AHCI])?;
    }
    let outcome = fixture.try_pcidom(&["doctor"])?;
    println!("agent: pcidom doctor says:\n{}", outcome.text());
    ensure!(outcome.code() == 0, "it ended with {}", outcome.code());
    for word in [
        "xenstored: it is the C xenstored: of 128 watches 124",
        "dom0's kind: it is a PV domain",
        "ok       xsm",
        "ok       lockdown",
    ] {
        ensure!(outcome.text().contains(word), "no {word:?}");
    }
    let outcome = fixture.try_pcidom(&["doctor", NAME, E1000, AHCI])?;
    println!("agent: pcidom doctor says of a guest and two devices:\n{}", outcome.text());
    for word in [
        "ok       created: passthrough",
        "ok       created: e820_host",
        "ok       created: connection",
        "warning  0000:00:05.0: reset",
        "assignable add 0000:00:0a.0",
    ] {
        ensure!(outcome.text().contains(word), "no {word:?}");
    }
    fixture.pcidom_fails(&["doctor", "nobody"], 4, "1 check failed")?;
    let guest = fixture.find(NAME)?.context("there is no guest")?;
    fixture.destroy(&guest)?;
    fixture.pcidom(&["reclaim"]).map(drop)
}

fn nothing_is_left(fixture: &mut Fixture, stub: &Domain) -> Result<()> {
    ensure!(fixture.find(NAME)?.is_none(), "the guest is still there");
    ensure!(fixture.store.children("/tool/pcidom/create")?.is_empty(), "the guest is still noted");
    // Other guests may be there from earlier cases.
    let mut backends = fixture.store.children(&stub.node("backend/pci"))?;
    backends.retain(|id| !fixture.domains.iter().any(|domain| domain.id.to_string() == *id));
    ensure!(backends.is_empty(), "a backend's directory is still there: {backends:?}");
    expect(EDU, fixture.pool_state(stub, EDU)?.as_deref(), "free")
}

fn says_what_is_wrong(fixture: &mut Fixture) -> Result<()> {
    let stub = prepare(fixture, &[EDU])?;
    let file = configuration("'00:06.0'", "xen-pcifront")?;
    fixture.pcidom_fails(&["create"], 2, "GUEST.cfg")?;
    fixture.pcidom_fails(&["create", "/tmp/no-such.cfg"], 1, "no-such.cfg")?;
    fixture.pcidom_fails(&["create", &file, "pci=['00:06.0,colour=red']"], 2, "no option of a device")?;
    fixture.pcidom_fails(&["create", &file, "pci=['00:06.0', '00:07.0,romfile=x']"], 2, "romfile is no option")?;
    fixture.pcidom_fails(
        &["create", &file, "type='pvh'"],
        2,
        "reach PV guests, and HVM guests with their device model in a stub domain",
    )?;
    fixture.pcidom_fails(&["create", &file, "pci=['00:1e.0']"], 1, "no PCI device")?;
    fixture.pcidom_fails(&["create", &file, "pci=['00:1f.2']"], 1, "not assignable")?;
    fixture.pcidom_fails(&["create", "--backend", "nowhere", &file], 1, "nowhere is not running")?;
    fixture.pcidom_fails(&["create", &file, "passthrough='disabled'"], 4, "passthrough")?;
    fixture.pcidom_fails(&["create", &file, "kernel='/no/such/kernel'"], 1, "xl create")?;
    fixture.pcidom_fails(&["create", &file, "name='pcidom'"], 1, "xl create")?;
    fs::write(&file, "name = 'created'\nmemory 64\n")?;
    fixture.pcidom_fails(&["create", &file], 2, "created.cfg:2: want = behind memory")?;
    nothing_is_left(fixture, &stub)
}

/// At different moments of its work. Whatever it had done by then, the next command, or the broker, leaves either nothing of it or a guest with
/// its device.
fn killed(fixture: &mut Fixture) -> Result<()> {
    const DELAYS: [u64; 6] = [50, 300, 600, 1000, 1600, 2500];
    /// From here on no command is given, and the broker does what one would.
    const ALONE: u64 = 1000;
    let stub = prepare(fixture, &[EDU])?;
    let file = configuration("'00:06.0'", "xen-pcifront")?;
    let mut finished = 0;
    for delay in DELAYS {
        let mut command = Command::new("pcidom").args(["create", &file]).spawn()?;
        thread::sleep(Duration::from_millis(delay));
        command.kill()?;
        command.wait()?;
        if delay < ALONE {
            let outcome = process::run(Command::new("pcidom").arg("reclaim"), fixture.deadline)?;
            println!("agent: killed after {delay} ms, the next command said: {}", outcome.stderr.trim());
            ensure!(outcome.code() == 0, "`pcidom reclaim` ended with {}", outcome.code());
        }
        // The broker notices too, and whichever of both began with it ends it.
        let deadline = fixture.deadline;
        fixture
            .store
            .wait_for("/tool/pcidom/create", deadline, |value| value.is_none())
            .with_context(|| format!("killed after {delay} ms"))?;
        if let Some(guest) = fixture.find(NAME)? {
            finished += 1;
            let state = guest.node("device/pci/0/state");
            fixture
                .store
                .wait_for(&state, deadline, |state| state == Some("4"))
                .context("the guest did not connect")?;
            fixture.destroy(&guest)?;
            fixture.pcidom(&["reclaim"])?;
        }
        // The note goes when the guest is gone, and its device is taken back after that.
        while let Err(error) = nothing_is_left(fixture, &stub) {
            if Instant::now() > deadline {
                return Err(error.context(format!("killed after {delay} ms")));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    println!("agent: {finished} of {} were finished", DELAYS.len());
    Ok(())
}
