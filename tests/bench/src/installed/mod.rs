//! The suite `debian`: a Debian host with systemd and Xen as its packages configure them, on which this project's package is installed by
//! the commands of the README, booted with it, upgraded and purged.
//!
//! One disk goes through several boots. The cases run in a unit of the host when it has reached its multi-user target (`tests/agent/src/dom0/installed/`).

mod image;
mod readme;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    boot::BENCH_ERROR,
    command, full,
    images::Images,
    layout,
    qemu::{Clock, Line, Logs, Machine},
    release::Release,
    report::Report,
    tally::Tally,
};
use image::HostImage;

/// The boots that a disk goes through, as the agent calls the suite of each.
pub(crate) const BOOTS: [&str; 2] = ["debian-install", "debian"];

/// Memory of dom0: systemd, apt and the page cache of a disk.
const DOM0_MIB: u32 = 1024;
/// Memory of the machine.
const MACHINE_MIB: u32 = 2560;
/// The CPUs of the machine.
const CPUS: usize = 2;
/// The disk that is passed through (MiB).
const NVME_MIB: u64 = 64;
/// No boot takes longer, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(30);
/// systemd reaches its target in a minute where nothing else runs.
const UNTIL_MULTI_USER: Duration = Duration::from_mins(10);
/// From the end of the last case until the machine has ended. A unit that does not stop has five minutes from systemd.
const UNTIL_DOWN: Duration = Duration::from_mins(3);

/// The packages as `make` left them: that of this tree, and one of an earlier release (`tests/bench/deb-before.sh`).
const PACKAGES: [&str; 2] = ["build/deb", "build/deb-before"];

/// Boots the host and shows its cases.
pub(crate) fn run(release: &Release, filter: &str, verbose: bool) -> Result<bool> {
    let _lock = layout::lock()?;
    // The first boot installs the package, which the others need.
    let mut boots = vec![(BOOTS[0], "")];
    for suite in BOOTS.into_iter().skip(1) {
        if !full::cases(suite, filter)?.is_empty() {
            boots.push((suite, filter));
        }
    }
    let is_known = boots.len() > 1 || !full::cases(BOOTS[0], filter)?.is_empty();
    ensure!(is_known, "no case has {filter:?} in its name");
    let host = HostImage::build(release)?;
    let guests = Images::build(release)?;
    let disk = PathBuf::from(format!("build/bench/debian-{}/run.img", release.number));
    copy_disk(&host.disk, &disk)?;
    let mut sum = Tally::default();
    for (suite, filter) in boots {
        let boot = Boot { host: &host, guests: &guests, disk: &disk, release, suite, filter, verbose };
        let tally = boot.run()?;
        sum += tally;
        if suite == BOOTS[0] && !tally.is_good() {
            eprintln!("bench: the package could not be installed, so the rest is left out");
            break;
        }
    }
    fs::remove_file(&disk)?;
    println!("{sum}");
    Ok(sum.is_good())
}

fn copy_disk(from: &Path, to: &Path) -> Result<()> {
    command::output(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).map(drop)
}

/// One boot of the host.
struct Boot<'a> {
    host: &'a HostImage,
    guests: &'a Images,
    disk: &'a Path,
    release: &'a Release,
    suite: &'a str,
    filter: &'a str,
    verbose: bool,
}

