//! Xen's own view of interrupts: debug key `i` (`dump_irqs`, `xen/arch/x86/irq.c`).

use anyhow::Result;

use super::{fixture::Fixture, snapshot::debug_key};

/// The interrupts that exist, one a line.
pub(crate) struct Irqs(Vec<String>);

impl Irqs {
    /// Asks Xen.
    pub(crate) fn now(fixture: &Fixture) -> Result<Self> {
        Ok(Self(debug_key(fixture, "i")?.into_iter().filter(|line| line.starts_with("IRQ:")).collect()))
    }

    /// The pirqs that a domain has bound to event channels.
    pub(crate) fn bound_to(&self, domain: u16) -> Vec<u32> {
        // … in-flight=0 d9: 53(---),d0: 20(-P-)
        let owner = format!("d{domain}:");
        let pirqs = self.0.iter().flat_map(|line| {
            line.split([' ', ','])
                .zip(line.split([' ', ',']).skip(1))
                .filter(|(word, _)| *word == owner)
                .map(|(_, number)| number)
        });
        pirqs.filter_map(|number| number.split('(').next()?.parse().ok()).collect()
    }

    /// Message interrupts, whoever has them: how many are bound, how many only mapped.
    pub(crate) fn messages(&self) -> (usize, usize) {
        let of = |bound: bool| {
            self.0.iter().filter(|line| line.contains("PCI-MSI") && line.contains("unbound") != bound).count()
        };
        (of(true), of(false))
    }
}
