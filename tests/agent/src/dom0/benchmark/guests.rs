//! The guests that measure.

use anyhow::Result;

use super::{DRIVER, Session};
use crate::dom0::guests::{Domain, example_without};

impl Session<'_> {
    /// A running guest without devices, with these lines in its configuration. Its calls to the backend about interrupts are traced.
    pub(super) fn measured_guest(&mut self, name: &str, lines: &str) -> Result<Domain> {
        let config = guest_config(name, lines)?;
        let guest = self.fixture.create_paused(name, &config)?;
        self.fixture.unpause(&guest)?;
        self.trace_interrupts(&guest)?;
        Ok(guest)
    }
}

/// The configuration of a guest.
pub(super) fn guest_config(name: &str, lines: &str) -> Result<String> {
    let example = example_without(&[])?;
    // What comes later counts.
    Ok(format!(
        "{example}name = \"{name}\"\nextra = \"console=hvc0 iommu=soft quiet loglevel=5 bench.load=xen-pcifront,{DRIVER}\"\n\
         on_reboot = \"destroy\"\non_crash = \"destroy\"\n{lines}"
    ))
}
