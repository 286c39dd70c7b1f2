//! The ELF notes that tell Xen's domain builder how to start an image (`xen/include/public/elfnote.h`).

use anyhow::{Context, Result, bail};
use object::{
    Endianness,
    elf::{FileHeader64, PT_NOTE},
    read::elf::{FileHeader, ProgramHeader},
};
use pcidom_abi::image as layout;

/// The names of `XEN_ELFNOTE_*`, by number.
const NAMES: [&str; 19] = [
    "INFO",
    "ENTRY",
    "HYPERCALL_PAGE",
    "VIRT_BASE",
    "PADDR_OFFSET",
    "XEN_VERSION",
    "GUEST_OS",
    "GUEST_VERSION",
    "LOADER",
    "PAE_MODE",
    "FEATURES",
    "BSD_SYMTAB",
    "HV_START_LOW",
    "L1_MFN_VALID",
    "SUSPEND_CANCEL",
    "INIT_P2M",
    "MOD_START_PFN",
    "SUPPORTED_FEATURES",
    "PHYS32_ENTRY",
];

/// A note's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Number(u64),
    Text(String),
}

/// The Xen notes of an image, in its order, by name.
pub(crate) fn read(image: &[u8]) -> Result<Vec<(&'static str, Value)>> {
    let header = FileHeader64::<Endianness>::parse(image)?;
    let endian = header.endian()?;
    let mut found = Vec::new();
    for segment in header.program_headers(endian, image)?.iter().filter(|segment| segment.p_type(endian) == PT_NOTE) {
        let Some(mut notes) = segment.notes(endian, image)? else { continue };
        while let Some(note) = notes.next()? {
            if note.name() != b"Xen" {
                continue;
            }
            let number = usize::try_from(note.n_type(endian).0)?;
            let name = NAMES.get(number).with_context(|| format!("a Xen note of the unknown type {number}"))?;
            found.push((*name, value(name, note.desc()).with_context(|| format!("note {name}"))?));
        }
    }
    Ok(found)
}

/// What the note says by which an image can take the place of another (`pcidom_abi::image`).
pub(crate) fn own(image: &[u8]) -> Result<Option<Vec<u8>>> {
    let header = FileHeader64::<Endianness>::parse(image)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, image)?.iter().filter(|segment| segment.p_type(endian) == PT_NOTE) {
        let Some(mut notes) = segment.notes(endian, image)? else { continue };
        while let Some(note) = notes.next()? {
            if note.name() == layout::NOTE_OWNER.strip_suffix(b"\0").unwrap_or_default()
                && note.n_type(endian).0 == layout::NOTE_TYPE
            {
                return Ok(Some(note.desc().to_vec()));
            }
        }
    }
    Ok(None)
}

fn value(name: &str, content: &[u8]) -> Result<Value> {
    if matches!(name, "XEN_VERSION" | "GUEST_OS" | "GUEST_VERSION" | "LOADER" | "PAE_MODE" | "FEATURES") {
        let text = content.strip_suffix(b"\0").context("no NUL at its end")?;
        return Ok(Value::Text(std::str::from_utf8(text)?.to_owned()));
    }
    match content.len() {
        4 => Ok(Value::Number(u64::from(u32::from_le_bytes(content.try_into()?)))),
        8 => Ok(Value::Number(u64::from_le_bytes(content.try_into()?))),
        length => bail!("a number of {length} bytes"),
    }
}
