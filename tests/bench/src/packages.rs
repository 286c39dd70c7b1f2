//! Debian packages, downloaded and unpacked without being installed.
//!
//! apt gets its own lists and caches below the release's folder, so the machine's own package state stays as it is and no
//! rights are needed. Package files are kept; they are unpacked anew when the set of versions changes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command, layout,
    release::{KERNEL, Release},
    sources::Mirror,
};

/// Package lists older than this are fetched again.
const LISTS_AGE: Duration = Duration::from_hours(24);

/// The names of the files that are unpacked.
const UNPACKED: &str = "root.packages";

/// Downloads what is missing and returns the folder that all packages of `release` are unpacked in.
pub(crate) fn fetch(release: &Release) -> Result<PathBuf> {
    let apt = Apt::new(release)?;
    let root = apt.dir.join("root");
    let unpacked = unpacked(release);
    let files = match apt.current_files(release) {
        Ok(files) => files,
        Err(error) if !unpacked.is_empty() => {
            eprintln!("bench: using the packages fetched earlier ({error:#})");
            return Ok(root);
        }
        Err(error) => return Err(error),
    };
    let wanted: String = files.iter().map(|file| format!("{}\n", file.name)).collect();
    if wanted == unpacked {
        return Ok(root);
    }
    apt.download(&files)?;
    println!("bench: unpacking {} packages of Debian {}", files.len(), release.number);
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for file in &files {
        command::output(Command::new("dpkg").arg("-x").arg(apt.dir.join("debs").join(&file.name)).arg(&root))?;
    }
    fs::write(apt.dir.join(UNPACKED), wanted)?;
    Ok(root)
}

/// The package files that were unpacked, a name a line; nothing where none were.
pub(crate) fn unpacked(release: &Release) -> String {
    fs::read_to_string(layout::release_dir(release).join(UNPACKED)).unwrap_or_default()
}

/// One package's file as the archive has it now.
struct PackageFile {
    package: String,
    name: String,
}

/// apt with its state in a folder of the bench.
struct Apt {
    dir: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(release: &Release) -> Result<Self> {
        let dir = layout::release_dir(release);
        for sub in ["apt/lists/partial", "apt/cache/archives/partial", "debs"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        fs::write(dir.join("apt/sources.list"), Mirror::of_this_machine()?.source_list(release.codename))?;
        fs::write(dir.join("apt/status"), "")?;
        let absolute = fs::canonicalize(dir.join("apt"))?;
        let absolute = absolute.to_str().context("the repository's path is not UTF-8")?;
        let options = [
            format!("Dir::Etc::SourceList={absolute}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".into(),
            "Dir::Etc::PreferencesParts=/dev/null".into(),
            format!("Dir::State::Lists={absolute}/lists"),
            format!("Dir::State::Status={absolute}/status"),
            format!("Dir::Cache={absolute}/cache"),
            // Downloading as the user we are: apt's own user may not read our folder, which only causes a warning.
            "APT::Sandbox::User=".into(),
            "APT::Architecture=amd64".into(),
            "Acquire::Retries=2".into(),
            "Acquire::Languages=none".into(),
            // Hooks of the machine's configuration are about the machine's own lists.
            "APT::Update::Post-Invoke-Success::=true".into(),
        ];
        Ok(Self { dir, options: options.into_iter().flat_map(|option| ["-o".into(), option]).collect() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).env("LC_ALL", "C");
        command
    }

    /// The file of every package that the bench uses, after refreshing the lists where they are old.
    fn current_files(&self, release: &Release) -> Result<Vec<PackageFile>> {
        self.update_lists()?;
        let mut names = release.packages();
        names.extend(self.kernel_packages()?);
        let uris = command::text(self.command("apt-get").args(["download", "--print-uris"]).args(&names))?;
        // 'URI' NAME_VERSION_ARCH.deb SIZE HASH
        let mut files: Vec<PackageFile> = uris
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1))
            .filter_map(|name| Some(PackageFile { package: name.split_once('_')?.0.to_owned(), name: name.to_owned() }))
            .collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        for name in &names {
            ensure!(files.iter().any(|file| file.package == *name), "no package {name} in Debian {}", release.number);
        }
        Ok(files)
    }

    fn update_lists(&self) -> Result<()> {
        let stamp = self.dir.join("apt/updated");
        let sources = fs::read_to_string(self.dir.join("apt/sources.list"))?;
        let age = fs::metadata(&stamp).and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
        // The stamp holds the sources, so that another mirror means new lists.
        if age.is_some_and(|age| age < LISTS_AGE) && fs::read_to_string(&stamp).is_ok_and(|text| text == sources) {
            return Ok(());
        }
        println!("bench: fetching package lists");
        // `apt-get update` succeeds with a warning when a list could not be fetched; Error-Mode makes that a failure.
        retry(|| command::output(self.command("apt-get").args(["-q", "-o", "APT::Update::Error-Mode=any", "update"])))?;
        Ok(fs::write(stamp, sources)?)
    }

    /// The kernel package behind the meta package, and what that consists of: since Debian 14 the kernel and its modules are packages of
    /// their own.
    fn kernel_packages(&self) -> Result<Vec<String>> {
        let depends = |package: &str| command::text(self.command("apt-cache").args(["depends", package]));
        let of_meta = depends(KERNEL)?;
        let version = dependencies(&of_meta).find_map(|name| name.strip_prefix("linux-image-"));
        let version = version.with_context(|| format!("{KERNEL} depends on no kernel:\n{of_meta}"))?;
        let image = format!("linux-image-{version}");
        let parts = depends(&image)?;
        let parts = dependencies(&parts).filter(|name| name.starts_with("linux-") && name.ends_with(version));
        Ok(parts.map(str::to_owned).chain([image.clone()]).collect())
    }

    fn download(&self, files: &[PackageFile]) -> Result<()> {
        let debs = self.dir.join("debs");
        let missing: Vec<&PackageFile> = files.iter().filter(|file| !debs.join(&file.name).exists()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        println!("bench: downloading {} packages", missing.len());
        let packages: Vec<&str> = missing.iter().map(|file| file.package.as_str()).collect();
        retry(|| command::output(self.command("apt-get").args(["-q", "download"]).args(&packages).current_dir(&debs)))?;
        drop_others(&debs, files)?;
        match missing.iter().find(|file| !debs.join(&file.name).exists()) {
            Some(file) => bail!("apt-get download did not bring {}", file.name),
            None => Ok(()),
        }
    }
}

/// The packages that `apt-cache depends` says one depends on.
fn dependencies(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "))
}

/// Deletes package files of versions that are no longer used.
fn drop_others(debs: &Path, files: &[PackageFile]) -> Result<()> {
    for entry in fs::read_dir(debs)? {
        let entry = entry?;
        if !files.iter().any(|file| *file.name == *entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Tries three times: mirrors fail now and then.
fn retry<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    for pause in [2, 5] {
        match work() {
            Ok(value) => return Ok(value),
            Err(error) => eprintln!("bench: trying again in {pause} s: {error:#}"),
        }
        thread::sleep(Duration::from_secs(pause));
    }
    work()
}
