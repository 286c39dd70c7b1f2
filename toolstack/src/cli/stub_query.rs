//! Statistics queries to a stub (`docs/xenstore.md`, "The stub's statistics").

use std::fmt;
use std::time::Duration;

use xen_types::{DomId, Sbdf};
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

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StubQuery {
    /// How it is.
    Statistics,
    /// Denied-write counters of this device.
    DeniedWrites(Sbdf),
}

impl fmt::Display for StubQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Statistics => Ok(()),
            Self::DeniedWrites(device) => write!(f, "-{}", device.path_component()),
        }
    }
}

/// The numbers that the stub answers; `None` where it does not.
pub(crate) fn ask(host: &Host, stub: DomId, question: StubQuery) -> Result<Option<Vec<u64>>, Error> {
    let (query, answer) = (path::query_node(stub), path::statistics_node(stub));
    // Nobody else who asks at this moment has this number.
    let number = std::process::id();
    let ask = Change::write(path::child(&query, &format!("{number}{question}")), "");
    let mut numbers = None;
    for _ in 0..ATTEMPTS {
        host.commit(std::slice::from_ref(&ask))?;
        numbers = host.wait_for(std::slice::from_ref(&answer), PATIENCE, || {
            Ok(host.read(&answer)?.and_then(|text| parse(&text, number)))
        })?;
        if numbers.is_some() || !domain::is_alive(host, stub)? {
            break;
        }
    }
    // Together, and all of the query: its removal alone is no question.
    host.commit(&[Change::remove(query), Change::remove(answer)])?;
    Ok(numbers)
}

/// `None` where this is no answer to the question of this number.
fn parse(text: &str, number: u32) -> Option<Vec<u64>> {
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
    fn answers_to_other_questions_and_nonsense_are_none() {
        assert_eq!(parse("8 1 2", 7), None);
        assert_eq!(parse("", 7), None);
        assert_eq!(parse("7 1 -2", 7), None);
        assert_eq!(parse("7 1 2 ", 7), Some(vec![1, 2]));
        assert_eq!(parse("7 ", 7), Some(vec![]));
    }
}
