//! The folder that the packages were unpacked in: finding programs, their libraries and kernel modules there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use object::{
    Object, ObjectSection,
    elf::{DT_NEEDED, FileHeader64},
    read::elf::{Dyn, ElfFile64, FileHeader, SectionHeader},
};

use crate::{command, cpio::Archive, release::Release};

/// Where the archive keeps libraries; `lib`, `bin` and `sbin` are links into `usr`.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A module that newer kernels have as a library, with what uses it.
const CHECKSUMS: &str = "crc32c_generic";

/// Unpacked packages of one release.
pub(crate) struct Unpacked {
    root: PathBuf,
    xen: &'static str,
    /// Kernel modules by name (with `_` for `-`), or `None` for those built into the kernel.
    modules: BTreeMap<String, Option<PathBuf>>,
    kernel: String,
}

impl Unpacked {
    /// Looks around in `root`.
    pub(crate) fn new(root: PathBuf, release: &Release) -> Result<Self> {
        let modules_dirs: Vec<PathBuf> = ["usr/lib/modules", "lib/modules"]
            .iter()
            .flat_map(|dir| fs::read_dir(root.join(dir)).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect();
        let [modules_dir] = &modules_dirs[..] else {
            bail!("expected one kernel in {}, found {modules_dirs:?}", root.display())
        };
        let mut modules = BTreeMap::new();
        for line in fs::read_to_string(modules_dir.join("modules.builtin"))?.lines() {
            modules.insert(module_name(Path::new(line)), None);
        }
        find_modules(modules_dir, &mut modules)?;
        let kernel =
            modules_dir.file_name().and_then(|name| name.to_str()).context("a kernel's name is not UTF-8")?.to_owned();
        Ok(Self { root, xen: release.xen, modules, kernel })
    }

    /// The kernel's image: in `boot`, or since Debian 14 beside its modules.
    pub(crate) fn kernel(&self) -> PathBuf {
        let beside_modules = self.root.join("usr/lib/modules").join(&self.kernel).join("vmlinuz");
        if beside_modules.is_file() {
            return beside_modules;
        }
        self.root.join("boot").join(format!("vmlinuz-{}", self.kernel))
    }

    /// Xen's gzip-compressed image.
    pub(crate) fn hypervisor(&self) -> PathBuf {
        self.root.join(format!("boot/xen-{}-amd64.gz", self.xen))
    }

    /// The path of a file given relative to the unpacked root.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Adds `program` (a bare name) and the libraries it needs, and a link in `usr/bin`.
    pub(crate) fn add_program(&self, archive: &mut Archive, program: &str) -> Result<()> {
        let private = format!("usr/lib/xen-{}/bin", self.xen);
        let places = [private.as_str(), "usr/bin", "usr/sbin", "bin", "sbin"];
        let found = places.iter().map(|place| format!("{place}/{program}")).find(|path| self.root.join(path).is_file());
        let found = found.with_context(|| format!("no program {program} in the packages"))?;
        let to = if found.starts_with("usr") { found.clone() } else { format!("usr/{found}") };
        archive.program(&to, &self.root.join(&found))?;
        if !to.starts_with("usr/bin/") {
            archive.link(&format!("usr/bin/{program}"), &format!("/{to}"));
        }
        self.add_libraries_of(archive, &self.root.join(found))
    }

    /// Adds every library whose file name starts with `prefix`, and what those need.
    pub(crate) fn add_libraries(&self, archive: &mut Archive, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(self.root.join(LIBRARIES))? {
            let name = entry?.file_name().into_string().ok().context("a library's name is not UTF-8")?;
            if name.starts_with(prefix) && name.contains(".so.") {
                self.add_library(archive, &name)?;
            }
        }
        Ok(())
    }

    /// Adds the libraries that `program` needs, and those that they need.
    pub(crate) fn add_libraries_of(&self, archive: &mut Archive, program: &Path) -> Result<()> {
        let data = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
        for name in needed(&data).with_context(|| format!("reading {}", program.display()))? {
            self.add_library(archive, &name).with_context(|| format!("needed by {}", program.display()))?;
        }
        Ok(())
    }

    /// Adds the library with this file name, and what it needs.
    pub(crate) fn add_library(&self, archive: &mut Archive, name: &str) -> Result<()> {
        // The loader is a library of its own; programs name it by a fixed path.
        let to = if name.starts_with("ld-linux") { format!("usr/lib64/{name}") } else { format!("{LIBRARIES}/{name}") };
        if archive.contains(&to) {
            return Ok(());
        }
        let places = [LIBRARIES, "lib/x86_64-linux-gnu"];
        let found = places.iter().map(|place| self.root.join(place).join(name)).find(|path| path.is_file());
        let found = found.with_context(|| format!("no library {name} in the packages"))?;
        archive.program(&to, &found)?;
        self.add_libraries_of(archive, &found)
    }

    /// Adds kernel modules with what they depend on, and `bench/modules`: one line per module of `names`, saying which files
    /// to load for it in which order.
    pub(crate) fn add_modules(&self, archive: &mut Archive, names: &[&str]) -> Result<()> {
        let mut list = String::new();
        for name in names {
            let mut order = Vec::new();
            self.add_module(archive, &module_name(Path::new(name)), &mut order)?;
            list += &format!("{name}: {}\n", order.join(" "));
        }
        archive.text("bench/modules", list);
        Ok(())
    }

    fn add_module(&self, archive: &mut Archive, name: &str, order: &mut Vec<String>) -> Result<()> {
        let path = match self.modules.get(name) {
            Some(Some(path)) => path,
            Some(None) => return Ok(()),
            None if name == CHECKSUMS => return Ok(()),
            None => bail!("the kernel has no module {name}"),
        };
        let content = module_content(path)?;
        for dependency in dependencies(&content).with_context(|| format!("reading {}", path.display()))? {
            self.add_module(archive, &dependency, order)?;
        }
        let to = format!("modules/{name}.ko");
        if !order.contains(&to) {
            archive.data(&to, content);
            order.push(to);
        }
        Ok(())
    }
}

/// A module's name as the kernel spells it, from any spelling or path.
fn module_name(path: &Path) -> String {
    let file = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

fn find_modules(dir: &Path, modules: &mut BTreeMap<String, Option<PathBuf>>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            find_modules(&path, modules)?;
        } else if path.to_string_lossy().contains(".ko") {
            modules.insert(module_name(&path), Some(path));
        }
    }
    Ok(())
}

/// A module's ELF file; newer releases compress it.
fn module_content(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => command::output(Command::new("xz").arg("-dc").arg(path)),
        Some("zst") => command::output(Command::new("zstd").arg("-dc").arg(path)),
        _ => Ok(fs::read(path)?),
    }
}

/// The modules that a module says it depends on (`depends=` in its `.modinfo`).
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let elf = ElfFile64::<object::Endianness>::parse(module)?;
    let info = elf.section_by_name(".modinfo").context("no .modinfo section")?.data()?;
    let depends = info.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(depends.unwrap_or_default()).replace('-', "_");
    Ok(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// The libraries that an ELF file names as `DT_NEEDED`, and its loader.
fn needed(data: &[u8]) -> Result<Vec<String>> {
    let header = FileHeader64::<object::Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let Some((entries, link)) = sections.dynamic(endian, data)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, data, link)?;
    let mut names = Vec::new();
    for entry in entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED) {
        names.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
    }
    if let Some(interpreter) = sections.section_by_name(endian, b".interp") {
        let path = String::from_utf8_lossy(interpreter.1.data(endian, data)?).into_owned();
        names.extend(path.trim_end_matches('\0').rsplit('/').next().map(str::to_owned));
    }
    Ok(names)
}
