//! Description of a device for its stub: the nodes in `pool/BDF`.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use xen_types::{Mfn, Resource};
use xenstore::number;

/// The machine frame of the function's page of configuration space (ECAM), hexadecimal without prefix.
pub const ECAM: &str = "ecam";
/// Vendor and device id of a virtual function as their dword, hexadecimal without prefix: its own registers read as ones. Absent for others.
pub const IDS: &str = "ids";
/// The device's GSI in decimal, `0` for none.
pub const IRQ: &str = "irq";
/// `1`; the tool sets `0` to ask the stub to let go, and writes `1` again to have it look whether an assigned device is still there.
pub const ONLINE: &str = "online";
/// A [`crate::PoolState`].
pub const STATE: &str = "state";
/// [`PolicyNumbers`]; absent for the default policy.
pub const POLICY: &str = "policy";
/// An [`crate::AerValue`]: written by the tool, then by the stub, then removed by the tool.
pub const AER: &str = "aer";
/// BAR 0 to 5 and the expansion ROM, each a [`Resource`]; absent where there is none. A 64-bit BAR takes one, the next is absent.
pub const RESOURCES: [&str; 7] =
    ["resource-0", "resource-1", "resource-2", "resource-3", "resource-4", "resource-5", "resource-6"];

/// Every node of a device.
pub const NODES: [&str; 14] = {
    let [r0, r1, r2, r3, r4, r5, r6] = RESOURCES;
    [ECAM, IDS, IRQ, ONLINE, STATE, POLICY, AER, r0, r1, r2, r3, r4, r5, r6]
};

/// What the policy of an assignment means for the stub: the value of [`POLICY`], three hexadecimal numbers with blanks between.
///
/// The first is 1 where writes that the stub would drop go to the broker, 2 where the device is permissive besides, and more by `docs/xenstore.md`; the others have a bit for each
/// hidden conventional capability's id, and one for each hidden extended one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyNumbers(pub [u64; 3]);

impl fmt::Display for PolicyNumbers {
    /// `1 20000 10000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [writes, conventional, extended] = self.0;
        write!(f, "{writes:x} {conventional:x} {extended:x}")
    }
}

impl PolicyNumbers {
    /// Reads the node's value; `None` where it is not three numbers.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut words = value.split(|byte| *byte == b' ');
        let mut numbers = [0; 3];
        for number in &mut numbers {
            *number = number::hexadecimal(words.next()?).ok()?;
        }
        words.next().is_none().then_some(Self(numbers))
    }
}

/// A node of the description cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or malformed")]
pub struct BadNode(pub &'static str);

/// What a stub is told about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// [`ECAM`].
    pub ecam: Mfn,
    /// [`IDS`].
    pub ids: Option<u32>,
    /// [`IRQ`].
    pub irq: u32,
    /// [`RESOURCES`].
    pub resources: [Option<Resource>; 7],
    /// [`POLICY`]: of the assignment that is about to be, the only one of these that changes while the device is in the pool.
    pub policy: Option<PolicyNumbers>,
}

impl Description {
    /// The nodes to write, by name: [`Description::read`] the other way round.
    #[must_use]
    pub fn nodes(&self) -> Vec<(&'static str, String)> {
        let mut nodes = Vec::from([(ECAM, format!("{:x}", self.ecam)), (IRQ, self.irq.to_string())]);
        nodes.extend(self.ids.map(|ids| (IDS, format!("{ids:x}"))));
        let resources = RESOURCES.into_iter().zip(self.resources);
        nodes.extend(self.policy.map(|policy| (POLICY, policy.to_string())));
        nodes.extend(resources.filter_map(|(name, resource)| Some((name, resource?.to_string()))));
        nodes
    }

    /// Reads a description from the values of the nodes, `None` where there is no such node.
    ///
    /// # Errors
    /// The first node that is missing or makes no sense.
    #[inline] // into its one caller in the stub, which has little room
    pub fn read<'a>(value: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, BadNode> {
        let ecam = value(ECAM).and_then(|text| number::hexadecimal(text).ok()).ok_or(BadNode(ECAM))?;
        let irq = value(IRQ).and_then(|text| number::decimal(text).ok()).ok_or(BadNode(IRQ))?;
        let ids = match value(IDS) {
            Some(text) => {
                let ids = number::hexadecimal(text).ok().and_then(|ids| u32::try_from(ids).ok());
                Some(ids.ok_or(BadNode(IDS))?)
            }
            None => None,
        };
        let policy = match value(POLICY) {
            Some(text) => Some(PolicyNumbers::parse(text).ok_or(BadNode(POLICY))?),
            None => None,
        };
        let mut resources = [None; RESOURCES.len()];
        for (place, name) in resources.iter_mut().zip(RESOURCES) {
            if let Some(text) = value(name) {
                let resource = xenstore::text(text).ok().and_then(|text| text.parse().ok());
                *place = Some(resource.ok_or(BadNode(name))?);
            }
        }
        Ok(Self { ecam: Mfn(ecam), ids, irq, resources, policy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(nodes: &[(&str, &str)]) -> Result<Description, BadNode> {
        Description::read(|name| nodes.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes()))
    }

    #[test]
    fn a_description_reads_back() {
        let mut resources = [None; 7];
        resources[0] = "0x380000000 0x4000 mem64p".parse().ok();
        resources[6] = "0xfe000000 0x1000 rom".parse().ok();
        assert_eq!(resources.iter().flatten().count(), 2);
        for (ids, policy) in [(None, None), (Some(0x1520_8086), Some(PolicyNumbers([1, 0x20000, 0x10000])))] {
            let description = Description { ecam: Mfn(0xb0028), ids, irq: 17, resources, policy };
            let nodes = description.nodes();
            let nodes: Vec<_> = nodes.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(read(&nodes), Ok(description));
            assert_eq!(nodes.contains(&(IDS, "15208086")), ids.is_some());
        }
    }

    #[test]
    fn nonsense_is_called_by_the_nodes_name() {
        assert_eq!(read(&[]), Err(BadNode(ECAM)));
        assert_eq!(read(&[(ECAM, "x")]), Err(BadNode(ECAM)));
        assert_eq!(read(&[(ECAM, "b0028")]), Err(BadNode(IRQ)));
        let fine = [(ECAM, "b0028"), (IRQ, "0")];
        assert!(read(&fine).is_ok());
        for (name, value) in [(IDS, "100000000"), (IDS, ""), (POLICY, "1"), ("resource-3", "0xe000 0x20 ports")] {
            assert_eq!(read(&[&fine[..], &[(name, value)]].concat()), Err(BadNode(name)), "{value}");
        }
    }

    #[test]
    fn policies_read_back() {
        let policy = PolicyNumbers([1, 0x20000, 0x10000]);
        assert_eq!(policy.to_string(), "1 20000 10000");
        assert_eq!(PolicyNumbers::parse(b"1 20000 10000"), Some(policy));
        for text in ["", "1", "1 2", "1 2 3 4", "1  2 3", "1 2 permissive"] {
            assert_eq!(PolicyNumbers::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
