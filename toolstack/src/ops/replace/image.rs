//! An image of the stub in its file, as far as it takes the place of another one in a running domain.
//!
//! Everything is checked here before anything has happened: a file that passes has all of its parts where `pcidom_abi::image` says.

use std::ops::Range;

use pcidom_abi::{VERSION, image as layout};

use crate::xen::Page;

/// What an image says of itself in its ELF notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    /// Its release.
    pub(super) release: String,
    /// Number of its layout, and of its contract with the other parts; `None` where it has no such note.
    numbers: Option<(u32, u32)>,
    is_pcidom: bool,
}

/// `XEN_ELFNOTE_GUEST_OS`, `XEN_ELFNOTE_GUEST_VERSION` (`xen/include/public/elfnote.h`).
const GUEST_OS: u32 = 6;
const GUEST_VERSION: u32 = 7;

impl About {
    /// Reads notes until something follows that is none of Xen's and ours.
    pub(super) fn read(mut notes: &[u8]) -> Self {
        let mut about = Self::default();
        while let Some((Note { owner, kind, content }, rest)) = note(notes) {
            let text = || String::from_utf8_lossy(content).trim_end_matches('\0').to_owned();
            match (owner, kind) {
                (b"Xen\0", GUEST_OS) => about.is_pcidom = text() == "pcidom",
                (b"Xen\0", GUEST_VERSION) => {
                    about.release = text().chars().filter(|letter| !letter.is_control()).collect();
                }
                (layout::NOTE_OWNER, layout::NOTE_TYPE) => {
                    about.numbers = number(content, 0).zip(number(content, 4));
                }
                (b"Xen\0" | layout::NOTE_OWNER, _) => {}
                _ => break,
            }
            notes = rest;
        }
        about
    }

    /// Why it cannot be one of two images of which one takes the place of the other.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some((layout, contract)) = self.numbers.filter(|_| self.is_pcidom) else {
            return Err("it is no image of pcidom, or one of a release that cannot be replaced in place".to_owned());
        };
        if layout != layout::LAYOUT {
            return Err(format!("its memory has layout {layout}, and this command knows layout {}", layout::LAYOUT));
        }
        if contract != VERSION {
            return Err(format!("it is of contract {contract}, and this command of contract {VERSION}"));
        }
        Ok(())
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// One note (System V ABI, "Note Section").
struct Note<'a> {
    owner: &'a [u8],
    kind: u32,
    content: &'a [u8],
}

/// The first note, and what follows it.
fn note(bytes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let [owner_len, content_len, kind] = [0, 4, 8].map(|at| number(bytes, at));
    let [owner_len, content_len] = [owner_len?, content_len?].map(|len| usize::try_from(len).unwrap_or(usize::MAX));
    let padded = |len: usize| len.checked_next_multiple_of(4);
    let content_at = padded(owner_len)?.checked_add(12)?;
    let end = padded(content_len)?.checked_add(content_at)?;
    let owner = bytes.get(12..12usize.checked_add(owner_len)?)?;
    let content = bytes.get(content_at..content_at.checked_add(content_len)?)?;
    Some((Note { owner, kind: kind?, content }, bytes.get(end..)?))
}

/// An image: code and constants, with the copy of the data among them.
pub(super) struct Image {
    pub(super) about: About,
    /// From the beginning of [`layout::TEXT`] to the end of [`layout::RODATA`].
    pub(super) pages: Vec<Page>,
}

/// Program headers (ELF-64, `Elf64_Phdr`): types, flags and the length of one.
const LOAD: u32 = 1;
const NOTES: u32 = 4;
const EXECUTABLE: u32 = 1;
const WRITABLE: u32 = 2;
const HEADER_BYTES: usize = 56;
/// An executable for x86-64, little-endian: the identification, and type and machine at byte 16.
const IDENTIFICATION: [u8; 7] = *b"\x7fELF\x02\x01\x01";
const KIND: u32 = 62 << 16 | 2;

