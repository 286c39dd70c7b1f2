//! Export modes: how virtual addresses of a guest's devices are chosen.

use core::fmt;
use core::str::FromStr;

/// The node in a guest's BE directory that says which mode was chosen for it; absent where the stub's own mode holds. libxl has no such node.
pub const EXPORT: &str = "export";

/// The word of `export=` on the stub's command line and of `pcidom attach`, of `data/pcidom/export`, and of [`EXPORT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ExportMode {
    /// One invented bus 0; functions of one physical slot stay together and keep their numbers.
    #[default]
    Vpci,
    /// Every function alone in a slot, as function 0, on as many invented buses as that takes.
    Slot,
    /// The real addresses.
    Passthrough,
}

impl ExportMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Vpci, Self::Slot, Self::Passthrough];

    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vpci => "vpci",
            Self::Slot => "slot",
            Self::Passthrough => "passthrough",
        }
    }
}

impl fmt::Display for ExportMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is no export mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an export mode")]
pub struct UnknownMode;

impl FromStr for ExportMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        // Written out: looking for the name takes a hundred bytes more in the stub.
        match text {
            "vpci" => Ok(Self::Vpci),
            "slot" => Ok(Self::Slot),
            "passthrough" => Ok(Self::Passthrough),
            _ => Err(UnknownMode),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_reads_back() {
        for (mode, text) in ExportMode::ALL.into_iter().zip(["vpci", "slot", "passthrough"]) {
            assert_eq!(mode.to_string(), text);
            assert_eq!(text.parse(), Ok(mode));
        }
        for text in ["", "VPCI", "vpci ", "bus"] {
            assert_eq!(text.parse::<ExportMode>(), Err(UnknownMode), "{text:?}");
        }
    }
}
