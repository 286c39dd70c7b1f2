//! The table in the documents is this one.

use std::fmt::Write as _;

use crate::inventory::Reason;
use crate::register::{Block, Place, Rest, Row, Write};
use crate::table::blocks;

const DOCUMENT: &str = include_str!("../../../../docs/config-space.md");

fn place(block: &Block, at: &str) -> String {
    match block.place {
        Place::Header(_) => format!("{at}h"),
        Place::Capability(_) | Place::Extended(_) => format!("`{}` + {at}h", block.name),
    }
}

fn hex(bits: u32, bytes: u8) -> String {
    if bits == 0 { "–".to_owned() } else { format!("{bits:0digits$x}h", digits = usize::from(bytes) * 2) }
}

fn line(block: &Block, row: &Row) -> Option<String> {
    // The six base address registers in one line.
    let name = match row.name {
        "Base Address 0" => "Base Address 0 to 5",
        name if name.starts_with("Base Address") => return None,
        name => name,
    };
    let any = row.write.device_bits();
    let more = row.permissive & !any | row.write.interrupt_bits();
    let is_told = row.write == Write::Base;
    let is_dropped = matches!(row.write, Write::Drop | Write::DropStatus);
    let what = if is_dropped { "dropped otherwise".to_owned() } else { Reason::Table(row.write).to_string() };
    let (place, bytes) = (place(block, &format!("{:02x}", row.at)), row.bytes);
    let source = row.source;
    (any | more != 0 || is_told).then(|| {
        format!("| {name} | {place} | {bytes} | {} | {} | {what} | {source} |", hex(any, bytes), hex(more, bytes))
    })
}

/// Every register of an endpoint of which something can reach the device, and what else drivers write.
fn table() -> String {
    let mut text = "| register | place | bytes | any guest | the admin may open | a write | source |\n|---|---|---|---|---|---|---|\n".to_owned();
    for block in blocks().filter(|block| block.place != Place::Header(1)) {
        for line in block.registers.iter().filter_map(|row| line(block, row)) {
            let _ = writeln!(text, "{line}");
        }
        if block.rest == Rest::Open {
            let _ = writeln!(text, "| the rest of `{}` | | | – | all | dropped otherwise | |", block.name);
        }
    }
    text
}

#[test]
fn the_document_has_the_table() {
    let table = table();
    assert!(DOCUMENT.contains(&table), "docs/config-space.md shall have this table:\n\n{table}");
}
