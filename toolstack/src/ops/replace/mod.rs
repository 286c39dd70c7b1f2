//! `pcidom restart` and `pcidom upgrade`: the stub's image is started again in its domain, the same one or another (`docs/restart.md`).
//!
//! The stub takes no part in it, so it costs nothing there and works with one that hangs. dom0 pauses the domain, looks at its image, checks
//! everything, and only then writes: the new code and constants, and a few of the facts that outlive a start. An NMI leads the domain's CPU to the
//! image's first instruction, where it makes its data new by itself.

mod image;
mod running;

use std::path::{Path, PathBuf};
use std::time::Duration;

use pcidom_abi::statistics::{NAMES, QueryKind};
use pcidom_abi::{Restarts, image as layout, paths};
use xen_types::{DomId, Mfn};
use xenstore::path;

use crate::audit::while_paused;
use crate::create::config::Config;
use crate::error::{Doing, DomainName, Error, HostError};
use crate::host::Host;
use crate::host::domain;
use crate::ops::attach::find_stub;
use crate::ops::stub_query;
use crate::records::directories::Ends;
use crate::xen::{Domctls, HypercallError, Page};
use image::Image;
#[cfg(test)]
pub(crate) use image::tests::Maker;
use running::{Facts, Frames, Running};

/// Until an image that was started again is ready. It takes milliseconds, and longer on a busy host.
const UNTIL_READY: Duration = Duration::from_secs(10);
/// The same for one that is new, before the one before it is put back. One that crashes is taken back at once; a guest that asks something while one hangs
/// waits for two seconds at most (Linux' pcifront).
const TRIAL: Duration = Duration::from_secs(3);
/// Until it serves all frontends again that were connected, after it is ready.
const ADOPTION: Duration = Duration::from_secs(2);
/// How often that is looked at of which nothing tells.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) stub: DomainName,
    /// The release of the image that runs now, and of the one before.
    pub(crate) release: String,
    pub(crate) before: String,
    /// From the moment in which it stood still until it was known to be ready.
    pub(crate) took: Duration,
    /// How long it took by the image's own clock, from its first instruction on.
    pub(crate) took_inside: Duration,
    /// Frontends that it serves; `None` where it did not tell.
    pub(crate) frontends: Option<u64>,
}

impl std::fmt::Display for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stub, release, before, took, took_inside, frontends } = self;
        let frontends = match frontends {
            Some(1) => "1 frontend".to_owned(),
            Some(count) => format!("{count} frontends"),
            None => "an unknown number of frontends".to_owned(),
        };
        let was = if release == before { String::new() } else { format!(" instead of {before}") };
        let (took, inside) = (took.as_millis(), took_inside.as_micros());
        write!(
            f,
            "{stub} runs {release}{was} and serves {frontends}; it was away for {took} ms, {inside} us of them for its own start"
        )
    }
}

/// The image that the installed configuration of the driver domain names.
pub(crate) fn installed(root: &Path) -> Result<PathBuf, Error> {
    let file = root.join("etc/xen/pcidom.cfg");
    let text = std::fs::read(&file).map_err(|source| HostError::File { path: file.clone(), source })?;
    let place = || file.display().to_string();
    let kernel = Config::parse(text).and_then(|config| config.text("kernel"));
    let kernel =
        kernel.map_err(|error| Error::Config { place: format!("{}:{}", place(), error.line), what: error.what })?;
    kernel.map(PathBuf::from).ok_or_else(|| Error::Config { place: place(), what: "it has no kernel =".to_owned() })
}

/// Starts the image again that runs.
pub(crate) fn restart(host: &Host, backend: &str) -> Result<Started, Error> {
    let (stub, running) = look(host, backend)?;
    let begun =
        start_in_pause(host, &stub, &running, None, |facts| facts.for_start(facts.may_restart(), "pcidom restart"))?;
    let Some(took_inside) = await_ready(host, &stub, &running, 1, UNTIL_READY)? else {
        let waiting_for = "that its image is ready again".to_owned();
        return Err(Error::StubSilent { stub, after: UNTIL_READY, waiting_for });
    };
    let release = running.about.release.clone();
    finish(host, stub, running.about.release, release, begun, took_inside)
}

