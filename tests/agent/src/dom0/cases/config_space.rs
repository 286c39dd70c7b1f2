//! Configuration space as the guest reads it, compared with what dom0 reads from the same function.
//!
//! Everything is equal except the fields listed in [`virtualised`], each with the value that the policy gives it
//! (docs/protocol.md §6.1 to §6.4).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::{Case, one_guest};
use crate::dom0::{
    devices::{ALL, E1000, EDU, NVME, attribute, config, sysfs},
    fixture::Fixture,
};

pub(super) const CASES: &[Case] = &[
    Case::new("config_space_of_a_conventional_device_equals_dom0s", |fixture| equals_dom0s(fixture, E1000, 256)),
    Case::new("config_space_of_a_device_with_msi_equals_dom0s", |fixture| equals_dom0s(fixture, EDU, 256)),
    Case::new("config_space_of_a_pci_express_device_equals_dom0s", |fixture| equals_dom0s(fixture, NVME, 4096)),
    Case::new("reads_beyond_a_functions_own_are_all_ones", nobody_else),
];

fn equals_dom0s(fixture: &mut Fixture, device: &str, length: usize) -> Result<()> {
    let guest = one_guest::guest(fixture)?;
    let real = config(device)?;
    let address = fixture.virtual_address(&guest, device)?;
    let seen = fixture.in_guest(&guest, &format!("cat {}/config", sysfs(&address)))?;
    ensure!(real.len() == length && seen.len() == length, "dom0 has {} bytes, the guest {}", real.len(), seen.len());
    let virtualised = virtualised(device, &real)?;
    let mut wrong = Vec::new();
    for (index, (seen, real)) in seen.chunks_exact(4).zip(real.chunks_exact(4)).enumerate() {
        let (seen, real) = (u32::from_le_bytes(seen.try_into()?), u32::from_le_bytes(real.try_into()?));
        let expected = virtualised.get(&(index * 4)).map_or(real, |&(mask, value)| real & !mask | value & mask);
        if seen != expected {
            wrong.push(format!("{:#05x}: {seen:08x}, not {expected:08x} (dom0 reads {real:08x})", index * 4));
        }
    }
    ensure!(wrong.is_empty(), "{} of {}: {}", wrong.len(), length / 4, wrong.join("; "));
    Ok(())
}

/// Offset of a dword → (which of its bits are not the hardware's, what they are).
fn virtualised(device: &str, real: &[u8]) -> Result<BTreeMap<usize, (u32, u32)>> {
    let mut fields = BTreeMap::new();
    // Command: of a guest that has not enabled anything yet, memory and port decoding, parity, SERR# and INTx disable read 0,
    // whatever the hardware has; the rest is the hardware's. Bits 15:11 are reserved and zero.
    fields.insert(0x04, (0xffff & !0x02bc, 0));
    // The ROM's enable bit: guests cannot set it, and dom0 leaves ROMs off.
    fields.insert(0x30, (0x0000_07ff, 0));
    // Interrupt Line: the GSI, where the hardware has what firmware put there.
    fields.insert(0x3c, (0xff, attribute(device, "irq")?.parse()?));
    // Power management: no PME# from any state.
    if let Some(at) = capability(real, 0x01)? {
        fields.insert(at, (0xf800_0000, 0));
    }
    // PCI Express: a function level reset where dom0's kernel would use it.
    let resets = attribute(device, "reset_method").unwrap_or_default();
    if let Some(at) = capability(real, 0x10)?.filter(|_| !resets.split(' ').any(|method| method == "flr")) {
        fields.insert(at + 4, (1 << 28, 0));
    }
    Ok(fields)
}

/// The offset of a capability.
pub(super) fn capability(config: &[u8], id: u8) -> Result<Option<usize>> {
    let byte = |at: usize| config.get(at).copied().context("a capability outside of configuration space");
    let mut at = usize::from(byte(0x34)? & 0xfc);
    for _ in 0..48 {
        if at == 0 || byte(at)? == id {
            break;
        }
        at = usize::from(byte(at + 1)? & 0xfc);
    }
    Ok((at != 0).then_some(at))
}

/// Looking for devices again, the guest's kernel reads the ids of every function that its bus can have; it must not find any
/// beyond its own.
fn nobody_else(fixture: &mut Fixture) -> Result<()> {
    let guest = one_guest::guest(fixture)?;
    fixture.in_guest(&guest, "echo 1 >/sys/bus/pci/rescan")?;
    let found = fixture.addresses_in(&guest)?;
    ensure!(found.len() == ALL.len(), "after a rescan the guest has {found:?}");
    Ok(())
}
