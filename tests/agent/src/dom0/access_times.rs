//! What `time-access` prints in a guest (`tests/agent/src/latency.rs`).

use anyhow::{Result, anyhow};

/// Median, 90th and 99th percentile in nanoseconds.
pub(crate) fn parse(printed: &[u8]) -> Result<[u64; 3]> {
    let text = String::from_utf8_lossy(printed);
    let numbers = text.split_whitespace().map(str::parse).collect::<Result<Vec<_>, _>>()?;
    numbers.try_into().map_err(|_| anyhow!("not three times: {text:?}"))
}