/// One program header.
struct Segment<'a> {
    kind: u32,
    flags: u32,
    /// Where it is in memory.
    place: Range<u64>,
    /// What the file has of it.
    bytes: &'a [u8],
}

impl Image {
    /// Reads a file and checks everything.
    ///
    /// # Errors
    /// Why it cannot take the place of another image.
    pub(super) fn read(file: &[u8]) -> Result<Self, String> {
        let segments = segments(file)?;
        let notes = segments.iter().find(|segment| segment.kind == NOTES);
        let about = notes.map(|notes| About::read(notes.bytes)).unwrap_or_default();
        about.check()?;
        let span = layout::RODATA.end - layout::TEXT.start;
        let mut memory = vec![0; usize::try_from(span).unwrap_or(0)];
        let mut has_code = false;
        // The data last: their copy lies among the constants.
        let (data, others): (Vec<_>, Vec<_>) =
            segments.iter().filter(|segment| segment.kind == LOAD).partition(|segment| segment.flags & WRITABLE != 0);
        for segment in others.into_iter().chain(data) {
            let (part, to) = match segment.flags & (EXECUTABLE | WRITABLE) {
                EXECUTABLE => (layout::TEXT, segment.place.start),
                0 => (layout::RODATA, segment.place.start),
                WRITABLE if segment.bytes.is_empty() => (layout::FACTS..layout::END, segment.place.start),
                // Its first life would copy it there by itself.
                WRITABLE => (
                    layout::DATA,
                    segment.place.start - layout::DATA.start.min(segment.place.start) + layout::RODATA.start,
                ),
                _ => return Err("it has a segment that is writable and executable".to_owned()),
            };
            let Range { start, end } = segment.place;
            if start < part.start || end > part.end || start > end {
                return Err(format!(
                    "it has a segment at {start:#x}-{end:#x}, where layout {} has none",
                    layout::LAYOUT
                ));
            }
            has_code |= segment.flags & EXECUTABLE != 0 && start == layout::TEXT.start && !segment.bytes.is_empty();
            let at = usize::try_from(to.saturating_sub(layout::TEXT.start)).unwrap_or(usize::MAX);
            if let Some(place) = memory.get_mut(at..).and_then(|rest| rest.get_mut(..segment.bytes.len())) {
                place.copy_from_slice(segment.bytes);
            }
        }
        if !has_code {
            return Err("it has no code where an image is started again".to_owned());
        }
        Ok(Self { about, pages: memory.as_chunks::<4096>().0.to_vec() })
    }
}

