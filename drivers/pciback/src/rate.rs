//! Token bucket that limits the work that one guest may cause.

/// Lets a burst through, then a steady rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    burst: u32,
    refill_ns: u64,
    tokens: u32,
    /// When the last token was added.
    filled_ns: u64,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens that gains one every `refill_ns`.
    pub(crate) const fn new(burst: u32, refill_ns: u64) -> Self {
        Self { burst, refill_ns, tokens: burst, filled_ns: 0 }
    }

    /// Takes a token, or says when the next one comes.
    pub(crate) fn take(&mut self, now_ns: u64) -> Result<(), u64> {
        self.fill(now_ns);
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err(self.filled_ns.saturating_add(self.refill_ns)),
        }
    }

    fn fill(&mut self, now_ns: u64) {
        let gained = now_ns.saturating_sub(self.filled_ns) / self.refill_ns.max(1);
        self.tokens = u32::try_from(gained).unwrap_or(u32::MAX).saturating_add(self.tokens).min(self.burst);
        // A full bucket gains nothing while it waits, so its clock starts with the first token that is taken.
        self.filled_ns = if self.tokens == self.burst {
            now_ns
        } else {
            self.filled_ns.saturating_add(gained.saturating_mul(self.refill_ns))
        };
    }
}

/// Lines in the log about one thing: a few at once, then one now and then. The others are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    bucket: TokenBucket,
    unsaid: u64,
}

impl Lines {
    /// Nothing was said yet.
    pub(crate) const NEW: Self = Self { bucket: TokenBucket::new(16, 5_000_000_000), unsaid: 0 };

    /// Whether there may be a line now: then, how many there might have been since the last one.
    pub(crate) fn take(&mut self, now_ns: u64) -> Option<u64> {
        if self.bucket.take(now_ns).is_err() {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        Some(core::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_steady_rate() {
        let mut bucket = TokenBucket::new(3, 100);
        for _ in 0..3 {
            assert_eq!(bucket.take(1_000), Ok(()));
        }
        assert_eq!(bucket.take(1_000), Err(1_100));
        assert_eq!(bucket.take(1_099), Err(1_100));
        assert_eq!(bucket.take(1_100), Ok(()));
        assert_eq!(bucket.take(1_100), Err(1_200));
    }

    #[test]
    fn a_long_rest_fills_the_bucket_but_not_more() {
        let mut bucket = TokenBucket::new(2, 100);
        assert_eq!(bucket.take(0), Ok(()));
        assert_eq!(bucket.take(u64::MAX - 1), Ok(()));
        assert_eq!(bucket.take(u64::MAX - 1), Ok(()));
        assert!(bucket.take(u64::MAX - 1).is_err());
        assert!(bucket.take(0).is_err(), "a clock that went back gives nothing");
    }
}
