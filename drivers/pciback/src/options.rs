//! What the stub's command line decides.

use xen_types::DomId;

use crate::topology::ExportMode;

/// Options from the stub's command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Export mode.
    pub export: ExportMode,
    /// Configuration writes go to the hardware by ourselves, on hosts that allow it; the broker only sets up interrupts.
    pub is_direct: bool,
    /// Our own domain, as far as it is known: what FreeBSD takes for the segment of our buses (docs/protocol.md §7).
    pub domain: Option<DomId>,
}
