//! One attach and one detach, write by write, beside the sequence of the 2008 hotplug design.

use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};

use super::{Case, ONE};
use crate::dom0::{
    devices::{E1000, EDU, component},
    fixture::Fixture,
    guests::Domain,
    store_trace::{
        Who::{self, Guest, Stub, Tool},
        Write,
    },
};

pub(in super::super) const CASES: &[Case] = &[
    Case::new("an_attach_follows_the_sequence_of_2008_write_by_write", attach),
    Case::new("directories_have_the_shape_of_the_reference_listing", listing),
    Case::new("a_detach_follows_the_sequence_of_2008_write_by_write", detach),
];

/// A step of the sequence: its text, who takes it, and the write that shows it. `BE` and `FE` are the two directories, `POOL` the device's.
type Step = (&'static str, Who, &'static str, Option<&'static str>);

/// The device is the second one: entry 1.
const ATTACH: &[Step] = &[
    ("the tool writes `dev-N`,", Tool, "BE/dev-1", Some("0000:00:06.0")),
    ("`state-N`=Initialising, enables I/O resources,", Tool, "BE/state-1", Some("1")),
    ("switches the BE Connected → Reconfiguring;", Tool, "BE/state", Some("7")),
    ("the frontend follows to Reconfiguring;", Guest, "FE/state", Some("7")),
    ("the stub finds the device being attached, exports it,", Stub, "POOL/state", Some("assigned GUEST")),
    ("writes `vdev-N`,", Stub, "BE/vdev-1", Some("0000:00:01.00")),
    ("sets `state-N`=Initialised,", Stub, "BE/state-1", Some("3")),
    ("goes to Reconfigured;", Stub, "BE/state", Some("8")),
    ("the frontend rescans its bus, enables the device, goes to Connected;", Guest, "FE/state", Some("4")),
    ("the stub goes to Connected.", Stub, "BE/state", Some("4")),
];

const DETACH: &[Step] = &[
    ("the tool sets `state-N`=Closing", Tool, "BE/state-1", Some("5")),
    ("and the BE to Reconfiguring;", Tool, "BE/state", Some("7")),
    ("the frontend finds the device by `vdev-N`, removes it, goes to Reconfiguring;", Guest, "FE/state", Some("7")),
    // Of the pool it tells on its own time.
    ("the stub removes it and goes to Reconfigured;", Stub, "BE/state", Some("8")),
    ("the frontend", Guest, "FE/state", Some("4")),
    ("and then the stub go to Connected;", Stub, "BE/state", Some("4")),
    ("the tool cleans the entries,", Tool, "BE/state-1", None),
    ("(its number)", Tool, "BE/num_devs", Some("1")),
    ("disables the I/O resources", Tool, "POOL/state", Some("new")),
];

/// What else is written: each line of it is looked at here, and takes no part in the sequence.
const BESIDE: &[&str] = &[
    // The rest of an entry, as libxl writes it, empty nodes for what the stub will write, and how many there are.
    "BE/key-1",
    "BE/dev-1",
    "BE/opts-1",
    "BE/vdev-1",
    "BE/vdevfn-1",
    "BE/name-1",
    "BE/num_devs",
    // The roots that there are anyway.
    "BE/root-0",
    "BE/root_num",
    // The stub's verdict after the tool's reset.
    "POOL/state",
    "POOL/online",
    // What the device had beyond the rules goes with its guest.
    "POOL/policy",
    "POOL/aer",
];

fn guest(fixture: &mut Fixture) -> Result<Domain> {
    let guest = fixture.having(ONE, &[E1000])?;
    fixture.in_pool(EDU)?;
    Ok(guest)
}

fn attach(fixture: &mut Fixture) -> Result<()> {
    let guest = guest(fixture)?;
    compare(fixture, &guest, "attach", ATTACH)?;
    fixture.expect_in_guest(&guest, &[E1000, EDU])
}

fn detach(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(ONE, &[E1000, EDU])?;
    compare(fixture, &guest, "detach", DETACH)?;
    fixture.expect_in_guest(&guest, &[E1000])?;
    fixture.expect_free(EDU)
}

/// Runs the command and compares what was written with the steps.
fn compare(fixture: &mut Fixture, guest: &Domain, command: &str, steps: &[Step]) -> Result<()> {
    let stub = fixture.stub()?;
    let dirs = [
        ("BE", fixture.backend(guest)?),
        ("FE", guest.node("device/pci/0")),
        ("POOL", stub.node(&format!("pool/{}", component(EDU)))),
    ];
    let paths: Vec<String> = dirs.iter().map(|(_, dir)| format!("{dir}/")).collect();
    let name = guest.name.clone();
    let writes = fixture.store_trace(guest, &paths, |fixture| fixture.pcidom(&[command, &name, EDU]).map(drop))?;
    let mut steps = steps.iter().peekable();
    let mut unexpected = Vec::new();
    for Write { at, who, path, value } in &writes {
        let short = dirs.iter().find_map(|(word, dir)| Some(format!("{word}{}", path.strip_prefix(dir)?)));
        let short = short.unwrap_or_else(|| path.clone());
        let shown = value.as_deref().map_or_else(|| "is removed".to_owned(), |value| format!("= {value:?}"));
        let is_next = steps.peek().is_some_and(|(_, by, node, wanted)| {
            let wanted = wanted.map(|text| text.replace("GUEST", &guest.id.to_string()));
            (*by, *node, wanted.as_deref()) == (*who, &*short, value.as_deref())
        });
        let text = if is_next { steps.next().map_or("", |step| step.0) } else { "" };
        println!("agent: {:>6.1} ms  {:<5}  {short} {shown}  {text}", at.as_secs_f64() * 1e3, format!("{who:?}"));
        if !is_next && !BESIDE.contains(&&*short) {
            unexpected.push(format!("{who:?}: {short} {shown}"));
        }
    }
    if let Some((text, who, node, value)) = steps.next() {
        bail!("no {who:?}: {node} = {value:?} for the step {text:?}");
    }
    ensure!(unexpected.is_empty(), "not in the sequence: {}", unexpected.join("; "));
    Ok(())
}

/// `xenstore-ls` after an attach, as the reference listing shows it.
fn listing(fixture: &mut Fixture) -> Result<()> {
    let guest = fixture.having(ONE, &[E1000, EDU])?;
    let (backend, id, stub) = (fixture.backend(&guest)?, guest.id, fixture.stub()?);
    let frontend = guest.node("device/pci/0");
    let mut wanted = format!(
        "frontend = \"{frontend}\"\nfrontend-id = \"{id}\"\nonline = \"1\"\ndomain = \"{}\"\nstate = \"4\"\nnum_devs = \"2\"\n\
         root_num = \"1\"\nroot-0 = \"0000:00\"\n",
        guest.name
    );
    for (index, device) in [E1000, EDU].iter().enumerate() {
        let opts = "msitranslate=0,power_mgmt=0,permissive=0,rdm_policy=strict";
        writeln!(wanted, "key-{index} = \"{device}\"\ndev-{index} = \"{device}\"\nopts-{index} = \"{opts}\"")?;
        writeln!(wanted, "vdev-{index} = \"0000:00:0{index}.00\"\nstate-{index} = \"3\"")?;
    }
    same_lines(&fixture.run("xenstore-ls", &[&backend])?, &wanted)?;
    // The guest's own three keys have the values of its boot.
    let listing = fixture.run("xenstore-ls", &[&frontend])?;
    let keys = ["pci-op-ref", "event-channel"];
    let (own, others): (Vec<&str>, Vec<&str>) =
        listing.lines().partition(|line| keys.iter().any(|key| line.starts_with(key)));
    ensure!(own.len() == keys.len(), "{listing}");
    let wanted = format!("backend = \"{backend}\"\nbackend-id = \"{}\"\nstate = \"4\"\nmagic = \"7\"\n", stub.id);
    same_lines(&others.join("\n"), &wanted)
}

fn same_lines(found: &str, wanted: &str) -> Result<()> {
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines
    };
    let (found, wanted) = (sorted(found), sorted(wanted));
    ensure!(found == wanted, "{found:?}, not {wanted:?}");
    Ok(())
}
