//! Statistics queries to a stub (`docs/xenstore.md`, "The stub's statistics").

use std::time::Duration;

use pcidom_abi::paths;
use pcidom_abi::statistics::{Query, QueryKind, parse_answer};
use xen_types::DomId;
use xenstore::path;

use crate::error::Error;
use crate::host::Host;
use crate::host::domain;
use crate::store::Change;

/// Time-out of a query, and the number of tries. Somebody else may ask at the same time and clear our answer away.
const PATIENCE: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 5;

/// For how long it is asked.
pub(crate) const ASKED_FOR: Duration = PATIENCE.saturating_mul(ATTEMPTS);

/// The numbers that the stub answers; `None` where it does not.
pub(crate) fn ask(host: &Host, stub: DomId, kind: QueryKind) -> Result<Option<Vec<u64>>, Error> {
    let (query, answer) = (paths::query_node(stub), paths::statistics_node(stub));
    // Nobody else who asks at this moment has this number.
    let number = std::process::id();
    let ask = Change::write(path::child(&query, &Query { number, kind }.to_string()), "");
    let mut numbers = None;
    for _ in 0..ATTEMPTS {
        host.commit(std::slice::from_ref(&ask))?;
        numbers = host.wait_for(std::slice::from_ref(&answer), PATIENCE, || {
            Ok(host.read(&answer)?.and_then(|text| parse_answer(&text, number)))
        })?;
        if numbers.is_some() || !domain::is_alive(host, stub)? {
            break;
        }
    }
    // Together, and all of the query: its removal alone is no question.
    host.commit(&[Change::remove(query), Change::remove(answer)])?;
    Ok(numbers)
}
