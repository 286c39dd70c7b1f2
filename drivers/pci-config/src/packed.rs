//! The table as it is looked things up in: made at compile time from that of `table/`, without names and without lines that say no
//! more than their block does.

use crate::register::{Block, Length, Place, Read, Rest, Row, Write, field_mask};
use crate::table::BLOCKS;

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// From the start of its block.
    pub(crate) at: u8,
    pub(crate) bytes: u8,
    pub(crate) read: Read,
    pub(crate) write: Write,
    pub(crate) permissive: u32,
}

impl Line {
    /// The bits of its dword that are this register.
    pub(crate) const fn mask(&self) -> u32 {
        field_mask(self.at, self.bytes)
    }

    /// How far it is shifted in its dword, in bits.
    pub(crate) const fn shift(&self) -> u32 {
        (self.at % 4) as u32 * 8
    }
}

/// What a dword is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u8);

impl Slot {
    /// In no capability, or of one that is a guest's own where the device is permissive.
    pub(crate) const OPEN: Self = Self(0xff);
    /// Of a capability that is not a guest's.
    pub(crate) const LOCKED: Self = Self(0xfe);
    /// Of a capability that a guest does not see: reads 0.
    pub(crate) const HIDDEN: Self = Self(0xfd);
    /// The header of a capability that is in no table.
    pub(crate) const UNKNOWN: Self = Self(0);

    /// The lines of the dword; none where there is nothing to say about single registers.
    pub(crate) fn lines(self) -> &'static [Line] {
        let rest = LINES.get(usize::from(self.0)..).unwrap_or(&[]);
        let is_of_one = |pair: &&[Line]| matches!(pair, [one, two] if two.at > one.at && two.at / 4 == one.at / 4);
        let more = rest.windows(2).take_while(is_of_one).count();
        rest.get(..=more).unwrap_or(&[])
    }
}

/// A block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// The id, with [`IS_EXTENDED`].
    id: u16,
    first: u8,
    end: u8,
    /// How many dwords, or one of the values below.
    dwords: u8,
    is_open: bool,
}

const IS_EXTENDED: u16 = 0x8000;
const CONTROL: u8 = 0xff;
pub(crate) const TO_NEXT: u8 = 0xfe;

/// What is known about a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known(&'static Entry);

/// The capability's entry in the table.
pub(crate) fn find(is_extended: bool, id: u16) -> Option<Known> {
    let id = if is_extended { id | IS_EXTENDED } else { id };
    INDEX.iter().find(|entry| entry.id == id).map(Known)
}

impl Known {
    /// Its length in dwords, [`TO_NEXT`] where that is not fixed. `header` is its first dword.
    pub(crate) const fn dwords(self, header: u32) -> u8 {
        let control = header >> 16;
        match (self.0.dwords, self.0.id) {
            // MSI: 10 bytes, 4 more with 64 bits of address, 10 more with masks (PCI 3.0 §6.8.1, figure 6-9).
            (CONTROL, 0x05) => 3 + (control >> 7 & 1) as u8 + (control >> 8 & 1) as u8 * 2,
            // PCI Express: an endpoint's first version ends with its link, the second has everything (PCIe 5.0 §7.5.3).
            (CONTROL, _) => {
                if control & 0xf < 2 {
                    5
                } else {
                    15
                }
            }
            (dwords, _) => dwords,
        }
    }

    /// What its dwords are.
    pub(crate) fn slot(self, dword: u8) -> Slot {
        let lines = LINES.iter().zip(0..).take(self.0.end.into()).skip(self.0.first.into());
        let found = lines.into_iter().find(|(line, _)| line.at / 4 == dword).map(|(_, at)| Slot(at));
        found.unwrap_or(if self.0.is_open { Slot::OPEN } else { Slot::LOCKED })
    }
}