/// Puts the image of this file in the place of the one that runs.
pub(crate) fn upgrade(host: &Host, backend: &str, file: &Path) -> Result<Started, Error> {
    let bytes = std::fs::read(file).map_err(|source| HostError::File { path: file.to_owned(), source })?;
    let image = Image::read(&bytes).map_err(|why| Error::UnfitImage { image: file.to_owned(), why })?;
    let (stub, running) = look(host, backend)?;
    let why = format!("pcidom upgrade from {} to {}", running.about.release, image.about.release);
    let new = |facts: &Facts| facts.for_start(layout::TRIAL, &why);
    let begun = start_in_pause(host, &stub, &running, Some((&image.pages, &running.pages)), new)?;
    match await_ready(host, &stub, &running, 1, TRIAL)? {
        Some(took_inside) => finish(host, stub, image.about.release, running.about.release, begun, took_inside),
        None => Err(go_back(host, &stub, &running, file)),
    }
}

/// Puts the image back that ran before. What is answered is why.
fn go_back(host: &Host, stub: &DomainName, running: &Running, file: &Path) -> Error {
    let back = in_pause(host, stub, |xen| {
        let facts = Facts::read(xen, stub.id, &running.frames)?;
        let facts = facts.for_start(running.facts.may_restart(), "pcidom upgrade failed: the image before goes on");
        start(xen, stub, &running.frames, Some((&running.pages, &running.pages)), &facts)
    });
    let is_back = back.and_then(|()| await_ready(host, stub, running, 2, UNTIL_READY));
    let after = match is_back {
        Ok(Some(_)) => "the image before goes on".to_owned(),
        Ok(None) => format!("and the image before did not within {} s after that", UNTIL_READY.as_secs()),
        Err(error) => format!("and putting the image before back failed: {error}"),
    };
    Error::UpgradeFailed { stub: stub.clone(), image: file.to_owned(), after }
}

/// The stub and its image, which can be started again. It runs meanwhile: nothing of what is looked at changes but the facts.
fn look(host: &Host, backend: &str) -> Result<(DomainName, Running), Error> {
    let stub = find(host, backend)?;
    let running = Running::read(&*host.hypervisor, stub.id).doing(|| format!("looking at the image of {stub}"))?;
    running.check().map_err(|why| Error::NotReplaceable { stub: stub.clone(), why })?;
    Ok((stub, running))
}

/// Has the image start again; when the domain stood still. The facts are looked at once more, now that nobody changes them.
fn start_in_pause(
    host: &Host,
    stub: &DomainName,
    running: &Running,
    pages: Option<(&[Page], &[Page])>,
    new: impl Fn(&Facts) -> Facts,
) -> Result<Duration, Error> {
    let started = in_pause(host, stub, |xen| {
        let begun = host.elapsed();
        let facts = Facts::read(xen, stub.id, &running.frames)?;
        if let Err(why) = facts.check() {
            return Ok(Err(why));
        }
        start(xen, stub, &running.frames, pages, &new(&facts))?;
        Ok(Ok(begun))
    })?;
    started.map_err(|why| Error::NotReplaceable { stub: stub.clone(), why })
}

/// The stub, which runs.
fn find(host: &Host, backend: &str) -> Result<DomainName, Error> {
    let stub = find_stub(host, backend)?;
    match domain::info(host, stub.id)? {
        Some(info) if info.paused => Err(Error::NotReplaceable { stub, why: "its domain is paused".to_owned() }),
        Some(info) if info.hvm => Err(Error::NotReplaceable { stub, why: "its domain is not PV".to_owned() }),
        _ => Ok(stub),
    }
}

fn in_pause<T>(
    host: &Host,
    stub: &DomainName,
    mut act: impl FnMut(&dyn Domctls) -> Result<T, HypercallError>,
) -> Result<T, Error> {
    while_paused(host, stub, || act(&*host.hypervisor))?.doing(|| format!("starting the image of {stub} again"))
}

