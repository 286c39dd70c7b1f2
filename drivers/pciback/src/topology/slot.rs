//! The `slot` mode: every function is function 0 of a slot of its own (docs/protocol.md §5.2).
//!
//! For guests that look at function 0 only, and for admins who do not want functions of one device to be seen as such. A bus is
//! begun when every slot of those before is taken, so the toolstack knows how many there can be. Linux' old mode of this name had
//! two buses and told guests of the first only.

use xen_types::Sbdf;

use super::entry::Entry;

/// Slots on a bus.
const SLOTS: u16 = 32;
/// The same, for counting devices.
pub(super) const SLOTS_PER_BUS: usize = SLOTS as usize;

/// Chooses the address of a new function: the wanted slot on the first bus in use where it is free, else the first free slot.
pub(super) fn place(entries: &[Entry], wanted_slot: Option<u8>) -> Option<Sbdf> {
    let last_bus = entries.last().map_or(0, |entry| entry.address.bus());
    let mut taken = entries.iter().peekable();
    let mut first = None;
    // Up to the first slot of the bus that would be next.
    for place in 0..=(u16::from(last_bus) + 1) * SLOTS {
        let (Ok(bus), Ok(slot)) = (u8::try_from(place / SLOTS), u8::try_from(place % SLOTS)) else { break };
        let address = Sbdf::from_devfn(0, bus, slot << 3);
        if taken.next_if(|entry| entry.address == address).is_some() {
            continue;
        }
        if wanted_slot == Some(slot) && bus <= last_bus {
            return Some(address);
        }
        first = first.or(Some(address));
    }
    first
}
