//! What QEMU loads: Xen, the kernel, and initramfs archives for dom0 and guests.
//!
//! The large archives depend on packages only and are kept until a package changes (or this program does). What changes from
//! run to run (the agent, the stub, the tool, the plan) goes into a small second archive that follows the first: the kernel
//! unpacks both.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{command, cpio::Archive, layout, packages, release::Release, unpacked::Unpacked, vmlinux};

/// Modules for dom0: Xen's interfaces, the shared folder and the network. `xen-pciback` parks the devices, `pci-pf-stub` makes virtual functions
/// of one and does nothing else with it.
const DOM0_MODULES: [&str; 10] = [
    "xen-privcmd",
    "xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-pciback",
    "pci-pf-stub",
    "virtio_pci",
    "9p",
    "virtio_net",
];
/// More of the shared folder: found by alias in a full system, so nothing names it as a dependency.
const DOM0_MORE: [&str; 1] = ["9pnet_virtio"];
/// Modules for guests. Only the first is loaded at boot, drivers and the file system on request. The last is for the file system's checksums:
/// found by alias in a full system.
const GUEST_MODULES: [&str; 13] = [
    "xen-pcifront",
    "e1000",
    "e1000e",
    "nvme",
    "ahci",
    "sd_mod",
    "8139cp",
    "xhci-pci",
    "virtio_net",
    "xen-gntalloc",
    "xen-evtchn",
    "ext4",
    "crc32c_generic",
];

/// Programs in dom0, beside busybox.
const DOM0_PROGRAMS: [&str; 16] = [
    "xl",
    "xenstored",
    "oxenstored",
    "xenconsoled",
    "xen-init-dom0",
    "libxl-save-helper",
    "xenstore-ls",
    "xenstore-list",
    "xenstore-read",
    "xenstore-write",
    "xenstore-rm",
    "xenstore-chmod",
    "xenstore-control",
    "lsevtchn",
    "xentrace",
    "lspci",
];

/// The fixed part of the guests' initramfs.
const GUEST_ARCHIVE: &str = "guest.cpio";

/// Files of one release, ready to boot.
pub(crate) struct Images {
    /// Xen as an ELF file.
    pub(crate) xen: PathBuf,
    /// Linux as an ELF file.
    pub(crate) linux: PathBuf,
    /// The fixed part of dom0's initramfs, which holds the guests' kernel and fixed part as well.
    pub(crate) dom0: PathBuf,
    /// For the libraries of the tool, which is built on this machine but runs in dom0.
    unpacked: Unpacked,
}

impl Images {
    /// Fetches the packages of `release` and builds what is missing.
    pub(crate) fn build(release: &Release) -> Result<Self> {
        Self::build_with_guests(release, release)
    }

    /// The same with guests of another release: its kernel and programs.
    pub(crate) fn build_with_guests(release: &Release, guests: &Release) -> Result<Self> {
        let unpacked = Unpacked::new(packages::fetch(release)?, release)?;
        let name =
            if guests.number == release.number { "images".to_owned() } else { format!("images-{}", guests.number) };
        let dir = layout::release_dir(release).join(name);
        let images =
            Self { xen: dir.join("xen.elf"), linux: dir.join("vmlinux"), dom0: dir.join("dom0.cpio"), unpacked };
        let of_guests = Unpacked::new(packages::fetch(guests)?, guests)?;
        let stamp = dir.join("built-by");
        let builder = format!("{}\n{}{}", builder_id()?, packages::unpacked(release), packages::unpacked(guests));
        if fs::read_to_string(&stamp).is_ok_and(|text| text == builder) {
            return Ok(images);
        }
        println!("bench: building images of Debian {} with guests of Debian {}", release.number, guests.number);
        fs::create_dir_all(&dir)?;
        fs::write(&images.xen, command::output(Command::new("gzip").arg("-dc").arg(images.unpacked.hypervisor()))?)?;
        fs::write(&images.linux, vmlinux::extract(&images.unpacked.kernel())?)?;
        let guest = dir.join(GUEST_ARCHIVE);
        guest_archive(&of_guests)?.write(&guest)?;
        let mut dom0 = dom0_archive(&images.unpacked)?;
        // Where examples/guest.cfg looks for it.
        dom0.data("boot/vmlinuz", vmlinux::extract(&of_guests.kernel())?);
        dom0.data("bench/guest.cpio", fs::read(guest)?);
        dom0.write(&images.dom0)?;
        fs::write(stamp, builder)?;
        Ok(images)
    }

    /// Writes the guests' whole initramfs for one run.
    pub(crate) fn guest_for_run(&self, to: &Path) -> Result<()> {
        let mut all = fs::read(self.dom0.with_file_name(GUEST_ARCHIVE))?;
        guest_run_archive()?.write(to)?;
        all.extend(fs::read(to)?);
        Ok(fs::write(to, all)?)
    }

