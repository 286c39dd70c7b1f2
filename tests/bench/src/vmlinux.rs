//! The ELF kernel inside a Linux `bzImage`.
//!
//! Xen and libxl both accept the ELF file itself; unpacking it here saves them the decompression, which under emulation takes
//! seconds for dom0 and again for every guest.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail, ensure};

/// Reads the kernel out of `image` (Linux, `Documentation/arch/x86/boot.rst`: `setup_sects`, `payload_offset`, `payload_length`).
pub(crate) fn extract(image: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(image).with_context(|| format!("reading {}", image.display()))?;
    let dword = |at: usize| -> Result<usize> {
        let field = bytes.get(at..at + 4).context("the kernel's image is too short")?;
        Ok(usize::try_from(u32::from_le_bytes(field.try_into()?))?)
    };
    ensure!(bytes.get(0x202..0x206) == Some(b"HdrS"), "{} is no bzImage", image.display());
    let setup_sectors = match bytes.get(0x1f1) {
        Some(0) | None => 4,
        Some(&count) => usize::from(count),
    };
    let start = (setup_sectors + 1) * 512 + dword(0x248)?;
    let payload = bytes.get(start..start + dword(0x24c)?).context("the kernel's payload lies outside its image")?;
    let program = match payload {
        [0xfd, b'7', b'z', b'X', ..] => "xz",
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => bail!("{} is compressed in an unknown way", image.display()),
    };
    let elf = decompress(program, payload)?;
    ensure!(elf.starts_with(b"\x7fELF"), "{} holds no ELF file", image.display());
    Ok(elf)
}

/// Pipes `data` through `program -dc`. The exit status says nothing: the kernel's build appends the size to the stream, which
/// decompressors report as trailing garbage.
fn decompress(program: &str, data: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let mut input = child.stdin.take().context("no pipe")?;
    thread::scope(|scope| {
        // The program may stop reading before the end, see above.
        scope.spawn(move || input.write_all(data));
        Ok(child.wait_with_output()?.stdout)
    })
}
