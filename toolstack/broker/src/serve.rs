//! The process `pcidom serve`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use dom0::changes::CountingFile;
use dom0::lock::{self, Lock};
use dom0::process::LinuxProcesses;
use dom0::store::{Connection, StoreChannel, Watches};
use dom0::sysfs::{Linux, SYSFS, Sysfs};
use dom0::xen::{Libxc, LibxenRings, Libxencall, Signal, Signals, XenVersion};
use dom0::{Dom0, Error, SinceStart, StandardError};

use super::manager::Manager;
use super::reclaim::{OwnCommand, RequestFile};
use super::{Broker, Outside, Reclaimer};

/// Serves stubs until it is told to stop. Devices are taken back by whoever waits for the file `reclaim_request`, or by this program,
/// started as `pcidom reclaim`. Stubs that hang are interrupted where `is_watchdog` says so.
///
/// # Errors
/// What this host lacks, [`Error::BrokerRuns`], and those after which nothing would work any more.
pub fn serve(
    version: XenVersion,
    is_verbose: bool,
    reclaim_request: Option<PathBuf>,
    is_watchdog: bool,
) -> Result<(), Error> {
    let manager = Manager::from_environment();
    let _lock = Lock::try_take_in(lock::folder(), lock::BROKER)?.ok_or(Error::BrokerRuns)?;
    let unusable = |error: &dyn std::fmt::Display| Error::NoHost(error.to_string());
    let signals = Signals::block().map_err(|error| unusable(&error))?;
    let physdev = Libxencall::open(version).map_err(|error| unusable(&error))?;
    let rings = LibxenRings::open(version).map_err(|error| unusable(&error))?;
    let host = open(version, is_verbose)?;
    let channel = StoreChannel::open_or_say()?;
    let status = format!("serving; xenstore by {}", channel.way());
    let (watches, news) = open_watches(channel)?;
    let child = OwnCommand::default();
    let request = reclaim_request.map(open_request).transpose()?;
    let reclaimer: &dyn Reclaimer = request.as_ref().map_or(&child, |request| request);
    let outside = Outside {
        host: &host,
        physdev: &physdev,
        rings: &rings,
        watches: &watches,
        processes: &LinuxProcesses,
        reclaimer,
    };
    let mut broker = Broker::start(outside)?;
    if is_watchdog {
        broker.watch_for_hangs();
    }
    host.note(&status);
    manager.ready(&status);
    let mut sources = vec![signals.as_fd(), rings.as_fd(), news.as_fd()];
    sources.extend(request.as_ref().map(AsFd::as_fd));
    loop {
        broker.turn()?;
        manager.turned(host.elapsed());
        let limits = [broker.idle(), manager.due_in(host.elapsed()), request.as_ref().and_then(RequestFile::due_in)];
        let is_signalled = wait(limits.into_iter().flatten().min(), &sources)?;
        while is_signalled && let Some(signal) = signals.next().map_err(|error| unusable(&error))? {
            match signal {
                Signal::Stop => {
                    manager.stopping();
                    broker.stop();
                    host.note("stopped");
                    return Ok(());
                }
                Signal::ChildEnded => broker.child_ended(),
            }
        }
        if request.as_ref().is_some_and(RequestFile::take_news) {
            broker.child_ended();
        }
    }
}

/// Opens the ways to Xen, sysfs and xenstore.
fn open(version: XenVersion, is_verbose: bool) -> Result<Dom0, Error> {
    let clock = SinceStart(Instant::now());
    let hypervisor = Libxc::open(version).map_err(|error| Error::NoHost(error.to_string()))?;
    let store = Connection::new(StoreChannel::open_or_say()?);
    let console = StandardError { is_verbose };
    let sysfs = Sysfs::new(SYSFS, Rc::new(Linux));
    let mut host = Dom0::new(Rc::new(hypervisor), sysfs, Rc::new(store), Box::new(clock), Box::new(console));
    host.changes = Some(Rc::new(CountingFile::new(lock::folder())));
    Ok(host)
}

/// A connection for watches alone.
fn open_watches(channel: StoreChannel) -> Result<(impl Watches, File), Error> {
    let news = channel.readable_end().map_err(|error| Error::NoHost(format!("no way to xenstore: {error}")))?;
    Ok((Connection::new(channel), news))
}

fn open_request(path: PathBuf) -> Result<RequestFile, Error> {
    RequestFile::new(path.clone()).map_err(|source| Error::File { path, source })
}

/// Waits until one of them has something to say. Whether it is the first of them.
fn wait(idle: Option<Duration>, sources: &[BorrowedFd<'_>]) -> Result<bool, Error> {
    let timeout = idle.map(|idle| Timespec {
        tv_sec: i64::try_from(idle.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(idle.subsec_nanos()),
    });
    let mut fds: Vec<PollFd<'_>> = sources.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => Ok(fds.first().is_some_and(|signals| !signals.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(Error::NoHost(format!("poll: {error}"))),
    }
}
