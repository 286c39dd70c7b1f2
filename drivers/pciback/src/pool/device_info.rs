//! Description of one function from its pool nodes.

use pci_config::{Description, PolicyFlags};
use pcidom_abi::pool;
use thiserror::Error;
use xen_types::{Mfn, Sbdf};

pub(crate) use xen_types::{Resource, ResourceKind};

/// Index of the expansion ROM among a function's resources.
pub(crate) const ROM: usize = 6;

/// One function of the pool, as the tool describes it in `pool/BDF`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceInfo {
    sbdf: Sbdf,
    told: pool::Description,
}

impl DeviceInfo {
    /// Checks the description.
    ///
    /// # Errors
    /// When a resource is of a kind that its register cannot be, or a register is the upper half of another and has a
    /// resource of its own.
    pub(crate) fn new(sbdf: Sbdf, told: pool::Description) -> Result<Self, DeviceInfoError> {
        let mut below = None;
        for (register, resource) in told.resources.iter().enumerate() {
            let kind = resource.map(Resource::kind);
            let is_rom = kind == Some(ResourceKind::Rom);
            let is_64bit = kind.is_some_and(ResourceKind::is_64bit);
            if kind.is_some() && is_rom != (register == ROM) || is_64bit && register + 1 == ROM {
                return Err(DeviceInfoError::WrongKind { register });
            }
            if resource.is_some() && register < ROM && below.is_some_and(ResourceKind::is_64bit) {
                return Err(DeviceInfoError::UpperHalf { register });
            }
            below = kind;
        }
        Ok(Self { sbdf, told })
    }

    /// Whether it is a virtual function of an SR-IOV device.
    #[must_use]
    pub(crate) const fn is_virtual_function(&self) -> bool {
        self.told.ids.is_some()
    }

    /// The real address.
    #[must_use]
    pub(crate) const fn sbdf(&self) -> Sbdf {
        self.sbdf
    }

    /// The machine frame of the function's page of configuration space.
    #[must_use]
    pub(crate) const fn ecam(&self) -> Mfn {
        self.told.ecam
    }

    /// The description that its guest's view is built from, besides the function itself.
    #[must_use]
    pub(crate) fn description(&self) -> Description<'_> {
        let pool::Description { resources, ids, irq, policy, .. } = &self.told;
        let policy_flags = policy.map(|policy| PolicyFlags::new(policy.0)).unwrap_or_default();
        Description { resources, ids: *ids, irq: *irq, policy_flags }
    }
}

/// The description of a device contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum DeviceInfoError {
    /// Only the seventh resource may be a ROM, and it must be; the sixth cannot be 64 bits wide.
    #[error("resource-{register} is of a kind that this register cannot be")]
    WrongKind {
        /// Which resource.
        register: usize,
    },
    /// The resource below is 64 bits wide and takes this register too.
    #[error("resource-{register} is the upper half of the 64-bit one before it")]
    UpperHalf {
        /// Which resource.
        register: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(list: &[(usize, &str)]) -> Result<DeviceInfo, DeviceInfoError> {
        let mut resources = [None; pool::RESOURCES.len()];
        for (register, text) in list {
            resources[*register] = Some(text.parse().expect("a resource"));
        }
        let told = pool::Description { ecam: Mfn(0xb0028), resources, irq: 0, ids: None, policy: None };
        DeviceInfo::new(Sbdf::from_devfn(0, 3, 0), told)
    }

    #[test]
    fn a_64_bit_register_takes_two() {
        const MEM64: &str = "0x380000000 0x10000000 mem64p";
        assert!(info(&[(0, MEM64), (2, MEM64), (4, MEM64), (6, "0xfe000000 0x1000 rom")]).is_ok());
        assert_eq!(info(&[(5, MEM64)]), Err(DeviceInfoError::WrongKind { register: 5 }));
        assert_eq!(info(&[(0, MEM64), (1, "0xe000 0x20 io")]), Err(DeviceInfoError::UpperHalf { register: 1 }));
    }

    #[test]
    fn the_rom_is_the_seventh_and_nothing_else_is() {
        assert!(info(&[(5, "0xe000 0x20 io"), (6, "0xfe000000 0x1000 rom")]).is_ok());
        assert_eq!(info(&[(0, "0xfe000000 0x1000 rom")]), Err(DeviceInfoError::WrongKind { register: 0 }));
        assert_eq!(info(&[(6, "0xfe000000 0x1000 mem32")]), Err(DeviceInfoError::WrongKind { register: 6 }));
    }
}
