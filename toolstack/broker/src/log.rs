//! Rate-limited log of the broker.

use std::collections::BTreeMap;
use std::time::Duration;

use xen_types::{DomId, Sbdf};

use dom0::Dom0;

/// Interval between equal lines of one stub about one device.
const INTERVAL: Duration = Duration::from_secs(60);

/// Lines with the same key are equal. Devices are those of the table only, so that a stub cannot make up keys.
type Key = (DomId, Option<Sbdf>, &'static str);

/// Time of the last line of each key, and the count of those suppressed since.
#[derive(Debug, Default)]
pub(crate) struct Log(BTreeMap<Key, Said>);

#[derive(Debug)]
struct Said {
    at: Duration,
    hushed: u64,
}

impl Log {
    /// Writes a line about a stub unless the same was written within the last minute.
    pub(crate) fn tell(
        &mut self,
        host: &Dom0,
        stub: DomId,
        device: Option<Sbdf>,
        what: &'static str,
        detail: Option<&str>,
    ) {
        let now = host.elapsed();
        let hushed = match self.0.get_mut(&(stub, device, what)) {
            Some(said) if now < said.at + INTERVAL => {
                said.hushed = said.hushed.saturating_add(1);
                return;
            }
            Some(said) => said.hushed,
            None => 0,
        };
        self.0.insert((stub, device, what), Said { at: now, hushed: 0 });
        let device = device.map(|device| format!(" ({device})")).unwrap_or_default();
        let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
        let again = if hushed > 0 { format!(" (and {hushed} times before)") } else { String::new() };
        host.note(&format!("domain {stub} {what}{device}{detail}{again}"));
    }

    /// Forgets a stub that is gone.
    pub(crate) fn forget(&mut self, stub: DomId) {
        self.0.retain(|(other, _, _), _| *other != stub);
    }
}
