//! A set of interrupts, written as ranges because there can be thousands.

use alloc::collections::BTreeSet;
use core::fmt;
use core::str::FromStr;

use xen_types::Pirq;

use crate::Malformed;

/// The value of [`crate::DeviceNode::Pirqs`]: `21 54-55`, empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PirqSet(pub BTreeSet<Pirq>);

impl fmt::Display for PirqSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().map(|Pirq(number)| *number).peekable();
        let mut space = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            write!(f, "{space}{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
            space = " ";
        }
        Ok(())
    }
}

impl FromStr for PirqSet {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        // As `entry.vector` in `pciif.h`, by which a guest is told. Whatever stands in the node, the set has an end.
        let number = |text: &str| text.parse::<u16>().map(u32::from).map_err(|_| Malformed);
        let mut pirqs = BTreeSet::new();
        for word in text.split_whitespace() {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            pirqs.extend((number(first)?..=number(last)?).map(Pirq));
        }
        Ok(Self(pirqs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_back() {
        for (pirqs, text) in [(&[][..], ""), (&[21], "21"), (&[21, 54, 55], "21 54-55"), (&[0, 1, 2, 9], "0-2 9")] {
            let pirqs = PirqSet(pirqs.iter().copied().map(Pirq).collect());
            assert_eq!(pirqs.to_string(), text);
            assert_eq!(text.parse(), Ok(pirqs));
        }
        for text in ["x", "1-", "-1", "1-x", "1,2", "0-65536", "7-4294967295"] {
            assert_eq!(text.parse::<PirqSet>(), Err(Malformed), "{text}");
        }
    }
}
