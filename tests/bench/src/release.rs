//! The Debian releases that the bench can boot, and the packages it takes from them.

use anyhow::{Result, anyhow};

/// One Debian release.
pub(crate) struct Release {
    /// The version number, as given in `DEBIAN=`.
    pub(crate) number: u32,
    /// The name of its suite.
    pub(crate) codename: &'static str,
    /// The Xen version that its packages carry in their names.
    pub(crate) xen: &'static str,
    /// Packages whose names differ between releases.
    own: &'static [&'static str],
}

const RELEASES: [Release; 3] = [
    Release { number: 12, codename: "bookworm", xen: "4.17", own: &["libssl3"] },
    Release { number: 13, codename: "trixie", xen: "4.20", own: &["libssl3t64"] },
    // Not released yet: its packages change. For the newest kernel in guests (`GUESTS=14`).
    Release { number: 14, codename: "forky", xen: "4.20", own: &["libssl3t64"] },
];

/// Everything in dom0 and the guests comes from these packages, the C library included, so the machine's own release does not
/// matter. `xl` loads most of the libraries without ever using them here.
const COMMON: [&str; 35] = [
    "busybox-static",
    "libbz2-1.0",
    "libc6",
    "libcap2",
    "libgcc-s1", // xl aborts in pthread_cancel without libgcc_s.so.1
    "libkmod2",
    "liblzma5",
    "liblzo2-2",
    "libncurses6",
    "libnl-3-200",
    "libnl-route-3-200",
    "libpci3",
    "libtinfo6",
    "libudev1",
    "libuuid1",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "libzstd1",
    "pci.ids",
    "pciutils",
    "xen-utils-common",
    "xenstore-utils",
    "zlib1g",
    // Formatted with the version by `packages`:
    "xen-hypervisor-{xen}-amd64",
    "xen-utils-{xen}",
    "libxenmisc{xen}",
    // Depends on the kernel package proper; `packages::fetch` follows it.
    KERNEL,
];

/// The package whose dependency is the release's current kernel.
pub(crate) const KERNEL: &str = "linux-image-amd64";

impl Release {
    /// The release with this version number.
    pub(crate) fn numbered(number: u32) -> Result<&'static Release> {
        RELEASES.iter().find(|release| release.number == number).ok_or_else(|| {
            anyhow!(
                "there is no Debian {number} here: the bench knows {}",
                RELEASES.map(|r| r.number.to_string()).join(", ")
            )
        })
    }

    /// Names of all packages except the kernel's.
    pub(crate) fn packages(&self) -> Vec<String> {
        let common = COMMON.iter().filter(|&&name| name != KERNEL).map(|name| name.replace("{xen}", self.xen));
        common.chain(self.own.iter().map(|&name| name.to_owned())).collect()
    }
}
