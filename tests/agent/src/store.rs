//! xenstore through the kernel's `/dev/xen/xenbus`, the same in dom0 and in guests.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use xenstore::{Nodes, StoreError, Transaction, Transport};

use crate::process::wait_readable;

/// The kernel's device as bytes for the project's client.
pub(crate) struct Xenbus {
    file: File,
    /// The moment that deadlines count from.
    opened: Instant,
}

impl Transport for Xenbus {
    type Error = io::Error;

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn receive(&mut self, buffer: &mut [u8], deadline_ns: Option<u64>) -> io::Result<usize> {
        if let Some(deadline) = deadline_ns
            && !wait_readable(&self.file, self.opened + Duration::from_nanos(deadline))?
        {
            return Ok(0);
        }
        self.file.read(buffer)
    }
}

/// A connection with what cases need beside the client's own methods.
pub(crate) struct Store {
    client: xenstore::Store<Xenbus>,
    opened: Instant,
}

impl Store {
    /// Connects.
    pub(crate) fn open() -> Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus").context("opening /dev/xen/xenbus")?;
        let opened = Instant::now();
        Ok(Self { client: xenstore::Store::new(Xenbus { file, opened }), opened })
    }

    /// Requests that are not answered by then are errors. Without this, they wait.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        let nanos = deadline.saturating_duration_since(self.opened).as_nanos();
        self.client.set_deadline(u64::try_from(nanos).ok());
    }

    /// A node's value as text, `None` where there is no such node.
    pub(crate) fn text(&mut self, path: &str) -> Result<Option<String>> {
        self.client.read(path).with_context(|| format!("reading {path}"))
    }

    /// A node's value, `None` where there is no such node.
    pub(crate) fn bytes(&mut self, path: &str) -> Result<Option<Vec<u8>>> {
        self.client.read_bytes(path).with_context(|| format!("reading {path}"))
    }

    /// Names of a node's children; none where there is no such node.
    pub(crate) fn children(&mut self, path: &str) -> Result<Vec<String>> {
        Ok(self.client.directory(path).with_context(|| format!("listing {path}"))?.unwrap_or_default())
    }

    /// Sets a node, which is created with its parents where missing.
    pub(crate) fn write(&mut self, path: &str, value: &[u8]) -> Result<()> {
        self.client.write(path, value).with_context(|| format!("writing {path}"))
    }

    /// Removes a node and all below, if it is there.
    pub(crate) fn remove(&mut self, path: &str) -> Result<()> {
        self.client.remove(path).with_context(|| format!("removing {path}"))?;
        Ok(())
    }

    /// Makes changes that happen together or not at all.
    pub(crate) fn transaction(
        &mut self,
        changes: impl FnMut(&mut Transaction<'_, Xenbus>) -> Result<(), StoreError<io::Error>>,
    ) -> Result<()> {
        self.client.transaction(changes).context("a transaction")
    }

    /// Watches a node and all below. The first event comes at once.
    pub(crate) fn watch(&mut self, path: &str) -> Result<()> {
        self.client.watch(path, "bench").with_context(|| format!("watching {path}"))
    }

    /// Ends a watch.
    pub(crate) fn unwatch(&mut self, path: &str) -> Result<()> {
        self.client.unwatch(path, "bench").with_context(|| format!("watching {path}"))
    }

    /// Waits for any watch event; false when `deadline` came first.
    pub(crate) fn wait(&mut self, deadline: Instant) -> Result<bool> {
        let nanos = deadline.saturating_duration_since(self.opened).as_nanos();
        Ok(self.client.next_watch_event(Some(u64::try_from(nanos)?))?.is_some())
    }

    /// Waits until a node's value (`None`: no node) satisfies `wanted`, and returns it.
    pub(crate) fn wait_for(
        &mut self,
        path: &str,
        deadline: Instant,
        wanted: impl Fn(Option<&str>) -> bool,
    ) -> Result<Option<String>> {
        self.watch(path)?;
        let result = loop {
            let value = self.text(path)?;
            if wanted(value.as_deref()) {
                break Ok(value);
            }
            if !self.wait(deadline)? {
                break match value {
                    Some(value) => Err(anyhow::anyhow!("{path} stayed at {value:?}")),
                    None => Err(anyhow::anyhow!("{path} did not appear")),
                };
            }
        };
        self.unwatch(path)?;
        result
    }
}

/// For messages: fails with what was found instead.
pub(crate) fn expect(what: &str, found: Option<&str>, wanted: &str) -> Result<()> {
    if found != Some(wanted) {
        bail!("{what} is {found:?}, not {wanted:?}");
    }
    Ok(())
}
