//! The byte transport to xenstored: the ring page of `xen/include/public/io/xs_wire.h`.

use crate::ring::ByteRing;
use crate::{events, memory, start_info};
use core::ptr::NonNull;
use xen_types::{Errno, Port};

/// Both directions of the ring and its port.
#[derive(Debug)]
pub struct XenstoreRing {
    requests: ByteRing,
    replies: ByteRing,
    port: Port,
}

impl XenstoreRing {
    /// Takes the ring that the domain builder made. There is one: call it once.
    ///
    /// # Errors
    /// `ENOENT` when the domain has none (the initial domain).
    pub fn take() -> Result<Self, Errno> {
        let (mfn, port) = start_info::get().store.ok_or(Errno::ENOENT)?;
        let address = memory::address_of_own_mfn(mfn).ok_or(Errno::EINVAL)?;
        let page = NonNull::new(address as *mut u8).ok_or(Errno::EINVAL)?;
        // SAFETY: the builder's xenstore page, in the linear mapping for ever and below the heap; offsets of xs_wire.h: req[1024],
        // rsp[1024], req_cons 2048, req_prod 2052, rsp_cons 2056, rsp_prod 2060.
        let requests = unsafe { ByteRing::new(page, 0, 1024, 2048, 2052) };
        // SAFETY: as above; the other half.
        let replies = unsafe { ByteRing::new(page, 1024, 1024, 2056, 2060) };
        Ok(Self { requests, replies, port })
    }

    /// The port to wait on.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Sends as much of `bytes` as fits; returns how many bytes that were.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let sent = self.requests.write(bytes);
        self.notify_if(sent > 0);
        sent
    }

    /// Receives as much as there is and fits; returns how many bytes that were.
    pub fn receive(&mut self, buffer: &mut [u8]) -> usize {
        let received = self.replies.read(buffer);
        self.notify_if(received > 0);
        received
    }

    fn notify_if(&self, moved: bool) {
        if moved && let Err(error) = events::notify(self.port) {
            log::error!("notifying xenstored: {error}");
        }
    }
}
