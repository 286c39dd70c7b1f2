//! Set-up that every init program needs: mounts and kernel modules.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
    system::{RebootCommand, delete_module, finit_module, reboot},
};

/// Mounts the kernel's file systems and makes the folders that programs expect.
pub(crate) fn mount_system() -> Result<()> {
    mount_at("proc", "proc", "/proc", None)?;
    mount_at("sysfs", "sys", "/sys", None)?;
    mount_at("devtmpfs", "dev", "/dev", None)?;
    // xenconsoled gives each guest's console a terminal.
    mount_at("devpts", "devpts", "/dev/pts", None)?;
    for dir in ["/run/lock", "/run/xen", "/run/xenstored", "/var/lib/xen", "/var/log/xen"] {
        fs::create_dir_all(dir)?;
    }
    for (link, target) in [("/var/run", "/run"), ("/var/lock", "/run/lock")] {
        std::os::unix::fs::symlink(target, link).with_context(|| format!("linking {link}"))?;
    }
    Ok(())
}

/// Mounts `source` of type `kind` at `target`, which is created.
pub(crate) fn mount_at(kind: &str, source: &str, target: &str, options: Option<&CStr>) -> Result<()> {
    fs::create_dir_all(target)?;
    mount(source, target, kind, MountFlags::empty(), options).with_context(|| format!("mounting {target}"))
}

/// Loads a module that the archive was built with, after those it depends on.
pub(crate) fn load_module(name: &str) -> Result<()> {
    load_module_with(name, "")
}

/// As [`load_module`], with parameters for the module itself.
pub(crate) fn load_module_with(name: &str, parameters: &str) -> Result<()> {
    let list = fs::read_to_string("/bench/modules")?;
    let files = list.lines().find_map(|line| line.split_once(": ").filter(|(module, _)| *module == name));
    let (_, files) = files.with_context(|| format!("module {name} is not in the archive"))?;
    let mut files = files.split_whitespace().peekable();
    while let Some(file) = files.next() {
        // The module itself is the last.
        let parameters = CString::new(if files.peek().is_none() { parameters } else { "" })?;
        let path = Path::new("/").join(file);
        let module = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        match finit_module(&module, &parameters, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("loading {}", path.display())),
        }
    }
    Ok(())
}

/// Unloads a module, with its driver.
pub(crate) fn unload_module(name: &str) -> Result<()> {
    // The kernel knows modules by names without dashes.
    delete_module(&CString::new(name.replace('-', "_"))?, 0).with_context(|| format!("unloading {name}"))
}

/// Names of all modules that the archive was built with, in the order to load them.
pub(crate) fn all_modules() -> Result<Vec<String>> {
    let list = fs::read_to_string("/bench/modules")?;
    Ok(list.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect())
}

/// Restarts the domain: in dom0 that ends QEMU.
pub(crate) fn restart() -> ! {
    rustix::fs::sync();
    let error = reboot(RebootCommand::Restart);
    panic!("could not restart: {error:?}");
}
