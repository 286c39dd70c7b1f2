//! The view of a function, over configuration spaces that are plain memory.

mod documents;
mod hostile;
mod inventory;
mod lists;
mod permitted_writes;
mod policy;
mod pristine;
mod sweep;
mod table;
mod vectors;

use pcidom_abi::{PermittedWrite, PermittedWrites, WriteKind};

use crate::fakes::{Known, Memory};
use crate::outcome::{HardwareWrite, Register};
use crate::view::VirtualConfig;

fn assign(known: &Known, memory: &Memory) -> VirtualConfig {
    VirtualConfig::new(&known.description(), memory)
}

/// What a request of the stub comes to by the broker's list: place, width, bits and value of each write. The broker's own judge is tested
/// in its crate, against the whole of this one.
fn carried_out(request: &HardwareWrite, list: &PermittedWrites) -> Vec<(u16, u8, u32, u32)> {
    let HardwareWrite { register, offset, width, mask, value } = *request;
    let of_kind = |is_open: bool| list.registers.iter().filter(move |write| (write.kind == WriteKind::Open) == is_open);
    if register != Register::Open {
        let is_it = |write: &&PermittedWrite| (write.offset, write.width) == (offset, width);
        let write = of_kind(false).find(is_it).filter(|write| mask & !write.mask == 0);
        return write.map(|_| (offset, width as u8, mask, value)).into_iter().collect();
    }
    let shift = |offset: u16| 8 * u32::from(offset % 4);
    let (in_dword, value) = (mask << shift(offset), value << shift(offset));
    let ranges = list.ranges.iter().filter(|range| range.contains(offset));
    let ranges = ranges.map(|range| (offset, width, range.mask >> shift(offset) & width.bits()));
    let quirks = of_kind(true).filter(|write| write.offset / 4 == offset / 4);
    let quirks = quirks.map(|write| (write.offset, write.width, write.mask));
    let permitted = ranges.chain(quirks).map(|(place, width, open)| {
        let mask = in_dword >> shift(place) & open;
        (place, width as u8, mask, value >> shift(place) & mask)
    });
    permitted.filter(|(.., mask, _)| *mask != 0).collect()
}
