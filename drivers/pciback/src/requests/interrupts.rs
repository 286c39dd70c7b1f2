//! MSI and MSI-X: all checks of a request that need no broker (docs/protocol.md §4.3).

use pciif::layout::{MAX_VECTORS, MsixEntry};
use pciif::{Command, Request};

use super::{AssignedFunction, BrokerRequest, Interrupts};
use crate::platform::ConfigSpace;

const _: () = assert!(MAX_VECTORS == pci_config::MAX_ENTRIES as usize);

/// The broker request that enables interrupts; `None` if the guest's request is invalid.
pub(super) fn enable(
    command: Command,
    request: &Request,
    function: &AssignedFunction,
    hw: &impl ConfigSpace,
) -> Option<BrokerRequest> {
    let is_off = function.interrupts == Interrupts::Off;
    match command {
        Command::EnableMsi => (is_off && function.config.msi_vectors(hw) > 0).then_some(BrokerRequest::EnableMsi(1)),
        Command::EnableMultiMsi => {
            let vectors = request.info;
            let can = is_off && vectors.is_power_of_two() && vectors <= function.config.msi_vectors(hw);
            can.then_some(BrokerRequest::EnableMsi(vectors))
        }
        // A second one replaces the first: Debian's frontend turns MSI off in between, and means MSI-X.
        Command::EnableMsix => {
            let can = function.interrupts != Interrupts::Msi
                && (1..=MAX_VECTORS).contains(&(request.value as usize))
                && function.config.msix_entries(hw) > 0;
            can.then_some(BrokerRequest::EnableMsix(request.value))
        }
        _ => None,
    }
}

/// True when each entry is one of the function's table, and none of them is there twice.
pub(crate) fn are_entries_valid(function: &AssignedFunction, hw: &impl ConfigSpace, entries: &[MsixEntry]) -> bool {
    if entries.is_empty() {
        return true;
    }
    let table = function.config.msix_entries(hw);
    let mut seen = [0u64; MAX_VECTORS / 64];
    entries.iter().all(|MsixEntry { entry, .. }| {
        let bit = 1 << (entry % 64);
        let word = seen.get_mut(usize::from(entry / 64));
        u32::from(*entry) < table
            && word.is_some_and(|word| {
                let is_new = *word & bit == 0;
                *word |= bit;
                is_new
            })
    })
}
