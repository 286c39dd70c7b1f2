//! A root file system with Debian as its packages configure it: systemd, Xen and its tools, the kernel; and what the bench needs to be heard.
//!
//! It depends on packages only, and is kept until this recipe changes or `make distclean`. mmdebstrap makes it; mke2fs fills the file system from
//! the folder, so nothing is mounted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{command, layout, release::Release, sources::Mirror, vmlinux};

/// What is installed. Packages that these recommend are not.
const PACKAGES: &str = "systemd-sysv,udev,dbus,kmod,sudo,initramfs-tools,linux-image-amd64,xen-system-amd64,pciutils";

/// Run by mmdebstrap before packages beyond the essential ones are there; `$1` is the root. The initramfs gets what this machine's disk needs, so that it is
/// unpacked soon.
const BEFORE: &str = r#"mkdir -p "$1/etc/initramfs-tools/conf.d"
echo MODULES=list > "$1/etc/initramfs-tools/conf.d/bench"
echo COMPRESS=gzip >> "$1/etc/initramfs-tools/conf.d/bench"
printf 'virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n' > "$1/etc/initramfs-tools/modules""#;

/// Run when all packages are installed. A machine that knows its name and its id asks nobody for them at its first boot.
const AFTER: &str = r#"echo host > "$1/etc/hostname"
printf '127.0.0.1 localhost host\n' > "$1/etc/hosts"
echo 0123456789abcdef0123456789abcdef > "$1/etc/machine-id"
mkdir "$1/share"
printf '/dev/vda / ext4 noatime 0 1\nshare /share 9p trans=virtio,version=9p2000.L,msize=131072 0 0\n' > "$1/etc/fstab"
cat > "$1/etc/systemd/system/bench.service" <<'UNIT'
[Unit]
Description=Cases of the bench
After=multi-user.target
RequiresMountsFor=/share
FailureAction=reboot-force

[Service]
Type=oneshot
ExecStart=/share/agent installed
StandardOutput=tty
TTYPath=/dev/hvc0
KillMode=process

[Install]
WantedBy=multi-user.target
UNIT
mkdir -p "$1/etc/systemd/system/multi-user.target.wants"
ln -s ../bench.service "$1/etc/systemd/system/multi-user.target.wants/bench.service"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
	getty@tty1.service serial-getty@hvc0.service; do
	ln -sf /dev/null "$1/etc/systemd/system/$unit"
done
rm -rf "$1"/var/cache/apt/archives/*.deb"#;

/// Size of the disk: twice what the packages take. The file has holes.
const DISK_SIZE: &str = "3G";

/// Files that a Debian host boots from.
pub(crate) struct HostImage {
    /// Xen as an ELF file.
    pub(crate) xen: PathBuf,
    /// Linux as an ELF file.
    pub(crate) linux: PathBuf,
    /// The initramfs as initramfs-tools made it.
    pub(crate) initramfs: PathBuf,
    /// The disk, to be copied for each run.
    pub(crate) disk: PathBuf,
}

impl HostImage {
    /// Makes it where it is missing.
    pub(crate) fn build(release: &Release) -> Result<Self> {
        let dir = layout::release_dir(release).join("host");
        let image = Self {
            xen: dir.join("xen.elf"),
            linux: dir.join("vmlinux"),
            initramfs: dir.join("initrd.img"),
            disk: dir.join("root.img"),
        };
        let stamp = dir.join("recipe");
        let recipe = [PACKAGES, BEFORE, AFTER].join("\n");
        if fs::read_to_string(&stamp).is_ok_and(|text| text == recipe) {
            return Ok(image);
        }
        println!("bench: making the root file system of a Debian {} host (minutes)", release.number);
        let user = command::text(Command::new("id").arg("-u"))?;
        ensure!(
            user.trim() == "0",
            "mmdebstrap needs root to make the root file system of a host: run make test-debian as root"
        );
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let root = dir.join("root");
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--quiet", "--mode=root", "--variant=apt", "--format=directory", "--architectures=amd64"]);
        mmdebstrap.arg(format!("--include={PACKAGES}"));
        for folder in ["doc", "locale", "man"] {
            mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
        }
        mmdebstrap.arg("--dpkgopt=path-include=/usr/share/doc/pcidom/*");
        mmdebstrap.arg(format!("--essential-hook={BEFORE}")).arg(format!("--customize-hook={AFTER}"));
        mmdebstrap.arg(release.codename).arg(&root);
        mmdebstrap.args(Mirror::of_this_machine()?.source_list(release.codename).lines());
        command::output(&mut mmdebstrap)?;
        let xen = boot_file(&root, "xen-", "-amd64.gz")?;
        fs::write(&image.xen, command::output(Command::new("gzip").arg("-dc").arg(xen))?)?;
        fs::write(&image.linux, vmlinux::extract(&boot_file(&root, "vmlinuz-", "")?)?)?;
        fs::copy(boot_file(&root, "initrd.img-", "")?, &image.initramfs)?;
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(&root).arg(&image.disk).arg(DISK_SIZE);
        command::output(&mut mke2fs)?;
        fs::remove_dir_all(&root)?;
        fs::write(&stamp, recipe).with_context(|| format!("writing {}", stamp.display()))?;
        Ok(image)
    }
}

/// The file in `/boot` with this beginning and this end of its name.
fn boot_file(root: &Path, prefix: &str, suffix: &str) -> Result<PathBuf> {
    let names = fs::read_dir(root.join("boot"))?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found = names.filter(|name| name.starts_with(prefix) && name.ends_with(suffix));
    let name = found.next().with_context(|| format!("no {prefix}*{suffix} in /boot of the packages"))?;
    Ok(root.join("boot").join(name))
}