    /// Writes dom0's whole initramfs for one run: the fixed part, the agent and what is under test, with `plan` telling the
    /// agent what to do. `more` are images of the stub beside the one that is shipped, where the run needs them.
    pub(crate) fn dom0_for_run(&self, plan: &str, more: &[&str], to: &Path) -> Result<()> {
        let guest_file = to.with_file_name("guest-run.cpio");
        guest_run_archive()?.write(&guest_file)?;

        let mut archive = Archive::default();
        archive.program("init", Path::new(layout::AGENT))?;
        archive.text("bench/role", "dom0\n");
        archive.text("bench/plan", plan);
        archive.data("bench/guest-run.cpio", fs::read(guest_file)?);
        // The examples that users start from are what the cases use.
        archive.data("etc/xen/pcidom.cfg", fs::read("examples/pcidom.cfg")?);
        archive.data("etc/xen/guest.cfg", fs::read("examples/guest.cfg")?);
        archive.program("usr/lib/xen/boot/pcidom.elf", Path::new(layout::STUB_IMAGE))?;
        for image in more {
            let name = image.trim_start_matches("build/");
            archive.program(&format!("usr/lib/xen/boot/{name}"), Path::new(image))?;
        }
        archive.program("usr/lib/xen/boot/malicious-stub.elf", Path::new(layout::MALICIOUS_STUB_IMAGE))?;
        archive.program("usr/lib/xen/boot/frontend.elf", Path::new(layout::FRONTEND_IMAGE))?;
        archive.program("usr/bin/pcidom", Path::new(layout::TOOL))?;
        self.unpacked.add_libraries_of(&mut archive, Path::new(layout::TOOL))?;
        let run = to.with_file_name("dom0-run.cpio");
        archive.write(&run)?;
        let mut all = fs::read(&self.dom0).with_context(|| format!("reading {}", self.dom0.display()))?;
        all.extend(fs::read(run)?);
        Ok(fs::write(to, all)?)
    }
}

/// What changes from run to run in the guests' initramfs: the agent.
fn guest_run_archive() -> Result<Archive> {
    let mut guest = Archive::default();
    guest.program("init", Path::new(layout::AGENT))?;
    guest.text("bench/role", "guest\n");
    Ok(guest)
}

/// Tells one build of this program from another, so that archives made by an older one are made again.
fn builder_id() -> Result<String> {
    let data = fs::metadata(std::env::current_exe()?)?;
    Ok(format!("{:?} {}", data.modified()?, data.len()))
}

/// What both kinds of archives have.
fn base_archive(unpacked: &Unpacked) -> Result<Archive> {
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "sys", "tmp", "run", "root", "etc", "var", "usr/lib64"] {
        archive.dir(dir);
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        archive.link(name, &format!("usr/{name}"));
    }
    archive.dir("usr/sbin");
    let busybox =
        ["bin/busybox", "usr/bin/busybox"].map(|path| unpacked.path(path)).into_iter().find(|path| path.is_file());
    let busybox = busybox.context("no busybox in the packages")?;
    for applet in command::text(Command::new(&busybox).arg("--list"))?.lines() {
        archive.link(&format!("usr/bin/{applet}"), "busybox");
    }
    archive.program("usr/bin/busybox", &busybox)?;
    unpacked.add_program(&mut archive, "lspci")?;
    archive.data("usr/share/misc/pci.ids", fs::read(unpacked.path("usr/share/misc/pci.ids"))?);
    Ok(archive)
}

fn guest_archive(unpacked: &Unpacked) -> Result<Archive> {
    let mut archive = base_archive(unpacked)?;
    unpacked.add_modules(&mut archive, &GUEST_MODULES)?;
    Ok(archive)
}

fn dom0_archive(unpacked: &Unpacked) -> Result<Archive> {
    let mut archive = base_archive(unpacked)?;
    for program in DOM0_PROGRAMS {
        unpacked.add_program(&mut archive, program)?;
    }
    // The tool loads Xen's libraries at run time, so nothing names them.
    unpacked.add_libraries(&mut archive, "libxen")?;
    unpacked.add_library(&mut archive, "libgcc_s.so.1")?;
    unpacked.add_modules(&mut archive, &[&DOM0_MODULES[..], &DOM0_MORE].concat())?;
    archive.text("etc/xen/xl.conf", "");
    let oxenstored = "etc/xen/oxenstored.conf";
    archive.data(oxenstored, fs::read(unpacked.path(oxenstored))?);
    // That of Xen 4.20 asks the hypervisor through one of these.
    for folder in fs::read_dir(unpacked.path("usr/lib"))? {
        let plugins = format!("usr/lib/{}/ocaml/xsd_glue/xenctrl_plugin", folder?.file_name().display());
        for plugin in fs::read_dir(unpacked.path(&plugins)).into_iter().flatten() {
            let plugin = plugin?;
            archive.data(&format!("{plugins}/{}", plugin.file_name().display()), fs::read(plugin.path())?);
        }
    }
    Ok(archive)
}
