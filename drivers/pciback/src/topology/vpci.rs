//! The `vpci` mode: one invented bus (docs/protocol.md §5.1, which is Linux xen-pciback since 2021).

use xen_types::Sbdf;

use super::entry::{Entry, Traits};

/// Virtual segment of every function.
const SEGMENT: u16 = 0;
/// Virtual bus of every function.
const BUS: u8 = 0;
/// Slots on a bus.
const SLOTS: u8 = 32;

/// Chooses the address of a new function; `None` where no slot is left.
///
/// A function joins the first slot that holds functions of its own physical slot, else it takes the first empty one. A
/// virtual function whose number is 0 always stays alone: SR-IOV numbers its functions over many physical slots, and Linux
/// gives each of those function zeros a slot of its own. Function numbers are never changed, and cannot collide: mates come
/// from one physical slot.
pub(super) fn place(entries: &[Entry], physical: Sbdf, traits: Traits, wanted_slot: Option<u8>) -> Option<Sbdf> {
    let suits = |slot: u8| slot < SLOTS && (is_empty(entries, slot) || holds_mates(entries, slot, physical, traits));
    let slot = wanted_slot
        .filter(|slot| suits(*slot))
        .or_else(|| (0..SLOTS).find(|slot| holds_mates(entries, *slot, physical, traits)))
        .or_else(|| (0..SLOTS).find(|slot| is_empty(entries, *slot)))?;
    Sbdf::new(SEGMENT, BUS, slot, physical.function())
}

fn in_slot(entries: &[Entry], slot: u8) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(move |entry| entry.address.device() == slot)
}

fn is_empty(entries: &[Entry], slot: u8) -> bool {
    in_slot(entries, slot).next().is_none()
}

/// True where the functions in `slot` are of the same physical slot and may be joined. One that was taken by force is not joined.
fn holds_mates(entries: &[Entry], slot: u8, physical: Sbdf, traits: Traits) -> bool {
    let is_mate = |mate: &Entry| mate.physical.same_slot(physical) && !stays_alone(mate.physical, mate.traits);
    !stays_alone(physical, traits) && !is_empty(entries, slot) && in_slot(entries, slot).all(is_mate)
}

fn stays_alone(physical: Sbdf, traits: Traits) -> bool {
    traits.is_virtual_function && physical.function() == 0
}
