//! Checks of how the stub's image is linked: what Xen's domain builder and a program without an operating system rely on.

use std::{fs, ops::Range, path::Path};

use anyhow::{Context, Result, bail, ensure};
use object::{
    Endianness, Object, ObjectSymbol,
    elf::{FileHeader64, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_TLS, SHT_REL, SHT_RELA},
    read::elf::{ElfFile64, FileHeader, ProgramHeader, SectionHeader},
};

use pcidom_abi::image as layout;

use crate::{
    notes::{self, Value},
    tally::Tally,
};

/// Where the image must be: below 4 MiB ends the initial mapping of a domain that starts at 3 MiB, which is what lets it boot
/// with `memory=1`.
const PLACE: Range<u64> = 0x30_0000..0x40_0000;
/// The most bytes that the stripped image may have.
const BUDGET: &str = "tests/bench/image-budget";

/// Checks `image` (stripped) and, for its symbols, the file of the same name with the extension `debug.elf`.
pub(crate) fn run(image: &Path) -> Result<bool> {
    let stripped = Image::read(image)?;
    let symbols = Image::read(&image.with_extension("debug.elf"))?;
    let checks: [(&str, Result<String>); 8] = [
        ("image_has_no_undefined_symbol", symbols.no_undefined_symbol()),
        ("image_has_no_relocation", symbols.no_relocation().and_then(|_| stripped.no_relocation())),
        ("image_needs_no_loader", stripped.no_loader_segment()),
        ("image_lies_where_one_mib_suffices", stripped.in_place()),
        ("image_has_no_segment_writable_and_executable", stripped.write_xor_execute()),
        ("image_has_the_elf_notes", stripped.has_notes()),
        ("image_can_take_the_place_of_another", symbols.is_laid_out().and_then(|()| stripped.has_own_note())),
        ("image_is_within_its_budget", stripped.within_budget()),
    ];
    let mut sum = Tally::default();
    for (name, result) in checks {
        sum += Tally::one(result.is_ok());
        match result {
            Ok(what) => println!("case {name} ... ok{what}"),
            Err(error) => println!("case {name} ... FAILED: {error:#}"),
        }
    }
    println!("{sum}");
    Ok(sum.failed == 0)
}

struct Image {
    bytes: Vec<u8>,
}

/// One program header.
struct Segment {
    kind: object::elf::ProgramType,
    flags: object::elf::ProgramFlags,
    virt: Range<u64>,
    physical: u64,
}

impl Image {
    fn read(path: &Path) -> Result<Self> {
        Ok(Self { bytes: fs::read(path).with_context(|| format!("reading {}", path.display()))? })
    }

    fn header(&self) -> Result<(&FileHeader64<Endianness>, Endianness)> {
        let header = FileHeader64::<Endianness>::parse(&*self.bytes)?;
        Ok((header, header.endian()?))
    }

    fn segments(&self) -> Result<Vec<Segment>> {
        let (header, endian) = self.header()?;
        let segments = header.program_headers(endian, &*self.bytes)?.iter().map(|segment| Segment {
            kind: segment.p_type(endian),
            flags: segment.p_flags(endian),
            virt: segment.p_vaddr(endian)..segment.p_vaddr(endian) + segment.p_memsz(endian),
            physical: segment.p_paddr(endian),
        });
        Ok(segments.collect())
    }

    fn loaded(&self) -> Result<Vec<Segment>> {
        let loaded: Vec<Segment> = self.segments()?.into_iter().filter(|segment| segment.kind == PT_LOAD).collect();
        ensure!(!loaded.is_empty(), "nothing is loaded");
        Ok(loaded)
    }

    fn no_undefined_symbol(&self) -> Result<String> {
        let elf = ElfFile64::<Endianness>::parse(&*self.bytes)?;
        ensure!(elf.symbols().count() > 1, "no symbols to check");
        let undefined: Vec<&str> =
            elf.symbols().filter(|symbol| symbol.is_undefined()).filter_map(|symbol| symbol.name().ok()).collect();
        // The first entry of every symbol table is undefined and nameless.
        let undefined: Vec<&str> = undefined.into_iter().filter(|name| !name.is_empty()).collect();
        ensure!(undefined.is_empty(), "{}", undefined.join(" "));
        Ok(String::new())
    }

    fn no_relocation(&self) -> Result<String> {
        let (header, endian) = self.header()?;
        let sections = header.sections(endian, &*self.bytes)?;
        let count = sections.iter().filter(|section| matches!(section.sh_type(endian), SHT_REL | SHT_RELA)).count();
        ensure!(count == 0, "{count} sections of relocations");
        Ok(String::new())
    }

