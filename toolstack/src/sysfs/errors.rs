//! Errors that a device has reported (Advanced Error Reporting, PCIe 5.0 §6.2), as dom0's kernel counts them since it knows the device
//! (`Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats` in Linux).

use std::fmt;
use std::fs;

use serde::Serialize;
use xen_types::Sbdf;

use super::Sysfs;

/// The attributes, with the words for people.
const ATTRIBUTES: [(&str, &str); 3] =
    [("aer_dev_fatal", "fatal"), ("aer_dev_nonfatal", "non-fatal"), ("aer_dev_correctable", "correctable")];

/// How many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorCounters {
    pub(crate) correctable: u64,
    pub(crate) nonfatal: u64,
    pub(crate) fatal: u64,
    /// Each that there was: `fatal MalfTLP 2`, the gravest first, by the kernel's names.
    pub(crate) errors: Vec<String>,
}

impl ErrorCounters {
    /// Whether there was one at all.
    pub(crate) fn is_clean(&self) -> bool {
        (self.correctable, self.nonfatal, self.fatal) == (0, 0, 0)
    }
}

/// For people: `1 fatal, 3 correctable (fatal MalfTLP 1, correctable BadTLP 3)`.
impl fmt::Display for ErrorCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [self.fatal, self.nonfatal, self.correctable].into_iter().zip(ATTRIBUTES);
        let counts = counts.filter(|(count, _)| *count != 0).map(|(count, (_, word))| format!("{count} {word}"));
        f.write_str(&counts.collect::<Vec<_>>().join(", "))?;
        if self.errors.is_empty() { Ok(()) } else { write!(f, " ({})", self.errors.join(", ")) }
    }
}

impl Sysfs {
    /// What the device has reported; `None` where it, or dom0's kernel, reports no errors.
    pub(crate) fn error_counters(&self, device: Sbdf) -> Option<ErrorCounters> {
        let dir = self.device_dir(device);
        let mut errors = Vec::new();
        let mut count = |(attribute, word): (&str, &str)| {
            let text = fs::read_to_string(dir.join(attribute)).ok()?;
            let mut total = 0_u64;
            for (name, number) in text.lines().filter_map(|line| line.rsplit_once(' ')) {
                let number: u64 = number.parse().ok()?;
                // The last line is the sum.
                if !name.starts_with("TOTAL_ERR") && number != 0 {
                    total = total.saturating_add(number);
                    errors.push(format!("{word} {name} {number}"));
                }
            }
            Some(total)
        };
        let [fatal, nonfatal, correctable] = ATTRIBUTES.map(&mut count);
        Some(ErrorCounters { correctable: correctable?, nonfatal: nonfatal?, fatal: fatal?, errors })
    }
}

#[cfg(test)]
mod tests {
    use crate::fake::{EDU, Machine, NVME, device};

    #[test]
    fn counters_are_read_as_the_kernel_writes_them() {
        let machine = Machine::new();
        let put = |attribute: &str, text: &str| machine.tree.write(format!("bus/pci/devices/{NVME}/{attribute}"), text);
        let read = || machine.host.sysfs.error_counters(device(NVME));
        assert_eq!(read(), None);
        put("aer_dev_correctable", "RxErr 0\nBadTLP 3\nBadDLLP 1\nTOTAL_ERR_COR 4\n");
        put("aer_dev_nonfatal", "Undefined 0\nDLP 0\nTOTAL_ERR_NONFATAL 0\n");
        put("aer_dev_fatal", "Undefined 0\nMalfTLP 2\nTOTAL_ERR_FATAL 2\n");
        let counters = read().unwrap();
        assert_eq!((counters.correctable, counters.nonfatal, counters.fatal), (4, 0, 2));
        assert_eq!(
            counters.to_string(),
            "2 fatal, 4 correctable (fatal MalfTLP 2, correctable BadTLP 3, correctable BadDLLP 1)"
        );
        put("aer_dev_fatal", "MalfTLP many\n");
        assert_eq!(read(), None, "nonsense");
        assert_eq!(machine.host.sysfs.error_counters(device(EDU)), None);
    }
}
