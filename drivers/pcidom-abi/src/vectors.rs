//! The record of a device's mapped interrupt vectors.

use alloc::vec::Vec;
use core::fmt;

use xen_types::Pirq;

/// The value of [`crate::DeviceNode::Vectors`]: what is mapped for one device.
///
/// The broker keeps nothing about vectors in its own memory, so that one that is killed leaves nothing behind that the next one, or a command,
/// does not know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// No vectors; also where there is no node.
    None,
    /// MSI: consecutive pirqs that were mapped together.
    Msi(Vec<Pirq>),
    /// MSI-X: table index and pirq of each entry.
    Msix(Vec<(u16, Pirq)>),
    /// The broker or a command is changing them, or was killed at it.
    Busy,
}

impl Vectors {
    /// Reads the node's value, `None` where there is no node. What cannot be read says nothing about what is mapped, just as `busy`.
    #[must_use]
    pub fn from_node(value: Option<&str>) -> Self {
        value.map_or(Self::None, |text| Self::parse(text).unwrap_or(Self::Busy))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let pirq = |text: &str| text.parse().map(Pirq).ok();
        let entry = |text: &str| {
            let (index, number) = text.split_once(':')?;
            Some((index.parse().ok()?, pirq(number)?))
        };
        match words.next()? {
            "none" => words.next().is_none().then_some(Self::None),
            "msi" => words.map(pirq).collect::<Option<_>>().map(Self::Msi),
            "msix" => words.map(entry).collect::<Option<_>>().map(Self::Msix),
            _ => None,
        }
    }

    /// Every pirq.
    #[must_use]
    pub fn pirqs(&self) -> Vec<Pirq> {
        match self {
            Self::None | Self::Busy => Vec::new(),
            Self::Msi(pirqs) => pirqs.clone(),
            Self::Msix(entries) => entries.iter().map(|(_, pirq)| *pirq).collect(),
        }
    }

    /// Pirqs to unmap: consecutive vectors are unmapped with their first (`unmap_domain_pirq`, `xen/arch/x86/irq.c`).
    #[must_use]
    pub fn mappings(&self) -> Vec<Pirq> {
        let mut pirqs = self.pirqs();
        if matches!(self, Self::Msi(_)) {
            pirqs.truncate(1);
        }
        pirqs
    }
}

impl fmt::Display for Vectors {
    /// As in the node: `none`, `busy`, `msi 52 53`, `msix 0:55 2047:54`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Busy => f.write_str("busy"),
            Self::Msi(pirqs) => {
                f.write_str("msi")?;
                pirqs.iter().try_for_each(|pirq| write!(f, " {pirq}"))
            }
            Self::Msix(entries) => {
                f.write_str("msix")?;
                entries.iter().try_for_each(|(index, pirq)| write!(f, " {index}:{pirq}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back() {
        for (vectors, text) in [
            (Vectors::None, "none"),
            (Vectors::Busy, "busy"),
            (Vectors::Msi(vec![Pirq(52), Pirq(53)]), "msi 52 53"),
            (Vectors::Msix(vec![(0, Pirq(55)), (2047, Pirq(54))]), "msix 0:55 2047:54"),
        ] {
            assert_eq!(vectors.to_string(), text);
            assert_eq!(Vectors::from_node(Some(text)), vectors);
        }
        assert_eq!(Vectors::from_node(None), Vectors::None);
    }

    #[test]
    fn what_cannot_be_read_needs_to_be_found_out() {
        for text in ["", "None", "none 5", "msi x", "msi -1", "msix 1", "msix 1:2:3", "msix 70000:1", "msi  5"] {
            assert_eq!(Vectors::from_node(Some(text)), Vectors::Busy, "{text:?}");
        }
    }

    #[test]
    fn consecutive_vectors_are_unmapped_by_their_first() {
        let msi = Vectors::Msi(vec![Pirq(52), Pirq(53)]);
        assert_eq!((msi.pirqs(), msi.mappings()), (vec![Pirq(52), Pirq(53)], vec![Pirq(52)]));
        let msix = Vectors::Msix(vec![(0, Pirq(55)), (3, Pirq(54))]);
        assert_eq!(msix.mappings(), [Pirq(55), Pirq(54)]);
    }
}
