//! Denied-write counters of a function (`pcidom show`).

/// Offsets that are told apart. A driver that needs what it cannot have writes to one or two, over and over.
const PLACES: usize = 6;
/// Stands for all others: no register is there.
const OTHERS: u16 = 0x1000;

/// Writes of one function's guest that the policy or the broker refused, or that reached nothing, by their offsets.
#[derive(Clone, Debug)]
pub(crate) struct DeniedWrites([(u16, u32); PLACES + 1]);

impl DeniedWrites {
    /// None.
    pub(crate) const NONE: Self = Self([(OTHERS, 0); PLACES + 1]);

    /// One more, at an offset that a write has.
    pub(crate) fn note(&mut self, offset: i32) {
        let offset = u16::try_from(offset).unwrap_or(OTHERS);
        let [places @ .., others] = &mut self.0;
        let place = match places.iter_mut().find(|place| place.1 == 0 || place.0 == offset) {
            Some(place) => {
                place.0 = offset;
                place
            }
            None => others,
        };
        place.1 = place.1.saturating_add(1);
    }

    /// Offsets and how often, in the order of the first time; 0x1000 for all that found no room.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(u16, u32)> {
        self.0.iter().filter(|place| place.1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_counted_and_what_finds_no_room_together() {
        let mut denied_writes = DeniedWrites::NONE;
        assert_eq!(denied_writes.iter().count(), 0);
        for offset in [0x40, 0, 0x44, 0x40, 0xffc, 0x10, 0x14, 0x18, 0x18, 0x1c, 0x40] {
            denied_writes.note(offset);
        }
        let all: Vec<_> = denied_writes.iter().copied().collect();
        assert_eq!(all, [(0x40, 3), (0, 1), (0x44, 1), (0xffc, 1), (0x10, 1), (0x14, 1), (OTHERS, 3)]);
    }

    #[test]
    fn a_guest_that_never_stops_is_counted_to_the_end() {
        let mut denied_writes = DeniedWrites([(4, u32::MAX); PLACES + 1]);
        denied_writes.note(4);
        assert_eq!(denied_writes.iter().next(), Some(&(4, u32::MAX)));
    }
}
