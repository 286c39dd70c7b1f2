//! The process `pcidom serve`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::manager::Manager;
use super::reclaim::{OwnCommand, RequestFile};
use super::{Broker, Outside, Reclaimer, Watches};
use crate::cli::arguments::Reclaiming;
use crate::error::Error;
use crate::host::Host;
use crate::host::lock::{self, Lock};
use crate::store::{StoreChannel, WatchConnection};
use crate::xen::{LibxenRings, Libxencall, Signal, Signals, XenVersion};

/// Serves stubs until it is told to stop.
pub(crate) fn serve(host: &Host, version: XenVersion, reclaiming: Reclaiming) -> Result<(), Error> {
    let manager = Manager::from_environment();
    let _lock = Lock::try_take_broker()?.ok_or_else(|| Error::BrokerRuns(lock::broker_pid()))?;
    let unusable = |error: &dyn std::fmt::Display| Error::NoHost(error.to_string());
    let signals = Signals::block().map_err(|error| unusable(&error))?;
    let physdev = Libxencall::open(version).map_err(|error| unusable(&error))?;
    let rings = LibxenRings::open(version).map_err(|error| unusable(&error))?;
    let channel = StoreChannel::open().map_err(|error| Error::NoHost(format!("no way to xenstore: {error}")))?;
    let status = format!("serving; xenstore by {}", channel.way());
    let (watches, news) = open_watches(channel)?;
    let child = OwnCommand::default();
    let request = match reclaiming {
        Reclaiming::Spawn => None,
        Reclaiming::Trigger => Some(open_request()?),
    };
    let reclaimer: &dyn Reclaimer = request.as_ref().map_or(&child, |request| request);
    let outside = Outside { host, physdev: &physdev, rings: &rings, watches: &watches, reclaimer };
    let mut broker = Broker::start(outside)?;
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

/// A connection for watches alone: commands' code that runs in the broker waits for its own events on the host's.
fn open_watches(channel: StoreChannel) -> Result<(impl Watches, File), Error> {
    let news = channel.readable_end().map_err(|error| Error::NoHost(format!("no way to xenstore: {error}")))?;
    Ok((WatchConnection::new(channel), news))
}

fn open_request() -> Result<RequestFile, Error> {
    let path = lock::reclaim_request();
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
