//! Memory that firmware reserved for a device's own DMA: the RMRRs of the ACPI table DMAR.

use xen_types::Sbdf;

/// The table's header and what stands before the first structure (Intel VT-d 4.1 §8.1).
const HEADER_BYTES: usize = 48;
/// The type of a Reserved Memory Region Reporting structure (§8.4), and where its list of devices begins.
const RMRR: u16 = 1;
const SCOPES: usize = 24;
/// A device that is an endpoint (§8.3.1), and where its path of (device, function) begins.
const ENDPOINT: u8 = 1;
const PATH: usize = 6;

/// Whether the table reserves memory for the device. `secondary` says which bus is behind a bridge.
pub(super) fn is_reserved_for(table: &[u8], device: Sbdf, secondary: impl Fn(Sbdf) -> Option<u8>) -> bool {
    structures(table.get(HEADER_BYTES..).unwrap_or_default(), 2)
        .filter(|structure| word(structure, 0) == Some(RMRR))
        .filter(|structure| word(structure, 6) == Some(device.segment()))
        .flat_map(|structure| structures(structure.get(SCOPES..).unwrap_or_default(), 1))
        .filter(|scope| scope.first() == Some(&ENDPOINT))
        .any(|scope| endpoint(scope, device.segment(), &secondary) == Some(device))
}

/// Structures one after the other, whose length stands at `length_at` in a byte (where that is 1) or a word.
fn structures(mut bytes: &[u8], length_at: usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = match length_at {
            1 => usize::from(*bytes.get(1)?),
            _ => usize::from(word(bytes, length_at)?),
        };
        let (structure, rest) = bytes.split_at_checked(length).filter(|_| length > length_at)?;
        bytes = rest;
        Some(structure)
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The function at the end of a path from a host bridge's bus.
fn endpoint(scope: &[u8], segment: u16, secondary: impl Fn(Sbdf) -> Option<u8>) -> Option<Sbdf> {
    let mut bus = *scope.get(5)?;
    let mut path = scope.get(PATH..)?.chunks_exact(2).peekable();
    loop {
        let step = path.next()?;
        let function = Sbdf::new(segment, bus, *step.first()?, *step.get(1)?)?;
        if path.peek().is_none() {
            return Some(function);
        }
        bus = secondary(function)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with one structure that names these paths.
    fn table(kind: u16, segment: u16, paths: &[(u8, &[u8])]) -> Vec<u8> {
        let scopes = paths.iter().flat_map(|(bus, path)| {
            let length = u8::try_from(PATH + path.len()).unwrap();
            [&[ENDPOINT, length, 0, 0, 0, *bus], *path].concat()
        });
        let scopes: Vec<u8> = scopes.collect();
        let mut table = vec![0; HEADER_BYTES];
        table.extend(kind.to_le_bytes());
        table.extend(u16::try_from(SCOPES + scopes.len()).unwrap().to_le_bytes());
        table.extend([0, 0]);
        table.extend(segment.to_le_bytes());
        table.extend([0; 16]);
        table.extend(scopes);
        table
    }

    fn is_reserved(table: &[u8], device: &str) -> bool {
        let secondary = |bridge: Sbdf| (bridge == "00:1c.0".parse().unwrap()).then_some(3);
        is_reserved_for(table, device.parse().unwrap(), secondary)
    }

    #[test]
    fn devices_are_found_directly_and_behind_bridges() {
        let table = table(RMRR, 0, &[(0, &[0x1d, 0]), (0, &[0x1c, 0, 0, 1])]);
        for (device, want) in [("00:1d.0", true), ("03:00.1", true), ("00:1d.1", false), ("03:00.0", false)] {
            assert_eq!(is_reserved(&table, device), want, "{device}");
        }
        assert!(!is_reserved(&table, "0001:00:1d.0"));
    }

    #[test]
    fn other_structures_and_cut_tables_reserve_nothing() {
        assert!(!is_reserved(&table(0, 0, &[(0, &[0x1d, 0])]), "00:1d.0"));
        let whole = table(RMRR, 0, &[(0, &[0x1d, 0])]);
        for length in 0..whole.len() {
            assert!(!is_reserved(&whole[..length], "00:1d.0"), "{length}");
        }
        let mut endless = whole.clone();
        endless[HEADER_BYTES + 2..HEADER_BYTES + 4].fill(0);
        assert!(!is_reserved(&endless, "00:1d.0"));
    }
}
