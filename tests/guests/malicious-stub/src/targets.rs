//! Devices named on the command line.

use xen_types::Sbdf;

/// Devices named on the command line.
pub(crate) struct Targets {
    /// Our own, with MSI.
    pub(crate) msi: Sbdf,
    /// Our own, with MSI-X.
    pub(crate) msix: Sbdf,
    /// Another stub's.
    pub(crate) foreign: Sbdf,
}

impl Targets {
    /// Reads `msi=BDF msix=BDF foreign=BDF`, in any order and among other words.
    pub(crate) fn parse(command_line: &str) -> Option<Self> {
        let device = |key: &str| {
            let mut values = command_line
                .split_whitespace()
                .filter_map(|word| word.split_once('='))
                .filter(|(name, _)| *name == key);
            values.next()?.1.parse().ok()
        };
        Some(Self { msi: device("msi")?, msix: device("msix")?, foreign: device("foreign")? })
    }
}