impl Boot<'_> {
    fn run(&self) -> Result<Tally> {
        let name = format!("{}-{}", self.suite, self.release.number);
        let dir = layout::log_dir(&name);
        let started = Instant::now();
        let mut report = Report::default();
        let before = self.disk.with_extension("before.img");
        copy_disk(self.disk, &before)?;
        let mut result = self.boot(&dir, &mut |line| report.line(line).iter().for_each(|line| println!("{line}")));
        if !report.has_begun() {
            // As `Boot::run` does it. The file system has no journal, and was perhaps being written.
            layout::keep_logs(&dir)?;
            let why = result.err().map(|error| format!(" ({error:#})")).unwrap_or_default();
            println!("{BENCH_ERROR}{name} ended before its first case{why}, and is booted once more");
            copy_disk(&before, self.disk)?;
            result = self.boot(&dir, &mut |line| report.line(line).iter().for_each(|line| println!("{line}")));
        }
        fs::remove_file(&before)?;
        if let Err(error) = &result {
            eprintln!("bench: {name}: {error:#}");
        }
        let (tally, missing) = report.finish(result.is_ok());
        missing.iter().for_each(|missing| println!("{missing}"));
        let cpu = result.as_ref().map_or(0, |cpu| cpu.as_secs());
        println!("boot {name} took {} s ({cpu} s of processor time)", started.elapsed().as_secs());
        if !tally.is_good() {
            eprintln!("bench: consoles are in {}", dir.display());
            layout::keep_logs(&dir)?;
        }
        Ok(tally)
    }

    fn boot(&self, dir: &Path, on_report: &mut dyn FnMut(&str)) -> Result<Duration> {
        layout::prepare_logs(dir)?;
        let share = dir.join("share");
        self.fill(&share)?;
        let nvme = dir.join("nvme.img");
        fs::File::create(&nvme)?.set_len(NVME_MIB << 20)?;
        let machine = Machine {
            xen: self.host.xen.clone(),
            xen_options: format!("dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M bootscrub=off loglvl=info guest_loglvl=warning"),
            modules: vec![
                (
                    self.host.linux.clone(),
                    "root=/dev/vda rw console=hvc0 quiet panic=-1 mitigations=off rodata=off cryptomgr.notests \
                     systemd.show_status=true"
                        .into(),
                ),
                (self.host.initramfs.clone(), String::new()),
            ],
            memory: MACHINE_MIB,
            cpus: CPUS,
            clock: Clock::Real,
            devices: devices(self.disk, &share, &nvme),
            qmp: None,
        };
        let mut closed = None;
        let logs = Logs {
            serial: dir.join("dom0.log"),
            report: Some((share.join("report"), UNTIL_MULTI_USER)),
            until: None,
            on_line: &mut |line| match line {
                Line::Serial(line) if self.verbose => println!("| {line}"),
                Line::Serial(_) => {}
                Line::Report(line) => {
                    if Tally::of_line(&line).is_some() {
                        closed = Some(Instant::now());
                    }
                    on_report(&line);
                }
            },
        };
        let result = machine.run(LIMIT, self.verbose, logs).and_then(|cpu| {
            let took = closed.map_or(Duration::ZERO, |closed| closed.elapsed());
            ensure!(took < UNTIL_DOWN, "the host took {} s to go down: a unit does not stop", took.as_secs());
            Ok(cpu)
        });
        for large in ["nvme.img", "share/guest/initrd.img", "share/guest/vmlinux"] {
            // One that stays is no reason to hide how the machine ended.
            let _ = fs::remove_file(dir.join(large));
        }
        result
    }

    /// Puts into the shared folder what the host gets from outside.
    fn fill(&self, share: &Path) -> Result<()> {
        let guest = share.join("guest");
        fs::create_dir_all(&guest)?;
        fs::copy(layout::AGENT, share.join("agent")).with_context(|| format!("copying {}", layout::AGENT))?;
        fs::write(share.join("plan"), full::plan(self.suite, self.filter, false))?;
        fs::write(share.join("readme"), readme::host_commands(&fs::read_to_string("README.md")?)?.join("\n") + "\n")?;
        fs::copy(&self.guests.linux, guest.join("vmlinux"))?;
        self.guests.guest_for_run(&guest.join("initrd.img"))?;
        for (folder, to) in PACKAGES.into_iter().zip(["package", "package-before"]) {
            fs::create_dir(share.join(to))?;
            for entry in fs::read_dir(folder).with_context(|| format!("reading {folder}"))? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "deb") {
                    let name = path.file_name().context("a package without a name")?;
                    fs::copy(&path, share.join(to).join(name))?;
                }
            }
        }
        Ok(())
    }
}

/// The disk, the shared folder, and the devices that are passed through: a network card and QEMU's edu device on bus 0, and an NVMe disk behind a port,
/// at the address that the README uses (`05:00.0`).
fn devices(disk: &Path, share: &Path, nvme: &Path) -> Vec<String> {
    /// Firmware numbers the buses behind ports in their order.
    const PORTS: u32 = 5;
    let mut arguments = Vec::new();
    let mut add = |option: &str, value: String| arguments.extend([format!("-{option}"), value]);
    add("device", "intel-iommu,intremap=on,device-iotlb=off".into());
    add("fsdev", format!("local,id=share,path={},security_model=none", share.display()));
    add("device", "virtio-9p-pci,fsdev=share,mount_tag=share,addr=3".into());
    add("drive", format!("if=none,id=root,format=raw,cache=unsafe,file={}", disk.display()));
    add("device", "virtio-blk-pci,drive=root,addr=4".into());
    add("netdev", "hubport,id=net5,hubid=0".into());
    add("device", "e1000,addr=5,netdev=net5,romfile=".into());
    add("device", "edu,addr=6".into());
    for port in 1..=PORTS {
        add("device", format!("pcie-root-port,id=port{port},chassis={port},addr={:x}", 0xf + port));
    }
    add("drive", format!("if=none,id=nvme,format=raw,file={}", nvme.display()));
    add("device", format!("nvme,serial=bench,drive=nvme,bus=port{PORTS}"));
    arguments
}
