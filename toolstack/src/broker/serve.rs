//! The process `pcidom serve`.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::reclaim::OwnCommand;
use super::{Broker, Outside, Watches};
use crate::error::Error;
use crate::host::Host;
use crate::lock::Lock;
use crate::store::{StoreChannel, WatchConnection};
use crate::xen::{LibxenRings, Libxencall, Signal, Signals, XenVersion};

/// Serves stubs until it is told to stop.
pub(crate) fn serve(host: &Host, version: XenVersion) -> Result<(), Error> {
    let _lock = Lock::try_take_broker()?.ok_or_else(|| Error::NoHost("another broker is running".to_owned()))?;
    let unusable = |error: &dyn std::fmt::Display| Error::NoHost(error.to_string());
    let signals = Signals::block().map_err(|error| unusable(&error))?;
    let physdev = Libxencall::open(version).map_err(|error| unusable(&error))?;
    let rings = LibxenRings::open(version).map_err(|error| unusable(&error))?;
    let (watches, news) = open_watches()?;
    let reclaimer = OwnCommand::default();
    let outside = Outside { host, physdev: &physdev, rings: &rings, watches: &watches, reclaimer: &reclaimer };
    let mut broker = Broker::start(outside)?;
    host.note("serving");
    loop {
        broker.turn()?;
        let is_signalled = wait(broker.idle(), [rings.as_fd(), news.as_fd(), signals.as_fd()])?;
        while is_signalled && let Some(signal) = signals.next().map_err(|error| unusable(&error))? {
            match signal {
                Signal::Stop => {
                    broker.stop();
                    host.note("stopped");
                    return Ok(());
                }
                Signal::ChildEnded => broker.child_ended(),
            }
        }
    }
}

/// A connection for watches alone: commands' code that runs in the broker waits for its own events on the host's.
fn open_watches() -> Result<(impl Watches, File), Error> {
    let no_way = |error| Error::NoHost(format!("no way to xenstore: {error}"));
    let device = StoreChannel::open().map_err(no_way)?;
    let news = device.readable_end().map_err(no_way)?;
    Ok((WatchConnection::new(device), news))
}

/// Waits until one of them has something to say. Whether it is the last of them.
fn wait(idle: Option<Duration>, sources: [BorrowedFd<'_>; 3]) -> Result<bool, Error> {
    let timeout = idle.map(|idle| Timespec {
        tv_sec: i64::try_from(idle.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(idle.subsec_nanos()),
    });
    let mut fds = sources.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => Ok(fds.last().is_some_and(|signals| !signals.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(Error::NoHost(format!("poll: {error}"))),
    }
}
