//! Points at which something can go wrong: each call of stub, broker and command to Xen, sysfs and the clock, counted, so that a test can have each of
//! them fail once. Those to xenstored are counted there ([`xenstored::Xenstored::fail_request`]).

use std::collections::BTreeMap;

/// How far the clock is ahead when a look at it "fails": whoever looks was not scheduled for so long, nanoseconds. Longer than a stub waits for its
/// broker, and than a guest waits for a stub.
pub(crate) const LEAP_NS: u64 = 10_000_000_000;

/// Calls so far, and the one that fails.
#[derive(Debug, Default)]
pub(crate) struct Points {
    is_counting: bool,
    pub(crate) count: usize,
    fails: Option<usize>,
    struck: Option<(&'static str, &'static str)>,
    pub(crate) by_call: BTreeMap<(&'static str, &'static str), usize>,
}

impl Points {
    /// Counts from 0; the call with this number fails.
    pub(crate) fn begin(fails: Option<usize>) -> Self {
        Self { is_counting: true, fails, ..Self::default() }
    }

    /// Counts no more: what failed.
    pub(crate) const fn end(&mut self) -> Option<(&'static str, &'static str)> {
        self.is_counting = false;
        self.struck
    }

    /// Counts a call of this party: true where it is the one that fails.
    pub(crate) fn fails(&mut self, who: &'static str, call: &'static str) -> bool {
        if !self.is_counting {
            return false;
        }
        *self.by_call.entry((who, call)).or_default() += 1;
        let is_it = self.fails == Some(self.count);
        self.count += 1;
        if is_it {
            self.struck = Some((who, call));
        }
        is_it
    }
}
