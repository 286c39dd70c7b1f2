//! Xen's own view of interrupts: debug key `i` (`dump_irqs`, `xen/arch/x86/irq.c`).

use anyhow::{Result, bail};

use super::{fixture::Fixture, snapshot::debug_key};

/// How often Xen is asked for a list that is whole.
const TRIES: u32 = 3;

/// The interrupts that exist, one a line.
pub(crate) struct Irqs(Vec<String>);

impl Irqs {
    /// Asks Xen, once more where it said something else in the middle of a line, which it prints in pieces.
    pub(crate) fn now(fixture: &Fixture) -> Result<Self> {
        for _ in 0..TRIES {
            let lines = debug_key(fixture, "i")?.into_iter().filter(|line| line.starts_with("IRQ:")).collect();
            let irqs = Self(lines);
            if irqs.is_whole() {
                return Ok(irqs);
            }
        }
        bail!("Xen's list of interrupts is never whole")
    }

    /// Whether each interrupt with owners has all of them: `in-flight=0 d9: 53(---),d0: 20(-P-)`.
    fn is_whole(&self) -> bool {
        self.0.iter().filter(|line| line.contains("in-flight=")).all(|line| line.ends_with(')'))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_broken_is_noticed() {
        const WHOLE: &str = "IRQ:  30 vec:91 PCI-MSI/-X status=030 aff:{0}/{0} in-flight=0 d9: 53(---),d0: 20(-P-)";
        let irqs = |line: &str| Irqs(vec![line.to_owned(), "IRQ:   2 vec:e2 XT-PIC status=000 mapped, unbound".into()]);
        assert!(irqs(WHOLE).is_whole());
        assert_eq!(irqs(WHOLE).bound_to(9), [53]);
        for broken in ["in-flight=0 d9: 53(---),", "in-flight=0"] {
            let end = WHOLE.find("in-flight").map_or("", |at| &WHOLE[..at]);
            assert!(!irqs(&format!("{end}{broken}")).is_whole(), "{broken}");
        }
    }
}
