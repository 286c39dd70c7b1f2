//! Checks of the host: Xen, dom0, loaded modules, running daemons.

use super::check::Check;
use crate::error::{Doing, Error};
use crate::host::Host;
use crate::host::domain;
use crate::host::ecam::Protection;
use crate::host::lock;
use crate::host::open;
use crate::host::terminal::Terminal;
use crate::ops::attach::find_stub;
use crate::ops::versions;
use crate::xen::XenVersion;
use ::dom0::xen::{LibxenRings, Libxencall};
use pcidom_abi::PartVersion;

/// A host, as far as it can be opened.
pub(crate) struct Opened {
    /// One for each step.
    pub(super) checks: Vec<Check>,
    pub(super) host: Option<Host>,
}

impl Opened {
    /// Takes the steps of [`open::check`] one by one, up to the first that fails.
    pub(crate) fn new(verbose: bool) -> Self {
        let mut checks = Vec::new();
        let host =
            Self::open(&mut checks, verbose).map_err(|(name, error)| checks.push(Check::error(name, &error))).ok();
        Self { checks, host }
    }

    fn open(checks: &mut Vec<Check>, verbose: bool) -> Result<Host, (&'static str, Error)> {
        let version = open::version().map_err(|error| ("xen", error))?;
        checks.push(if version.is_tested() {
            Check::ok("xen", format!("this is Xen {version}"))
        } else {
            Check::warning("xen", format!("this is Xen {version}"), "pcidom's tests run with Xen 4.17 and 4.20")
        });
        open::check_root().map_err(|error| ("root", error))?;
        checks.push(Check::ok("root", "this is root"));
        open::check_dom0().map_err(|error| ("dom0", error))?;
        checks.push(Check::ok("dom0", "this is dom0"));
        let host =
            open::connect(version, Terminal::standard_error(verbose, false)).map_err(|error| ("interfaces", error))?;
        checks.push(Check::ok("interfaces", "libxenctrl and xenstore can be used"));
        checks.push(broker_libraries(version));
        Ok(host)
    }

    #[cfg(test)]
    pub(crate) fn of(host: Host) -> Self {
        Self { checks: Vec::new(), host: Some(host) }
    }
}

/// Only the broker needs them.
fn broker_libraries(version: XenVersion) -> Check {
    let opened = Libxencall::open(version).map(drop).and_then(|()| LibxenRings::open(version).map(drop));
    match opened {
        Ok(()) => Check::ok("libraries", "the broker finds its libraries and devices"),
        Err(error) => Check::failed(
            "libraries",
            format!("the broker cannot run: {error}"),
            "install Xen's libraries (libxencall, libxengnttab, libxenevtchn) and load xen-gntdev and xen-evtchn",
        ),
    }
}

pub(super) fn checks(host: &Host, backend: &str) -> Vec<Check> {
    vec![
        Check::of("iommu", iommu(host)),
        interrupt_remapping(host),
        ecam(host),
        protection(host),
        pciback(host),
        stub(host, backend),
        broker(),
        versions(host, backend),
        vectors(host),
    ]
}

fn iommu(host: &Host) -> Result<Check, Error> {
    if host.hypervisor.has_iommu().doing(|| "looking at the host".to_owned())? {
        return Ok(Check::ok("iommu", "Xen uses an IOMMU"));
    }
    Err(Error::NoIommu)
}

/// Xen says it when it boots (`iommu_setup`, `xen/drivers/passthrough/iommu.c`) and never again.
fn interrupt_remapping(host: &Host) -> Check {
    const NAME: &str = "interrupt remapping";
    let messages = host.xl.messages().unwrap_or_default();
    let says = |word: &str| messages.lines().any(|line| line.contains(&format!("Interrupt remapping {word}")));
    if says("enabled") {
        Check::ok(NAME, "Xen uses it")
    } else if says("disabled") {
        Check::warning(
            NAME,
            "Xen does not use it: a guest with a device can send any interrupt to the host",
            "see that the firmware offers it and that iommu=no-intremap is not on Xen's command line",
        )
    } else {
        Check::warning(
            NAME,
            "it cannot be told",
            "Xen's boot messages are not in `xl dmesg` any more: look at /var/log/xen",
        )
    }
}

fn ecam(host: &Host) -> Check {
    if host.sysfs.has_ecam() {
        return Check::ok("ecam", "firmware describes an ECAM window");
    }
    Check::failed(
        "ecam",
        "firmware describes no ECAM window (ACPI table MCFG), so no configuration space can be served",
        "a PCI Express machine has one; a virtual one needs a chip set such as QEMU's q35",
    )
}

/// The backend is to read configuration space, not to write it.
fn protection(host: &Host) -> Check {
    const NAME: &str = "ecam protection";
    let protection = Protection::find(host);
    match protection.trouble() {
        Some(what) => Check::warning(
            NAME,
            format!(
                "{what}: a backend that was taken over could write the configuration space of its devices past Xen and the broker"
            ),
            "take mmcfg=0 from Xen's command line if the backend does not run with config=direct; have the firmware reserve the window",
        ),
        None if protection == Protection::Unknown => Check::warning(
            NAME,
            "it cannot be told whether Xen uses every MMCFG window",
            "Xen's boot messages are not in `xl dmesg` any more: look at /var/log/xen for \"Not using MCFG\"",
        ),
        None => Check::ok(NAME, "Xen lets a backend read configuration space, not write it"),
    }
}

fn pciback(host: &Host) -> Check {
    if host.sysfs.has_pciback() {
        return Check::ok("xen-pciback", "it is there to park devices");
    }
    Check::error("xen-pciback", &Error::NoPciback)
}

fn stub(host: &Host, backend: &str) -> Check {
    match find_stub(host, backend) {
        Ok(stub) => Check::ok("backend", format!("{stub} is ready")),
        Err(error) => Check::error("backend", &error),
    }
}

fn broker() -> Check {
    match lock::broker_pid() {
        Some(pid) => Check::ok("broker", format!("it runs (process {pid})")),
        None => Check::failed(
            "broker",
            "it does not run: guests can read, but not write nor set up interrupts",
            "start `pcidom serve`, best by its systemd unit",
        ),
    }
}

/// Whether command, broker and backend understand each other.
fn versions(host: &Host, backend: &str) -> Check {
    const NAME: &str = "versions";
    let look = || {
        versions::check_broker(host)?;
        versions::check_named(host, backend)?;
        let mut parts = vec![format!("command {}", PartVersion::own())];
        if lock::broker_pid().is_some() {
            parts.push(format!("broker {}", versions::of_broker(host)?));
        }
        if let Some((stub, _)) = domain::find(host, backend)?
            && let Some(version) = versions::of_stub(host, stub.id)?
        {
            parts.push(format!("backend {version}"));
        }
        Ok(Check::ok(NAME, parts.join(", ")))
    };
    Check::of(NAME, look())
}

/// A guest gets 32 vectors unless Xen's command line says otherwise.
fn vectors(host: &Host) -> Check {
    let line = host.xl.command_line().unwrap_or_default();
    let wanted = line.split_whitespace().find_map(|word| word.strip_prefix("extra_guest_irqs="));
    match wanted {
        Some(count) => {
            Check::ok("vectors", format!("guests get as many as extra_guest_irqs={count} on Xen's command line says"))
        }
        None => Check::ok("vectors", "guests get 32 each; extra_guest_irqs= on Xen's command line gives more"),
    }
}
