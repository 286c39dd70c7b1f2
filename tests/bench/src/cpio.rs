//! Initramfs archives in the kernel's "newc" cpio format (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use anyhow::{Context, Result};

enum Node {
    Dir,
    File { mode: u32, content: Vec<u8> },
    Link(String),
}

/// An archive under construction. Paths have no leading slash; parent directories appear by themselves.
#[derive(Default)]
pub(crate) struct Archive {
    // Sorted, so that a directory comes before what is in it and equal input gives equal bytes.
    nodes: BTreeMap<String, Node>,
}

impl Archive {
    /// Adds an empty directory.
    pub(crate) fn dir(&mut self, path: &str) {
        self.insert(path, Node::Dir);
    }

    /// Adds a text file.
    pub(crate) fn text(&mut self, path: &str, content: impl Into<String>) {
        self.insert(path, Node::File { mode: 0o644, content: content.into().into_bytes() });
    }

    /// Adds data.
    pub(crate) fn data(&mut self, path: &str, content: Vec<u8>) {
        self.insert(path, Node::File { mode: 0o644, content });
    }

    /// Adds a program from a file of the machine.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.insert(path, Node::File { mode: 0o755, content });
        Ok(())
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.insert(path, Node::Link(target.to_owned()));
    }

    /// Whether something was added at `path`.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    fn insert(&mut self, path: &str, node: Node) {
        for (index, _) in path.match_indices('/') {
            self.nodes.entry(path[..index].to_owned()).or_insert(Node::Dir);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Writes the archive, uncompressed: under emulation, reading more bytes is much faster than inflating them.
    pub(crate) fn write(&self, to: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        for (inode, (path, node)) in (1..).zip(&self.nodes) {
            let (mode, content): (u32, &[u8]) = match node {
                Node::Dir => (0o040_755, &[]),
                Node::File { mode, content } => (0o100_000 | mode, content),
                Node::Link(target) => (0o120_777, target.as_bytes()),
            };
            entry(&mut bytes, inode, mode, path, content)?;
        }
        entry(&mut bytes, 0, 0, "TRAILER!!!", &[])?;
        let temporary = to.with_extension("part");
        fs::write(&temporary, bytes)?;
        Ok(fs::rename(temporary, to)?)
    }
}

fn entry(bytes: &mut Vec<u8>, inode: u32, mode: u32, path: &str, content: &[u8]) -> Result<()> {
    let (name_size, size) = (path.len() + 1, u32::try_from(content.len())?);
    // magic ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    write!(
        bytes,
        "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
        0, 1
    )?;
    bytes.extend(path.bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend(content);
    pad(bytes);
    Ok(())
}

/// Headers and data start at multiples of four bytes.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_precede_their_children_and_everything_is_aligned() {
        let mut archive = Archive::default();
        archive.text("a/b/c", "12345");
        archive.link("a/l", "b/c");
        let path = std::env::temp_dir().join(format!("bench-cpio-test-{}", std::process::id()));
        archive.write(&path).expect("written");
        let bytes = fs::read(&path).expect("read back");
        fs::remove_file(&path).expect("removed");
        assert_eq!(bytes.len() % 4, 0);
        // Header of 110 bytes, name with NUL, padded to 4.
        let (mut at, mut names) = (0, Vec::new());
        while at < bytes.len() {
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).expect("digits");
                usize::from_str_radix(text, 16).expect("hexadecimal")
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (size, name_size) = (field(6), field(11));
            names.push(String::from_utf8_lossy(&bytes[at + 110..at + 109 + name_size]).into_owned());
            at = (at + 110 + name_size).next_multiple_of(4) + size.next_multiple_of(4);
        }
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/l", "TRAILER!!!"]);
    }
}
