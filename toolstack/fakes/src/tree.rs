//! A temporary folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Gone when dropped.
pub struct TempTree(PathBuf);

impl TempTree {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pcidom-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn link(&self, name: impl AsRef<Path>, target: &str) {
        symlink(target, self.0.join(name)).unwrap();
    }

    /// Every file with its content and every link with its target, in order.
    pub fn dump(&self) -> Vec<String> {
        let mut lines = Vec::new();
        dump_into(&mut lines, &self.0, &self.0);
        lines.sort_unstable();
        lines
    }
}

fn dump_into(lines: &mut Vec<String>, root: &Path, folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display();
        if let Ok(target) = fs::read_link(&path) {
            lines.push(format!("{name} -> {}", target.display()));
        } else if path.is_dir() {
            dump_into(lines, root, &path);
        } else {
            lines.push(format!("{name}: {:?}", String::from_utf8_lossy(&fs::read(&path).unwrap())));
        }
    }
}

impl Drop for TempTree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
