//! The node that says which vectors of a device are mapped: `/tool/pcidom/device/BDF/vectors`.
//!
//! The broker keeps nothing about vectors in its own memory, so that one that is killed leaves nothing behind that the next one, or
//! a command, does not know of.

use xen_types::{DomId, Pirq, Sbdf};
use xenstore::path;

use dom0::Dom0;
use dom0::Error;
use dom0::store::Change;

/// What is mapped for one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// Nothing.
    None,
    /// Consecutive pirqs that were mapped together.
    Msi(Vec<Pirq>),
    /// Table index and pirq of each entry.
    Msix(Vec<(u16, Pirq)>),
    /// Somebody is changing it, or died at it.
    Busy,
}

impl Vectors {
    /// Reads the node.
    ///
    /// # Errors
    /// Xenstore's.
    pub fn load(host: &Dom0, device: Sbdf) -> Result<Self, Error> {
        Ok(Self::from_node(host.read(&vectors_node(device))?))
    }

    /// From the value of its node.
    pub(crate) fn from_node(value: Option<String>) -> Self {
        value.map_or(Self::None, |text| Self::parse(&text))
    }

    /// What cannot be read says nothing about what is mapped, just as `busy`.
    fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let pirq = |text: &str| text.parse().map(Pirq).ok();
        let entry = |text: &str| {
            let (index, number) = text.split_once(':')?;
            Some((index.parse().ok()?, pirq(number)?))
        };
        let parsed = match words.next() {
            Some("none") => words.next().is_none().then_some(Self::None),
            Some("msi") => words.map(pirq).collect::<Option<_>>().map(Self::Msi),
            Some("msix") => words.map(entry).collect::<Option<_>>().map(Self::Msix),
            _ => None,
        };
        parsed.unwrap_or(Self::Busy)
    }

    pub(crate) fn store(&self, device: Sbdf) -> Change {
        Change::write(vectors_node(device), self)
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
    pub(crate) fn mappings(&self) -> Vec<Pirq> {
        let mut pirqs = self.pirqs();
        if matches!(self, Self::Msi(_)) {
            pirqs.truncate(1);
        }
        pirqs
    }
}

impl std::fmt::Display for Vectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// All that stands in xenstore about a device's interrupts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) vectors: Vectors,
    /// Whether the guest itself wants INTx off: what the register goes back to when the last vector is gone.
    pub(crate) intx_off: bool,
}

impl Noted {
    /// The nodes that [`Noted::from_nodes`] wants the values of.
    pub(crate) fn nodes(device: Sbdf) -> [String; 2] {
        [vectors_node(device), intx_node(device)]
    }

    pub(crate) fn from_nodes([vectors, intx]: [Option<String>; 2]) -> Self {
        Self { vectors: Vectors::from_node(vectors), intx_off: intx.is_some() }
    }

    pub(crate) fn load(host: &Dom0, device: Sbdf) -> Result<Self, Error> {
        Ok(Self::from_nodes(host.read_many(Self::nodes(device).each_ref().map(String::as_str))?))
    }

    /// No vectors any more, and nothing to go back to.
    pub(crate) fn forget(&self, host: &Dom0, device: Sbdf) -> Result<(), Error> {
        let mut changes = vec![Vectors::None.store(device)];
        if self.intx_off {
            changes.push(set_intx_off(device, false));
        }
        host.commit(&changes)
    }
}

/// Where it stands.
#[must_use]
pub fn vectors_node(device: Sbdf) -> String {
    path::child(&path::tool_device_dir(device), "vectors")
}

fn intx_node(device: Sbdf) -> String {
    path::child(&path::tool_device_dir(device), "intx")
}

/// Stands while somebody unmaps every vector of a guest that is not known to belong to one of its devices.
const SWEEPS: &str = "/tool/pcidom/sweep";

fn sweep_node(guest: DomId) -> String {
    path::child(SWEEPS, &guest.to_string())
}

/// Notes that a device's vectors are being changed. Says whether nothing may be mapped for the guest now: it would be taken for what a dead
/// broker left. Whoever sweeps looks for `busy` after he has said so, and this looks after it has said `busy`: one of them sees the other.
pub(crate) fn begin(host: &Dom0, guest: DomId, device: Sbdf, intx_off: bool) -> Result<bool, Error> {
    let (busy, sweep) = (Vectors::Busy.store(device), sweep_node(guest));
    if intx_off {
        host.commit(&[busy, set_intx_off(device, true)])?;
        return host.exists(&sweep);
    }
    let [swept] = host.write_and_read(&busy, [&sweep])?;
    Ok(swept.is_some())
}

pub(crate) fn begin_sweep(guest: DomId) -> Change {
    Change::write(sweep_node(guest), "")
}

pub(crate) fn end_sweep(guest: DomId) -> Vec<Change> {
    vec![Change::remove(sweep_node(guest)), Change::remove_if_empty(SWEEPS)]
}

/// Ends what commands have begun that were killed. For a command: none other is at work.
///
/// # Errors
/// Xenstore's.
pub fn end_sweeps(host: &Dom0) -> Result<(), Error> {
    if host.exists(SWEEPS)? {
        host.commit(&[Change::remove(SWEEPS), Change::remove_if_empty("/tool/pcidom")])?;
    }
    Ok(())
}

/// Notes what the guest wants. Hardly any wants INTx off, so the usual case costs nothing.
pub(crate) fn set_intx_off(device: Sbdf, off: bool) -> Change {
    let node = intx_node(device);
    if off { Change::write(node, "off") } else { Change::remove(node) }
}

/// Removes both nodes, if there are any: the device leaves its guest. Nothing there means no vectors.
///
/// # Errors
/// Xenstore's.
pub fn remove(host: &Dom0, device: Sbdf) -> Result<(), Error> {
    let nodes = Noted::nodes(device);
    let found = host.read_many(nodes.each_ref().map(String::as_str))?;
    if found.iter().all(Option::is_none) {
        return Ok(());
    }
    let mut changes: Vec<Change> = nodes.into_iter().map(Change::remove).collect();
    // Were the device forgotten while somebody made these nodes, its directory would be theirs alone.
    changes.push(Change::remove_if_empty(path::tool_device_dir(device)));
    host.commit(&changes)
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
            assert_eq!(Vectors::parse(text), vectors);
        }
    }

    #[test]
    fn what_cannot_be_read_needs_to_be_found_out() {
        for text in ["", "None", "none 5", "msi x", "msi -1", "msix 1", "msix 1:2:3", "msix 70000:1", "msi  5"] {
            assert_eq!(Vectors::parse(text), Vectors::Busy, "{text:?}");
        }
    }
}
