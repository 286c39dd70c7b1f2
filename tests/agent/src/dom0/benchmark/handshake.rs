//! Observes the xenbus states of a connection from dom0.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::{dom0::guests::Domain, store::Store};

/// Connected, as `state` nodes have it (`xen/include/public/io/xenbus.h`).
const CONNECTED: &str = "4";

/// Takes the time between the moments in which the backend and the frontend say that they are connected. In between the guest scans
/// its new bus: all 256 functions.
pub(super) struct Handshake(JoinHandle<Result<Duration>>);

impl Handshake {
    /// Starts watching.
    pub(super) fn watch(guest: &Domain, backend: u16, deadline: Instant) -> Result<Self> {
        let ours = format!("/local/domain/{backend}/backend/pci/{}/0/state", guest.id);
        let theirs = guest.node("device/pci/0/state");
        let mut store = Store::open()?;
        for node in [&ours, &theirs] {
            store.watch(node)?;
        }
        Ok(Self(thread::spawn(move || {
            let is_connected =
                |node: &str, store: &mut Store| -> Result<bool> { Ok(store.text(node)?.as_deref() == Some(CONNECTED)) };
            let mut backend_since = None;
            loop {
                let now = Instant::now();
                if backend_since.is_none() && is_connected(&ours, &mut store)? {
                    backend_since = Some(now);
                }
                if let Some(since) = backend_since
                    && is_connected(&theirs, &mut store)?
                {
                    return Ok(since.elapsed());
                }
                store.wait(deadline)?.then_some(()).context("they did not connect")?;
            }
        })))
    }

    /// How long it took.
    pub(super) fn took(self) -> Result<Duration> {
        self.0.join().map_err(|_| anyhow!("the thread panicked"))?
    }
}
