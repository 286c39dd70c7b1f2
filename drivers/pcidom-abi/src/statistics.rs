//! Queries to a stub, and its answers (`docs/xenstore.md`, "The stub's statistics").
//!
//! A query is the name of a node below [`crate::paths::relative::QUERY`]. The answer is one line of decimal numbers in
//! [`crate::paths::relative::STATISTICS`], of which the first is the query's number.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use xen_types::Sbdf;
use xenstore::number;

use crate::Malformed;

/// The names of the numbers behind the first in the answer to [`QueryKind::Statistics`], in their order. A later version may append some and
/// changes none.
pub const NAMES: [&str; COUNT] = [
    "uptime_ns",
    "heap_used",
    "heap_peak",
    "heap_total",
    "mapped_pages",
    "ports",
    "grants",
    "watches",
    "transactions",
    "timers",
    "store_requests",
    "frontends",
    "devices",
    "events",
    "reads",
    "writes",
    "dropped_writes",
    "no_device",
    "bad_accesses",
    "denied_writes",
    "no_broker",
    "interrupts_enabled",
    "interrupts_refused",
    "interrupts_disabled",
    "unknown_commands",
    "broker_timeouts",
];

/// How many there are.
pub const COUNT: usize = 26;

/// One query: `N`, or `N-BDF`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Chosen by the command that asks, by which it knows its answer.
    pub number: u32,
    /// What is asked.
    pub kind: QueryKind,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKind {
    /// The stub's counters: [`NAMES`].
    Statistics,
    /// Denied-write counters of this device: pairs of a register's offset and a count.
    DeniedWrites(Sbdf),
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)?;
        match self.kind {
            QueryKind::Statistics => Ok(()),
            QueryKind::DeniedWrites(device) => write!(f, "-{}", device.path_component()),
        }
    }
}

impl FromStr for Query {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        // By bytes: what `str` has for it is several hundred bytes of code in the stub.
        let end = text.bytes().position(|byte| byte == b'-').unwrap_or(text.len());
        let (number, rest) = text.split_at_checked(end).ok_or(Malformed)?;
        let number = number::decimal(number.as_bytes()).map_err(|_| Malformed)?;
        let kind = match rest.get(1..) {
            Some(device) => QueryKind::DeniedWrites(Sbdf::parse_path_component(device).map_err(|_| Malformed)?),
            None => QueryKind::Statistics,
        };
        Ok(Self { number, kind })
    }
}

/// The numbers behind the first in a stub's answer. `None` where this is no answer to the query of this number.
#[must_use]
pub fn parse_answer(text: &str, number: u32) -> Option<Vec<u64>> {
    let mut words = text.split_ascii_whitespace();
    if words.next()?.parse() != Ok(number) {
        return None;
    }
    words.map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_read_back() {
        let device = Sbdf::from_devfn(0, 5, 0x31);
        for (kind, text) in [(QueryKind::Statistics, "7"), (QueryKind::DeniedWrites(device), "7-0000-05-06-1")] {
            let query = Query { number: 7, kind };
            assert_eq!(query.to_string(), text);
            assert_eq!(text.parse(), Ok(query));
        }
        for text in ["", "-", "x", "7-", "7-0000:05:06.1", "4294967296", "-7"] {
            assert_eq!(text.parse::<Query>(), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn answers_to_other_queries_and_nonsense_are_none() {
        assert_eq!(parse_answer("8 1 2", 7), None);
        assert_eq!(parse_answer("", 7), None);
        assert_eq!(parse_answer("7 1 -2", 7), None);
        assert_eq!(parse_answer("7 1 2 ", 7), Some(vec![1, 2]));
        assert_eq!(parse_answer("7 ", 7), Some(vec![]));
    }
}
