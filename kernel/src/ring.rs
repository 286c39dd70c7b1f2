//! The byte rings of xenstore and console pages: a power-of-two buffer with free-running producer and consumer indexes
//! (`xen/include/public/io/xs_wire.h`, `io/console.h`).

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

/// One direction of a ring inside a page shared with dom0.
#[derive(Debug)]
pub(crate) struct ByteRing {
    page: NonNull<u8>,
    data: usize,
    size: u32,
    consumer: usize,
    producer: usize,
}

// SAFETY: the page is valid for ever (contract of `new`) and is accessed by atomics and volatile bytes only.
unsafe impl Send for ByteRing {}

impl ByteRing {
    /// Describes a ring: offsets in bytes of the data, the consumer index and the producer index.
    ///
    /// # Safety
    /// `page` is a page-aligned, writable page, mapped for ever, that is shared with the other end and with nobody else here; the
    /// offsets are aligned and inside it, `size` is a power of two and fits behind `data`.
    pub(crate) const unsafe fn new(
        page: NonNull<u8>,
        data: usize,
        size: u32,
        consumer: usize,
        producer: usize,
    ) -> Self {
        Self { page, data, size, consumer, producer }
    }

    fn index(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: aligned and inside the page (contract of `new`).
        unsafe { AtomicU32::from_ptr(self.page.as_ptr().wrapping_add(offset).cast()) }
    }

    fn byte(&self, index: u32) -> *mut u8 {
        // Inside the data area whatever the index is.
        self.page.as_ptr().wrapping_add(self.data + (index & (self.size - 1)) as usize)
    }

    /// Bytes that can be read. An index that lies is cut to the ring's size: it costs garbage, not memory.
    fn filled(&self) -> u32 {
        let producer = self.index(self.producer).load(Ordering::Acquire);
        producer.wrapping_sub(self.index(self.consumer).load(Ordering::Acquire)).min(self.size)
    }

    /// Bytes that can be written.
    pub(crate) fn space(&self) -> usize {
        (self.size - self.filled()) as usize
    }

    /// True when the other end has taken everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.filled() == 0
    }

    /// Writes as much of `bytes` as fits; returns how many that were.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.space());
        let start = self.index(self.producer).load(Ordering::Relaxed);
        for (index, byte) in (0u32..).zip(bytes.iter().take(count)) {
            // SAFETY: inside the page (`byte`); this part of the ring is ours until the producer index moves.
            unsafe { self.byte(start.wrapping_add(index)).write_volatile(*byte) };
        }
        let moved = u32::try_from(count).unwrap_or(0);
        self.index(self.producer).store(start.wrapping_add(moved), Ordering::Release);
        count
    }

    /// How many bytes were written since the ring was made, by a counter that wraps.
    pub(crate) fn produced(&self) -> u32 {
        self.index(self.producer).load(Ordering::Relaxed)
    }

    /// The same of bytes that were read.
    pub(crate) fn consumed(&self) -> u32 {
        self.index(self.consumer).load(Ordering::Relaxed)
    }

    /// Looks at what [`ByteRing::read`] would read, and leaves it there.
    pub(crate) fn peek(&self, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.filled() as usize);
        let start = self.consumed();
        for (index, byte) in (0u32..).zip(buffer.iter_mut().take(count)) {
            // SAFETY: inside the page (`byte`); the other end wrote it before it moved the producer index.
            *byte = unsafe { self.byte(start.wrapping_add(index)).read_volatile() };
        }
        count
    }

    /// Reads as much as there is and fits into `buffer`; returns how many bytes that were.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.peek(buffer);
        let start = self.consumed();
        let moved = u32::try_from(count).unwrap_or(0);
        self.index(self.consumer).store(start.wrapping_add(moved), Ordering::Release);
        count
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[repr(C, align(4096))]
    struct Page([u8; 4096]);

    fn rings(page: &mut Page) -> [ByteRing; 2] {
        let base = NonNull::from(page).cast();
        // SAFETY: the page outlives the rings in each test; offsets are the console's `out` ring.
        [(); 2].map(|()| unsafe { ByteRing::new(base, 1024, 2048, 3080, 3084) })
    }

    #[test]
    fn bytes_come_out_as_they_went_in_across_the_wrap() {
        let mut page = Page([0; 4096]);
        let [mut writer, mut reader] = rings(&mut page);
        let data: Vec<u8> = (0..=255).cycle().take(3 * 2048 + 17).collect();
        let (mut sent, mut got) = (0, Vec::new());
        while got.len() < data.len() {
            sent += writer.write(&data[sent..(sent + 700).min(data.len())]);
            let mut buffer = [0; 333];
            let count = reader.read(&mut buffer);
            got.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(got, data);
        assert!(writer.is_empty() && writer.space() == 2048);
    }

    #[test]
    fn a_full_ring_takes_nothing_more() {
        let mut page = Page([0; 4096]);
        let [mut writer, _] = rings(&mut page);
        assert_eq!(writer.write(&[1; 4000]), 2048);
        assert_eq!(writer.write(&[1]), 0);
    }

    #[test]
    fn lying_indexes_cost_at_most_one_ring_of_garbage() {
        let mut page = Page([0; 4096]);
        page.0[3084..3088].copy_from_slice(&0xffff_0000u32.to_le_bytes());
        let [mut writer, mut reader] = rings(&mut page);
        assert_eq!(writer.space(), 0);
        assert_eq!(writer.write(&[1]), 0);
        assert_eq!(reader.read(&mut [0; 4096]), 2048);
    }
}
