//! The byte transport to xenstored: the ring page of `xen/include/public/io/xs_wire.h`.

use crate::ring::ByteRing;
use crate::{events, memory, start_info, survivor};
use core::ptr::NonNull;
use xen_types::{Errno, Port};

/// Both directions of the ring and its port.
///
/// A life of the image that ends may leave a message half sent or half received. Where it ends in its stream is therefore written down before the first
/// byte of it moves ([`survivor::Facts`]), and of one to be sent the bytes too: at whatever instruction the life ended, the next one knows what is left.
#[derive(Debug)]
pub struct XenstoreRing {
    requests: ByteRing,
    replies: ByteRing,
    port: Port,
    /// What comes is the end of a message that began in a life before.
    is_in_old_message: bool,
}

/// Bytes of a message's header, and where in it the length of the rest stands (`struct xsd_sockmsg`, `xs_wire.h`).
const HEADER: usize = 16;
const LENGTH: core::ops::Range<usize> = 12..16;

/// The length of a message with its header, as its header tells; `None` where that is not all there.
fn length(message: &[u8]) -> Option<u32> {
    let length = message.get(LENGTH)?.try_into().ok()?;
    Some(u32::from_le_bytes(length).wrapping_add(16))
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
        if survivor::restarts() == 0 {
            survivor::change(|facts| {
                facts.sent_end = requests.produced();
                facts.received_end = replies.consumed();
            });
        }
        let is_in_old_message = survivor::facts().received_end != replies.consumed();
        Ok(Self { requests, replies, port, is_in_old_message })
    }

    /// The port to wait on.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Takes whole messages from the front of `bytes` for sending, each when those before it are sent; returns how many bytes that were. One that does
    /// not fit is sent in pieces.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let mut sent = 0;
        loop {
            let left = survivor::facts().sent_end.wrapping_sub(self.requests.produced());
            if left > 0 {
                let now = self.requests.write(survivor::rest(left));
                sent += now;
                if now == 0 {
                    break;
                }
                continue;
            }
            let Some(message) = bytes.get(taken..).and_then(|left| left.get(..length(left)? as usize)) else { break };
            if !survivor::keep_rest(message, self.requests.produced()) {
                break;
            }
            taken += message.len();
        }
        self.notify_if(sent > 0);
        taken
    }

    /// Receives as much as there is and fits; returns how many bytes that were. The end of a message that began in a life before is left out.
    pub fn receive(&mut self, buffer: &mut [u8]) -> usize {
        let mut received = 0;
        let mut has_moved = false;
        loop {
            let left = survivor::facts().received_end.wrapping_sub(self.replies.consumed()) as usize;
            if left == 0 {
                self.is_in_old_message = false;
                let mut header = [0; HEADER];
                if self.replies.peek(&mut header) < HEADER {
                    break;
                }
                survivor::change(|facts| {
                    facts.received_end = facts.received_end.wrapping_add(length(&header).unwrap_or(0));
                });
                #[cfg(feature = "faults")]
                crate::faults::at(crate::faults::Place::Answer);
                continue;
            }
            let room = buffer.get_mut(received..).unwrap_or_default();
            let count = left.min(room.len());
            let now = self.replies.read(room.get_mut(..count).unwrap_or_default());
            if now == 0 {
                break;
            }
            has_moved = true;
            received += if self.is_in_old_message { 0 } else { now };
        }
        self.notify_if(has_moved);
        #[cfg(feature = "faults")]
        crate::faults::hear(buffer.get(..received).unwrap_or_default());
        received
    }

    fn notify_if(&self, moved: bool) {
        if moved && let Err(error) = events::notify(self.port) {
            plain_log::error!("notifying xenstored: {error}");
        }
    }
}
