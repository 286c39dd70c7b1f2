//! The running Xen's version, which selects the libxenctrl to load.

use std::path::{Path, PathBuf};

/// Release of the running hypervisor. Domctls change between releases, so libxenctrl carries this number in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XenVersion {
    major: u32,
    minor: u32,
}

impl XenVersion {
    /// Reads the version that the kernel publishes under `sys/hypervisor/version`; `None` where there is no Xen below us.
    pub fn detect(sysfs: &Path) -> Option<Self> {
        let number =
            |name| std::fs::read_to_string(sysfs.join("hypervisor/version").join(name)).ok()?.trim().parse().ok();
        Some(Self { major: number("major")?, minor: number("minor")? })
    }

    /// Whether pcidom's tests run with this release: those of Debian 12 and 13. The ones in between only should work: the calls that are
    /// used have not changed from one to the other.
    pub fn is_tested(self) -> bool {
        self.major == 4 && matches!(self.minor, 17 | 20)
    }

    /// Where a library that comes with that release may be, in the order to try: the loader's own search path (Debian), a
    /// tree per release, a build from source.
    pub fn candidates(self, name: &str) -> Vec<PathBuf> {
        let folders = [
            String::new(),
            format!("/usr/lib/xen-{self}/lib"),
            format!("/usr/lib/xen-{self}/lib/x86_64-linux-gnu"),
            "/usr/lib/x86_64-linux-gnu".to_owned(),
            "/usr/lib64".to_owned(),
            "/usr/local/lib".to_owned(),
        ];
        folders.into_iter().map(|folder| Path::new(&folder).join(name)).collect()
    }
}

impl std::fmt::Display for XenVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fakes::TempTree;

    #[test]
    fn library_name_carries_the_running_release() {
        let tree = TempTree::new();
        tree.write("hypervisor/version/major", "4\n");
        tree.write("hypervisor/version/minor", "20\n");
        let version = XenVersion::detect(tree.path()).unwrap();
        let candidates = version.candidates("libxenctrl.so.4.20");
        assert_eq!(candidates[0], Path::new("libxenctrl.so.4.20"));
        assert!(candidates.contains(&PathBuf::from("/usr/lib/xen-4.20/lib/libxenctrl.so.4.20")));
    }

    #[test]
    fn a_machine_without_xen_has_no_version() {
        assert_eq!(XenVersion::detect(TempTree::new().path()), None);
    }
}
