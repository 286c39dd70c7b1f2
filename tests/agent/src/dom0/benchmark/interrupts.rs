//! How long it takes to turn interrupts on and off: the guest's own function tracer looks at its frontend's calls.

use anyhow::{Context, Result};

use super::Session;
use crate::dom0::guests::Domain;

const TRACING: &str = "/sys/kernel/tracing";

impl Session<'_> {
    /// Has the guest note how long each call for or against message interrupts takes.
    pub(super) fn trace_interrupts(&mut self, guest: &Domain) -> Result<()> {
        self.fixture.in_guest(
            guest,
            &format!(
                "mount -t tracefs tracefs {TRACING}; cd {TRACING} && \
                 echo 'pci_frontend_enable_msi*' >set_ftrace_filter && echo 'pci_frontend_disable_msi*' >>set_ftrace_filter && \
                 echo function_graph >current_tracer"
            ),
        )?;
        Ok(())
    }

    /// What the last attach brought: the driver turns MSI-X on with one vector, off, and on with as many as it wants. The first two are
    /// the pair. (Behind xen-pciback the second enable fails, because Debian's frontend names the wrong kind when it turns MSI-X off.)
    pub(super) fn measure_interrupts(&mut self, guest: &Domain) -> Result<()> {
        // The driver goes on in the background after it is bound.
        let wait =
            format!("for i in $(seq 100); do [ $(grep -c ' us ' {TRACING}/trace) -ge 3 ] && break; usleep 20000; done");
        let said = self.fixture.in_guest(guest, &format!("{wait}; cat {TRACING}/trace; echo >{TRACING}/trace"))?;
        let said = String::from_utf8_lossy(&said);
        let first = |what: &str| {
            let line = said.lines().find(|line| line.contains(what))?;
            // 0) # 1015.033 us |  pci_frontend_enable_msix [xen_pcifront]();
            line.split_once(" us ")?.0.rsplit(' ').next()?.parse::<f64>().ok()
        };
        let on = first("pci_frontend_enable_msix").with_context(|| format!("no MSI-X in {said:?}"))?;
        let off = first("pci_frontend_disable_msi").with_context(|| format!("no end of MSI-X in {said:?}"))?;
        self.sample("msix_enable", "us", on)?;
        self.sample("msix_pair", "us", on + off)
    }
}
