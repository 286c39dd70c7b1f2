//! Data that looks random and that both ends can make: what arrives is compared byte by byte with what was sent, which is
//! more than a checksum tells.

use anyhow::{Result, ensure};

/// A stream of bytes that depends on its seed only.
#[derive(Clone)]
pub(crate) struct Pattern {
    state: u64,
    position: usize,
}

impl Pattern {
    /// The stream of this seed, from its start.
    pub(crate) fn new(seed: u64) -> Self {
        // Zero is the one state that the generator never leaves.
        Self { state: seed | 1 << 63, position: 0 }
    }

    /// Fills a buffer, whose length is a multiple of 8, with what comes next.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_exact_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        self.position += buffer.len();
    }

    /// Checks that a buffer, whose length is a multiple of 8, holds what comes next.
    pub(crate) fn check(&mut self, buffer: &[u8]) -> Result<()> {
        for (index, word) in buffer.chunks_exact(8).enumerate() {
            let wanted = self.next().to_le_bytes();
            ensure!(word == wanted, "{word:02x?}, not {wanted:02x?}, at byte {}", self.position + index * 8);
        }
        self.position += buffer.len();
        Ok(())
    }

    /// Marsaglia's xorshift64*.
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_one_wrong_bit_and_says_where() {
        let mut buffer = [0; 64];
        Pattern::new(7).fill(&mut buffer);
        Pattern::new(7).check(&buffer).expect("equal");
        buffer[41] ^= 1;
        let error = Pattern::new(7).check(&buffer).expect_err("different").to_string();
        assert!(error.ends_with("at byte 40"), "{error}");
        assert!(Pattern::new(8).check(&buffer).is_err());
    }
}