/// Has the stub, which stands still, begin with its first instruction as soon as it goes on; with other code and constants, where that is wanted, of which
/// the second are those to put back if it cannot be.
fn start(
    xen: &dyn Domctls,
    stub: &DomainName,
    frames: &Frames,
    pages: Option<(&[Page], &[Page])>,
    facts: &Facts,
) -> Result<(), HypercallError> {
    let before = Facts::read(xen, stub.id, frames)?;
    // Until the image sets it anew, which each start does. An NMI before that starts it as well.
    xen.images().set_nmi_entry(stub.id, layout::TEXT.start)?;
    let write = |pages: &[Page], facts: &Facts| {
        let image = frames.image.iter().copied().zip(pages);
        let all: Vec<(Mfn, &Page)> = image.chain([(frames.facts, facts.page())]).collect();
        xen.images().write_pages(stub.id, &all)
    };
    let (new, old) = pages.unwrap_or_default();
    write(new, facts)?;
    xen.send_nmi(stub.id).inspect_err(|_| {
        let _ = write(old, &before); // it could be written a moment ago
    })
}

/// Waits until the image says that it was started so often, and has taken over what there was; how long that took by its own clock. `None` when it has not in
/// time.
fn await_ready(
    host: &Host,
    stub: &DomainName,
    running: &Running,
    starts: u64,
    timeout: Duration,
) -> Result<Option<Duration>, Error> {
    let node = paths::of_stub(stub.id, paths::relative::RESTARTS);
    let expected = running.facts.restarts().saturating_add(starts);
    let deadline = host.elapsed() + timeout;
    // The facts tell nobody that they have changed, and tell the end of a trial before anything else does.
    while host.elapsed() < deadline {
        match Facts::read(&*host.hypervisor, stub.id, &running.frames)
            .doing(|| format!("looking at {stub}"))?
            .may_restart()
        {
            layout::TRIAL => host.pause(LOOK_AGAIN),
            layout::FAILED => return Ok(None),
            _ => break,
        }
        check_alive(host, stub)?;
    }
    let watched = [node.clone(), path::RELEASE_DOMAIN.to_owned()];
    let restarts = host.wait_for(&watched, deadline.saturating_sub(host.elapsed()), || {
        check_alive(host, stub)?;
        let restarts = host.read(&node)?.and_then(|text| Restarts::parse(&text).ok());
        Ok(restarts.filter(|restarts| u64::from(restarts.count) >= expected))
    })?;
    Ok(restarts.map(|restarts| Duration::from_nanos(restarts.took_ns)))
}

fn check_alive(host: &Host, stub: &DomainName) -> Result<(), Error> {
    match domain::info(host, stub.id)? {
        Some(info) if !info.dying && !info.shutdown => Ok(()),
        _ => Err(Error::StubWentAway(stub.clone())),
    }
}

fn finish(
    host: &Host,
    stub: DomainName,
    release: String,
    before: String,
    begun: Duration,
    took_inside: Duration,
) -> Result<Started, Error> {
    let took = host.elapsed() - begun;
    let deadline = begun + took + ADOPTION;
    let connected = connected_frontends(host, stub.id)?;
    let at = NAMES.iter().position(|name| *name == "grants");
    let mut frontends = None;
    while let Some(numbers) = stub_query::ask(host, stub.id, QueryKind::Statistics)? {
        frontends = at.and_then(|at| numbers.get(at).copied());
        if frontends.is_none_or(|count| count >= connected) || host.elapsed() >= deadline {
            break;
        }
        host.pause(LOOK_AGAIN);
    }
    if let Some(served) = frontends.filter(|served| *served < connected) {
        host.note(&format!("{stub} serves {served} of {connected} connected frontends"));
    }
    Ok(Started { stub, release, before, took, took_inside, frontends })
}

/// How many frontends are connected by what both ends say in xenstore.
fn connected_frontends(host: &Host, stub: DomId) -> Result<u64, Error> {
    let guests = host.list(&path::backend_root(stub))?;
    let mut connected = 0;
    for guest in guests.iter().filter_map(|id| id.parse().ok().map(DomId)) {
        connected += u64::from(Ends::read(host, stub, guest)?.are_connected());
    }
    Ok(connected)
}
