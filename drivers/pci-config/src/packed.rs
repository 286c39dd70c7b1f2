//! The part of the table that every access needs, as the driver domain carries it: made at compile time from `table/`, without names and
//! without what may be written by some only (`writable_mask.rs`).

use crate::register::{Place, Read, Row, Write, field_mask};
use crate::table::BLOCKS;

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// From the start of its block.
    pub(crate) at: u8,
    pub(crate) bytes: u8,
    pub(crate) read: Read,
    pub(crate) write: Write,
}

impl Line {
    /// The bits of its dword that are this register.
    pub(crate) const fn mask(&self) -> u32 {
        field_mask(self.at, self.bytes)
    }

    /// Its offset in its dword, in bits.
    pub(crate) const fn shift(&self) -> u32 {
        (self.at % 4) as u32 * 8
    }
}

/// Class of a dword: the number of its first row, or one behind all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u8);

impl Slot {
    /// Nothing is ours and nothing is written.
    pub(crate) const RAW: Self = Self(small(SIZES.0));
    /// Of a capability that a guest does not see: reads 0.
    pub(crate) const HIDDEN: Self = Self(small(SIZES.0 + 1));

    /// The bits of the dword that are answered from our copy.
    #[inline(always)] // a part of each read
    pub(crate) fn own(self) -> u32 {
        OWN.get(usize::from(self.0)).copied().unwrap_or(0)
    }

    /// The lines of the dword; none where there is nothing to say about single registers.
    pub(crate) fn lines(self) -> &'static [Line] {
        let rest = LINES.get(usize::from(self.0)..).unwrap_or(&[]);
        let is_of_one = |pair: &&[Line]| matches!(pair, [one, two] if two.at > one.at && two.at / 4 == one.at / 4);
        let more = rest.windows(2).take_while(is_of_one).count();
        rest.get(..=more).unwrap_or(&[])
    }
}

/// A conventional capability with lines of its own, which are one after the other and say something about each of its first dwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: u8,
    /// Its first line.
    first: u8,
    /// Behind the last one.
    end: u8,
}

/// Classes of a capability's dwords, from its first on; at least that one.
pub(crate) fn capability(id: u16) -> impl Iterator<Item = Slot> {
    let (mut at, end) =
        INDEX.iter().find(|entry| u16::from(entry.id) == id).map_or((0, 1), |entry| (entry.first, entry.end));
    core::iter::from_fn(move || {
        let slot = Slot(at);
        at = at.saturating_add(u8::try_from(slot.lines().len()).unwrap_or(1));
        (slot.0 < end).then_some(slot)
    })
}

/// The header of a capability that has no lines of its own: the very first line.
const HEADER_LINE: Line = Line { at: 0, bytes: 2, read: Read::Copy, write: Write::Drop };

/// True where a line says more than that the device answers and nothing is written.
const fn says_something(line: &Row) -> bool {
    !matches!((line.read, line.write), (Read::Device, Write::Drop | Write::DropStatus))
}

/// True where a block has lines besides its header.
const fn counts(place: Place, rows: &[Row]) -> bool {
    // Bridges are not assigned, and nothing of an extended capability is ours but its header.
    if !matches!(place, Place::Header(0) | Place::Capability(_)) {
        return false;
    }
    let mut at = 0;
    while at < rows.len() {
        let is_header = rows[at].at == 0 && matches!(rows[at].write, Write::Drop);
        if says_something(&rows[at]) && !is_header {
            return true;
        }
        at += 1;
    }
    false
}

const fn sizes() -> (usize, usize) {
    let (mut lines, mut blocks, mut group) = (1, 0, 0);
    while group < BLOCKS.len() {
        let mut at = 0;
        while at < BLOCKS[group].len() {
            let block = &BLOCKS[group][at];
            if counts(block.place, block.registers) {
                blocks += matches!(block.place, Place::Capability(_)) as usize;
                let mut row = 0;
                while row < block.registers.len() {
                    lines += says_something(&block.registers[row]) as usize;
                    row += 1;
                }
            }
            at += 1;
        }
        group += 1;
    }
    (lines, blocks)
}

const SIZES: (usize, usize) = sizes();
const HEADER_DWORDS: usize = 16;

struct Table {
    lines: [Line; SIZES.0],
    index: [Entry; SIZES.1],
    header: [Slot; HEADER_DWORDS],
}

#[expect(clippy::cast_possible_truncation, reason = "checked")]
const fn small(number: usize) -> u8 {
    assert!(number <= u8::MAX as usize);
    number as u8
}

const TABLE: Table = {
    let nothing = Entry { id: 0, first: 0, end: 0 };
    let mut table =
        Table { lines: [HEADER_LINE; SIZES.0], index: [nothing; SIZES.1], header: [Slot::RAW; HEADER_DWORDS] };
    let (mut lines, mut blocks, mut group) = (1, 0, 0);
    while group < BLOCKS.len() {
        let mut number = 0;
        while number < BLOCKS[group].len() {
            let block = &BLOCKS[group][number];
            number += 1;
            if !counts(block.place, block.registers) {
                continue;
            }
            let first = lines;
            let mut row = 0;
            while row < block.registers.len() {
                let Row { at, bytes, read, write, .. } = block.registers[row];
                if says_something(&block.registers[row]) {
                    table.lines[lines] = Line { at, bytes, read, write };
                    if let Place::Header(_) = block.place {
                        let slot = &mut table.header[at as usize / 4];
                        if matches!(*slot, Slot::RAW) {
                            *slot = Slot(small(lines));
                        }
                    }
                    lines += 1;
                }
                row += 1;
            }
            if let Place::Capability(id) = block.place {
                table.index[blocks] = Entry { id, first: small(first), end: small(lines) };
                blocks += 1;
            }
        }
        group += 1;
    }
    table
};

static LINES: [Line; SIZES.0] = TABLE.lines;
/// Virtual bits of the dword that begins with each row, and of the two special ones.
static OWN: [u32; SIZES.0 + 2] = {
    let mut own = [0; SIZES.0 + 2];
    own[Slot::HIDDEN.0 as usize] = u32::MAX;
    let mut first = 0;
    while first < SIZES.0 {
        let mut line = first;
        loop {
            let Line { at, read, .. } = TABLE.lines[line];
            own[first] |= read.own() << TABLE.lines[line].shift() & TABLE.lines[line].mask();
            line += 1;
            // As in `Slot::lines`.
            if line == SIZES.0 || TABLE.lines[line].at <= at || TABLE.lines[line].at / 4 != at / 4 {
                break;
            }
        }
        first += 1;
    }
    own
};
static INDEX: [Entry; SIZES.1] = TABLE.index;
/// Classes of the dwords of an endpoint's header.
pub(crate) static HEADER: [Slot; HEADER_DWORDS] = TABLE.header;