/// The header of a capability that is in no table: as a vendor's own.
const UNKNOWN: [Line; 2] = [
    Line { at: 0, bytes: 2, read: Read::Copy, write: Write::Drop, permissive: 0 },
    Line { at: 2, bytes: 2, read: Read::Device, write: Write::Drop, permissive: 0xffff },
];

/// True where a line says more than its block.
const fn says_something(block: &Block, line: &Row) -> bool {
    let is_open = matches!(block.rest, Rest::Open);
    is_open || !matches!(line.read, Read::Device) || !matches!(line.write, Write::Drop) || line.permissive != 0
}

/// True where a block says more than that nothing of it is a guest's, which goes for every extended capability without one.
const fn counts(block: &Block) -> bool {
    match block.place {
        Place::Header(_) => false,
        Place::Capability(_) => true,
        Place::Extended(_) => matches!(block.rest, Rest::Open) || !matches!(block.length, Length::ToNext),
    }
}

const fn sizes() -> (usize, usize) {
    let (mut lines, mut blocks, mut group) = (UNKNOWN.len(), 0, 0);
    while group < BLOCKS.len() {
        let mut at = 0;
        while at < BLOCKS[group].len() {
            let block = &BLOCKS[group][at];
            blocks += counts(block) as usize;
            let mut line = 0;
            while line < block.registers.len() {
                lines += says_something(block, &block.registers[line]) as usize;
                line += 1;
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
    headers: [[Slot; HEADER_DWORDS]; 2],
}

/// The number of a line: below those of the special slots.
#[expect(clippy::cast_possible_truncation, reason = "checked")]
const fn small(number: usize) -> u8 {
    assert!(number < Slot::HIDDEN.0 as usize);
    number as u8
}

const TABLE: Table = {
    let nothing = Entry { id: 0, first: 0, end: 0, dwords: 0, is_open: false };
    let mut table =
        Table { lines: [UNKNOWN[0]; SIZES.0], index: [nothing; SIZES.1], headers: [[Slot::LOCKED; HEADER_DWORDS]; 2] };
    table.lines[1] = UNKNOWN[1];
    let (mut lines, mut blocks, mut group) = (UNKNOWN.len(), 0, 0);
    while group < BLOCKS.len() {
        let mut at = 0;
        while at < BLOCKS[group].len() {
            let block = &BLOCKS[group][at];
            let first = lines;
            let mut line = 0;
            while line < block.registers.len() {
                let register = &block.registers[line];
                if says_something(block, register) {
                    let Row { at, bytes, read, write, permissive, .. } = *register;
                    table.lines[lines] = Line { at, bytes, read, write, permissive };
                    if let Place::Header(kind) = block.place {
                        let slot = &mut table.headers[kind as usize][at as usize / 4];
                        if matches!(*slot, Slot::LOCKED) {
                            *slot = Slot(small(lines));
                        }
                    }
                    lines += 1;
                }
                line += 1;
            }
            let id = match block.place {
                Place::Header(_) => 0,
                Place::Capability(id) => id as u16,
                Place::Extended(id) => id | IS_EXTENDED,
            };
            let dwords = match block.length {
                Length::Dwords(dwords) => dwords,
                Length::Control => CONTROL,
                Length::ToNext => TO_NEXT,
            };
            if counts(block) {
                let is_open = matches!(block.rest, Rest::Open);
                table.index[blocks] = Entry { id, first: small(first), end: small(lines), dwords, is_open };
                blocks += 1;
            }
            at += 1;
        }
        group += 1;
    }
    table
};

static LINES: [Line; SIZES.0] = TABLE.lines;
static INDEX: [Entry; SIZES.1] = TABLE.index;
static HEADERS: [[Slot; HEADER_DWORDS]; 2] = TABLE.headers;

/// What the dwords of a header are. Types that there are no lines for are taken for endpoints'.
pub(crate) fn header(is_bridge: bool) -> &'static [Slot; HEADER_DWORDS] {
    let [endpoint, bridge] = &HEADERS;
    if is_bridge { bridge } else { endpoint }
}
