//! Xenstore over the ring that the domain builder made.

use kernel::events;
use kernel::xenstore_ring::XenstoreRing;
use xen_types::Errno;
use xenstore::Transport;

/// The ring, with waiting.
#[derive(Debug)]
pub struct RingTransport(XenstoreRing);

impl RingTransport {
    /// Takes the ring: once.
    ///
    /// # Errors
    /// As [`XenstoreRing::take`].
    pub fn take() -> Result<Self, Errno> {
        XenstoreRing::take().map(Self)
    }

    /// Waits for the other side to move.
    fn wait(&self, deadline_ns: Option<u64>) -> Result<(), Errno> {
        events::wait(&[self.0.port()], deadline_ns)?;
        events::clear(self.0.port());
        Ok(())
    }
}

impl Transport for RingTransport {
    type Error = Errno;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        loop {
            match self.0.send(bytes) {
                0 => self.wait(None)?,
                sent => return Ok(sent),
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8], deadline_ns: Option<u64>) -> Result<usize, Errno> {
        loop {
            match self.0.receive(buffer) {
                0 => {
                    // The end of a message that is longer than the ring.
                    self.0.send(&[]);
                    self.wait(deadline_ns)?;
                }
                received => return Ok(received),
            }
            if deadline_ns.is_some_and(|deadline| kernel::clock::now_ns() >= deadline) {
                return Ok(0);
            }
        }
    }
}
