//! The files of the tree.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Folders without sources: build products, and git's.
const PASSED_OVER: [&str; 3] = [".git", "build", "target"];

/// Every text file by its path from the root, with `/` between folders.
pub(crate) type Files = BTreeMap<String, String>;

/// Reads the tree below `root`. Files that are no text are there with an empty one: something may refer to them.
pub(crate) fn texts(root: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let place = root.join(&folder);
        for entry in fs::read_dir(&place).with_context(|| format!("reading {}", place.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let path = folder.join(&name);
            if entry.file_type()?.is_dir() {
                if !PASSED_OVER.iter().any(|passed| name == *passed) {
                    folders.push(path);
                }
                continue;
            }
            let bytes = fs::read(root.join(&path)).with_context(|| format!("reading {}", path.display()))?;
            files.insert(path.to_string_lossy().into_owned(), String::from_utf8(bytes).unwrap_or_default());
        }
    }
    Ok(files)
}