    fn no_loader_segment(&self) -> Result<String> {
        for segment in self.segments()? {
            match segment.kind {
                PT_INTERP => bail!("PT_INTERP"),
                PT_DYNAMIC => bail!("PT_DYNAMIC"),
                PT_TLS => bail!("PT_TLS"),
                _ => {}
            }
        }
        Ok(String::new())
    }

    fn in_place(&self) -> Result<String> {
        for Segment { virt, physical, .. } in self.loaded()? {
            ensure!(PLACE.start <= virt.start && virt.end <= PLACE.end, "a segment at {virt:x?}");
            // Xen loads by physical addresses; VIRT_BASE = PADDR_OFFSET makes them the same.
            ensure!(physical == virt.start, "a segment at {virt:x?} has the physical address {physical:x}");
        }
        Ok(String::new())
    }

    fn write_xor_execute(&self) -> Result<String> {
        for Segment { flags, virt, .. } in self.loaded()? {
            ensure!(!(flags.contains(PF_W) && flags.contains(PF_X)), "the segment at {virt:x?}");
        }
        Ok(String::new())
    }

    fn has_notes(&self) -> Result<String> {
        let (header, endian) = self.header()?;
        let text = |text: &str| Value::Text(text.to_owned());
        let expected = [
            ("GUEST_OS", text("pcidom")),
            ("GUEST_VERSION", text(env!("CARGO_PKG_VERSION"))),
            ("XEN_VERSION", text("xen-3.0")),
            ("LOADER", text("generic")),
            ("PAE_MODE", text("yes")),
            ("FEATURES", text("!writable_page_tables|pae_pgdir_above_4gb")),
            ("VIRT_BASE", Value::Number(PLACE.start)),
            ("PADDR_OFFSET", Value::Number(PLACE.start)),
            ("ENTRY", Value::Number(header.e_entry(endian))),
        ];
        let mut notes = notes::read(&self.bytes)?;
        for (name, value) in expected {
            let at = notes.iter().position(|(found, _)| *found == name).with_context(|| format!("no note {name}"))?;
            let (_, found) = notes.swap_remove(at);
            ensure!(found == value, "{name} is {found:x?}, not {value:x?}");
        }
        // Hypercalls are made by their instruction, so no page is asked for.
        ensure!(notes.is_empty(), "also {notes:x?}");
        let entry = header.e_entry(endian);
        let runs = |segment: &Segment| segment.virt.contains(&entry) && segment.flags.contains(PF_X);
        ensure!(self.loaded()?.iter().any(runs), "ENTRY {entry:x} is not in code");
        Ok(String::new())
    }

    /// Everything that another image relies on is where the contract says.
    fn is_laid_out(&self) -> Result<()> {
        let elf = ElfFile64::<Endianness>::parse(&*self.bytes)?;
        for (name, wanted) in [
            ("_restart", layout::TEXT.start),
            ("__text_end", layout::TEXT.end),
            ("__data_copy", layout::RODATA.start),
            ("__rodata_end", layout::RODATA.end),
            ("__data_start", layout::DATA.start),
            // The names of these two have the path around them, and a hash.
            ("8SURVIVOR", layout::FACTS),
            ("13FIRST_RECORDS", layout::RECORDS),
            ("__start_info", layout::START_INFO),
            ("__stack_guard", layout::STACK.start - 0x1000),
            ("__stack_top", layout::STACK.end),
            ("__image_end", layout::END),
        ] {
            let is_it = |symbol: &str| symbol == name || !name.starts_with('_') && symbol.contains(name);
            let found = elf.symbols().find(|symbol| symbol.name().is_ok_and(is_it));
            let found = found.with_context(|| format!("no symbol {name}"))?.address();
            ensure!(found == wanted, "{name} is at {found:#x}, and layout {} has {wanted:#x}", layout::LAYOUT);
        }
        // The domain builder puts its own pages behind the last segment.
        let end = self.loaded()?.iter().map(|segment| segment.virt.end).max();
        ensure!(end == Some(layout::END), "the last segment ends at {end:x?}");
        Ok(())
    }

    fn has_own_note(&self) -> Result<String> {
        let numbers = [layout::LAYOUT, pcidom_abi::VERSION];
        let note = notes::own(&self.bytes)?.context("no note of its own")?;
        ensure!(note == numbers.map(u32::to_le_bytes).concat(), "its own note is {note:x?}, not {numbers:?}");
        Ok(format!(" (layout {}, contract {})", layout::LAYOUT, pcidom_abi::VERSION))
    }

    fn within_budget(&self) -> Result<String> {
        let budget: usize = fs::read_to_string(BUDGET).with_context(|| format!("reading {BUDGET}"))?.trim().parse()?;
        let size = self.bytes.len();
        ensure!(size <= budget, "{size} bytes, {} more than the {budget} of {BUDGET}", size - budget);
        Ok(format!(" ({size} bytes of {budget})"))
    }
}