fn segments(file: &[u8]) -> Result<Vec<Segment<'_>>, String> {
    let damaged = || "the file is cut off or damaged".to_owned();
    if !file.starts_with(&IDENTIFICATION) || number(file, 16) != Some(KIND) {
        return Err("it is no ELF file of a program for x86-64".to_owned());
    }
    let word = |at: usize| -> Option<u64> { Some(u64::from_le_bytes(file.get(at..)?.first_chunk().copied()?)) };
    let index = |word: u64| usize::try_from(word).ok();
    let first = word(32).and_then(index).ok_or_else(damaged)?;
    let count = number(file, 56).ok_or_else(damaged)? & 0xffff;
    let segment = |index_of: u32| -> Option<Segment<'_>> {
        let at = first.checked_add(usize::try_from(index_of).ok()?.checked_mul(HEADER_BYTES)?)?;
        let [from, start, in_file, in_memory] = [8, 16, 32, 40].map(|field| word(at.checked_add(field)?));
        let (start, in_file) = (start?, index(in_file?)?);
        let bytes = if in_file == 0 { &[][..] } else { file.get(index(from?)?..)?.get(..in_file)? };
        let end = start.checked_add(in_memory?)?;
        let is_within = u64::try_from(bytes.len()).is_ok_and(|len| len <= end - start);
        is_within.then_some(Segment { kind: number(file, at)?, flags: number(file, at + 4)?, place: start..end, bytes })
    };
    (0..count).map(|index| segment(index).ok_or_else(damaged)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Makes files of images.
    pub(crate) struct Maker {
        pub(crate) os: &'static str,
        pub(crate) release: &'static str,
        pub(crate) layout: u32,
        pub(crate) contract: u32,
        /// Flags, place and content of each segment.
        pub(crate) segments: Vec<(u32, Range<u64>, Vec<u8>)>,
    }

    impl Maker {
        /// An image whose code begins with these bytes.
        pub(crate) fn new(code: &[u8]) -> Self {
            let text = layout::TEXT.start..layout::TEXT.start + 0x1_c542;
            let mut code = code.to_vec();
            code.resize(0x1_c542, 0xcc);
            Self {
                os: "pcidom\0",
                release: "0.7.3\0",
                layout: layout::LAYOUT,
                contract: VERSION,
                segments: vec![
                    (EXECUTABLE, text, code),
                    (WRITABLE, layout::DATA.start..layout::DATA.start + 40, vec![0xda; 40]),
                    (WRITABLE, layout::FACTS..layout::END, Vec::new()),
                ],
            }
        }

        pub(crate) fn notes(&self) -> Vec<u8> {
            let mut notes = Vec::new();
            let mut add = |owner: &[u8], kind: u32, content: &[u8]| {
                let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
                notes.extend([len(owner), len(content), kind.to_le_bytes()].concat());
                for part in [owner, content] {
                    notes.extend(part);
                    notes.resize(notes.len().next_multiple_of(4), 0);
                }
            };
            add(b"Xen\0", GUEST_OS, self.os.as_bytes());
            add(b"Xen\0", 1, &layout::TEXT.start.to_le_bytes());
            add(b"Xen\0", GUEST_VERSION, self.release.as_bytes());
            add(b"pcidom\0", 1, &[self.layout.to_le_bytes(), self.contract.to_le_bytes()].concat());
            notes
        }

        /// Code and constants in memory, whether or not they may be there.
        pub(crate) fn memory(&self) -> Vec<Page> {
            let fitting = Self { layout: layout::LAYOUT, segments: self.segments.clone(), ..Self::new(b"") };
            let mut pages = Image::read(&Self { release: self.release, ..fitting }.file()).unwrap().pages;
            let notes = self.notes();
            let page = usize::try_from((layout::RODATA.start - layout::TEXT.start) / 4096).unwrap();
            pages[page][0x100..0x100 + notes.len()].copy_from_slice(&notes);
            pages
        }

        pub(crate) fn file(&self) -> Vec<u8> {
            let notes = self.notes();
            let constants = [vec![0; 0x100], notes.clone(), b"constants".to_vec()].concat();
            let at = |start: u64, len: usize| start..start + u64::try_from(len).unwrap();
            let mut segments: Vec<(u32, u32, Range<u64>, Vec<u8>)> = self
                .segments
                .iter()
                .map(|(flags, place, bytes)| (LOAD, *flags, place.clone(), bytes.clone()))
                .collect();
            segments.push((LOAD, 0, at(layout::RODATA.start, constants.len()), constants));
            segments.push((NOTES, 0, at(layout::RODATA.start + 0x100, notes.len()), notes));
            let mut file = IDENTIFICATION.to_vec();
            file.resize(64, 0);
            file[16..20].copy_from_slice(&KIND.to_le_bytes());
            file[32] = 64;
            file[56] = u8::try_from(segments.len()).unwrap();
            let mut content_at = 64 + segments.len() * HEADER_BYTES;
            for (kind, flags, place, bytes) in &segments {
                file.extend([kind.to_le_bytes(), flags.to_le_bytes()].concat());
                let bytes_len = u64::try_from(bytes.len()).unwrap();
                let from = u64::try_from(content_at).unwrap();
                for word in [from, place.start, place.start, bytes_len, place.end - place.start, 1] {
                    file.extend(word.to_le_bytes());
                }
                content_at += bytes.len();
            }
            segments.iter().for_each(|(.., bytes)| file.extend(bytes));
            file
        }
    }

    fn refusal(change: impl FnOnce(&mut Maker)) -> String {
        let mut maker = Maker::new(b"start");
        change(&mut maker);
        Image::read(&maker.file()).err().expect("it is refused")
    }

    #[test]
    fn an_image_is_laid_out_as_its_first_life_leaves_it() {
        let image = Image::read(&Maker::new(b"start").file()).unwrap();
        assert_eq!(image.about.release, "0.7.3");
        let memory = image.pages.concat();
        assert_eq!(memory.len(), 0x2_5000);
        assert_eq!((&memory[..5], memory[0x1_c541], memory[0x1_c542]), (&b"start"[..], 0xcc, 0));
        // The copy of the data, and notes that are found again where a running image has them.
        assert_eq!((&memory[0x1_f000..0x1_f028], memory[0x1_f028]), (&[0xda; 40][..], 0));
        assert_eq!(About::read(&memory[0x1_f100..]), image.about);
    }

    #[test]
    fn what_is_not_an_image_of_this_layout_is_refused() {
        assert_eq!(Image::read(b"").err().unwrap(), "it is no ELF file of a program for x86-64");
        assert_eq!(Image::read(&[0x5a; 5000]).err().unwrap(), "it is no ELF file of a program for x86-64");
        let no_image = "it is no image of pcidom, or one of a release that cannot be replaced in place";
        assert_eq!(refusal(|maker| maker.os = "mini-os\0"), no_image);
        let other = format!("its memory has layout 1, and this command knows layout {}", layout::LAYOUT);
        assert_eq!(refusal(|maker| maker.layout = 1), other);
        assert_eq!(
            refusal(|maker| maker.contract = 9),
            format!("it is of contract 9, and this command of contract {VERSION}")
        );
        let elsewhere = |change: fn(&mut Maker)| assert!(refusal(change).starts_with("it has a segment at "));
        elsewhere(|maker| maker.segments[0].1.end = layout::TEXT.end + 1);
        elsewhere(|maker| maker.segments[1].1 = layout::DATA.end - 8..layout::DATA.end + 40);
        elsewhere(|maker| maker.segments[1].1 = layout::TEXT.start..layout::TEXT.start + 40);
        elsewhere(|maker| maker.segments[2].1.end = layout::END + 0x1000);
        elsewhere(|maker| maker.segments.push((0, layout::TEXT.start..layout::TEXT.end, vec![1])));
        elsewhere(|maker| maker.segments.push((WRITABLE, 0..u64::MAX, Vec::new())));
        assert!(refusal(|maker| maker.segments[0].0 |= WRITABLE).contains("writable and executable"));
        let no_code = "it has no code where an image is started again";
        assert_eq!(
            refusal(|maker| maker.segments[0].1.start += 16),
            "the file is cut off or damaged",
            "longer than its place"
        );
        assert_eq!(refusal(|maker| drop(maker.segments.remove(0))), no_code);
    }

    #[test]
    fn a_file_that_is_cut_off_or_changed_anywhere_does_no_harm() {
        let file = Maker::new(b"start").file();
        let head = 64 + 5 * HEADER_BYTES;
        for len in (0..head).chain([file.len() - 1]) {
            assert!(Image::read(&file[..len]).is_err(), "{len} bytes");
        }
        for at in 0..head {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = file.clone();
                changed[at] = value;
                let _ = Image::read(&changed); // it does not panic
            }
        }
        let notes = Maker::new(b"").notes();
        for len in 0..notes.len() {
            assert!(About::read(&notes[..len]).check().is_err(), "{len} bytes");
        }
    }
}
