//! Why a command fails: one line that names the device, the side and the cause, and what to try.

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use ::dom0::domain::DomainName;
pub(crate) use ::dom0::{Error as HostError, Seconds};

use pcidom_abi::{Fit, PartVersion};
use xen_types::{Errno, Sbdf};
use xenstore::XenbusState;

use crate::xen::{HypercallError, StopSignal};

/// Exit codes of a command that does not succeed; `crate::manual::EXIT_CODES` has their meaning for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCause {
    /// It failed and what had been done was undone.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The guest did not answer in time.
    GuestSilent = 3,
    /// This host, or the way the guest was created, does not allow it.
    NotPermitted = 4,
    /// Another broker is running, and one is enough.
    BrokerRuns = 5,
}

/// A part that a command has to do with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Backend(DomainName),
    Broker,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backend(stub) => write!(f, "the backend {stub}"),
            Self::Broker => f.write_str("the broker"),
        }
    }
}

/// Everything that can stop a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("another broker is running{}", .0.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    BrokerRuns(Option<u32>),
    #[error("Xen uses no IOMMU on this host, so no device can be given to a guest")]
    NoIommu,
    #[error("the xen-pciback module is not loaded in dom0, so no device can be taken from dom0's drivers")]
    NoPciback,

    #[error("there is no guest {0}")]
    NoSuchGuest(String),
    #[error("{0} has no UUID, by which devices could follow it")]
    NoUuid(DomainName),
    #[error(
        "{0} is not a PV guest and has no stub domain with its device model: PCI devices of a driver domain do not reach it"
    )]
    NotPv(DomainName),
    #[error("{guest}: its device model did not {what}: {said}")]
    DeviceModel { guest: DomainName, what: String, said: String },
    #[error("{guest} did not let go of {} within {}", list(.devices), Seconds(*.after))]
    NotUnplugged { guest: DomainName, devices: Vec<Sbdf>, after: Duration },
    #[error("{0} has this uuid already")]
    GuestExists(DomainName),
    #[error("another pcidom command is creating a guest with the uuid of {0}")]
    BeingCreated(String),
    #[error(
        "{guest} runs and has not begun to use {} within {}; they stay attached, and it gets them when its xen-pcifront driver is there",
        list(.devices), Seconds(*.after)
    )]
    NotYetUsed { guest: DomainName, devices: Vec<Sbdf>, after: Duration },
    #[error("{0} was destroyed and is still there")]
    StillThere(DomainName),
    #[error("{guest} cannot get devices: {why}")]
    UnfitGuest { guest: DomainName, why: &'static str },
    #[error("{guest} was created without passthrough, so Xen refuses to give it {device}")]
    NoPassthrough { guest: DomainName, device: Sbdf },
    #[error("{guest} has PCI devices from dom0's xen-pciback, and a guest has one PCI backend only")]
    ServedByDom0 { guest: DomainName },
    #[error("{guest} has PCI devices from another backend, {backend}")]
    ServedByOther { guest: DomainName, backend: DomainName },
    #[error("{guest} lost its connection: its frontend directory was replaced and leads to {backend}")]
    FrontendReplaced { guest: DomainName, backend: String },
    #[error("{guest} has closed its PCI frontend, so nothing can be added to it")]
    FrontendClosed { guest: DomainName },
    #[error("{guest} has PCI devices of a backend that is gone")]
    BackendGone { guest: DomainName },

    #[error("the backend {0} is not running")]
    StubNotRunning(String),
    #[error("the backend {0} is running but has not announced that it is ready")]
    StubNotReady(DomainName),
    #[error("{part} is of release {theirs}, which this command of {} does not understand", PartVersion::own())]
    OtherVersion { part: Part, theirs: PartVersion, fit: Fit },
    #[error("the backend {stub} refuses {device}: {reason}")]
    StubRefuses { stub: DomainName, device: Sbdf, reason: String },
    #[error("the backend {stub} did not answer within {}: {waiting_for}", Seconds(*.after))]
    StubSilent { stub: DomainName, after: Duration, waiting_for: String },
    #[error("the backend {0} went away")]
    StubWentAway(DomainName),
    #[error("the image of {stub} cannot be started again in place: {why}")]
    NotReplaceable { stub: DomainName, why: String },
    #[error("{} cannot take the place of the image that runs: {why}", .image.display())]
    UnfitImage { image: PathBuf, why: String },
    #[error("{} did not come up in {stub}; {after}", .image.display())]
    UpgradeFailed { stub: DomainName, image: PathBuf, after: String },
    #[error("the pool of {stub} has {devices} devices, and cannot have more")]
    PoolFull { stub: DomainName, devices: usize },

    #[error("{stub} serves {device} to {guest}")]
    StubInUse { stub: DomainName, device: Sbdf, guest: DomainName },
    #[error("another device is at {device} than the settings name: {found} is there, and {wanted} is wanted")]
    OtherDevice { device: Sbdf, found: String, wanted: String },
    #[error("there is no PCI device {0}")]
    NoSuchDevice(Sbdf),
    #[error("no assignable device is called {0}")]
    NoSuchName(String),
    #[error("another device is called {name}, {device}")]
    NameTaken { name: String, device: Sbdf },
    #[error("{0} is gone: nothing answers there, though dom0's kernel has not noticed")]
    Gone(Sbdf),
    #[error("{0} answers with ones since its reset")]
    LostByReset(Sbdf),
    #[error("{0} is a bridge, and only endpoints can be given to a guest")]
    Bridge(Sbdf),
    #[error("{device} has {count} virtual functions, which whoever has it can turn off")]
    HasVirtualFunctions { device: Sbdf, count: u32 },
    #[error("{device} is a virtual function of {physical}, which is for guests too and could turn it off")]
    PhysicalFunctionAway { device: Sbdf, physical: Sbdf },
    #[error("{device} is not assignable: {}", driver_text(.driver.as_deref()))]
    NotAssignable { device: Sbdf, driver: Option<String> },
    #[error("{device} is in use by dom0: {what}")]
    UsedByDom0 { device: Sbdf, what: String },
    #[error("{device} is already assigned to {owner}")]
    AlreadyAssigned { device: Sbdf, owner: DomainName },
    #[error("Xen says that another domain has {0}, or that there is no such device")]
    OwnedElsewhere(Sbdf),
    #[error("{device} is in the pool of another backend, {stub}")]
    OtherPool { device: Sbdf, stub: DomainName },
    #[error("{0} is being moved between domains by another command")]
    Unsettled(Sbdf),
    #[error("{device} shares the memory page {page:#x} with {other}")]
    SharedPage { device: Sbdf, other: Sbdf, page: u64 },
    #[error("firmware describes no ECAM window for {0} (ACPI table MCFG), so its configuration space cannot be served")]
    NoEcam(Sbdf),
    #[error("{device} is not attached to {guest}")]
    NotAttached { device: Sbdf, guest: DomainName },
    #[error("{device} is leaked and cannot be assigned: still with {what}")]
    Leaked { device: Sbdf, guest: DomainName, what: String },
    #[error("{guest} sees its devices in mode {mode}, which was chosen with the first of them")]
    OtherExport { guest: DomainName, mode: String },

    #[error("{guest} did not answer within {} (backend {backend}, frontend {frontend})", Seconds(*.after))]
    GuestSilent { guest: DomainName, after: Duration, backend: StateName, frontend: StateName },
    #[error("{guest} stopped closing its devices half-way for {} (frontend {frontend})", Seconds(*.after))]
    GuestHalfClosed { guest: DomainName, after: Duration, frontend: StateName },
    #[error(
        "{guest} was asked to close its PCI frontend, whose backend is gone, and has not (frontend {frontend}); its devices wait for that"
    )]
    NotClosed { guest: DomainName, frontend: StateName },
    #[error("{guest} closed the connection instead of using the devices{}", suffix(.text))]
    GuestRefused { guest: DomainName, text: Option<String> },
    #[error("{0} went away")]
    GuestWentAway(DomainName),
    #[error("the backend {stub} could not export {device}{}", suffix(.text))]
    ExportFailed { stub: DomainName, device: Sbdf, text: Option<String> },
    #[error("the backend {stub} gave up{}", suffix(.text))]
    StubGaveUp { stub: DomainName, text: Option<String> },

    #[error("{what}, after {}", Seconds(*.after))]
    NotInTime { what: String, after: Duration },

    #[error(transparent)]
    Host(#[from] HostError),
    #[error("{0} changes the state of its PCI frontend again and again, so that nothing can be agreed with it")]
    GuestUnsteady(DomainName),
    #[error("{count} {} failed", if *.count == 1 { "check" } else { "checks" })]
    Unhealthy { count: usize },
    #[error("xl {what}: {said}")]
    Xl { what: &'static str, said: String },
    #[error("{place}: {what}")]
    Config { place: String, what: String },
    #[error("interrupted by {0}")]
    Interrupted(StopSignal),
    #[error("{0}")]
    Usage(String),
}

/// A xenbus state by its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateName(pub(crate) XenbusState);

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

fn driver_text(driver: Option<&str>) -> String {
    match driver {
        Some(driver) => format!("dom0's driver {driver} has it"),
        None => "no driver has it, xen-pciback should".to_owned(),
    }
}

/// Devices as messages name them.
pub(crate) fn list(devices: &[Sbdf]) -> String {
    devices.iter().map(Sbdf::to_string).collect::<Vec<_>>().join(", ")
}

fn suffix(text: &Option<String>) -> String {
    text.as_ref().map(|text| format!(": {text}")).unwrap_or_default()
}

impl Error {
    /// The exit code's meaning.
    pub(crate) fn cause(&self) -> ExitCause {
        match self {
            Self::Host(HostError::NoHost(_)) | Self::NoIommu | Self::Unhealthy { .. } | Self::NoPassthrough { .. } => {
                ExitCause::NotPermitted
            }
            Self::GuestSilent { .. }
            | Self::NotUnplugged { .. }
            | Self::GuestHalfClosed { .. }
            | Self::NotClosed { .. }
            | Self::NotInTime { .. }
            | Self::NotYetUsed { .. } => ExitCause::GuestSilent,
            Self::BrokerRuns(_) => ExitCause::BrokerRuns,
            Self::Usage(_) | Self::Config { .. } => ExitCause::Usage,
            _ => ExitCause::Failed,
        }
    }

    /// What the user can try.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoIommu => {
                "enable VT-d or AMD-Vi in the firmware setup and see that `xl info` lists pv_directio".to_owned()
            }
            Self::NoPciback => "modprobe xen-pciback".to_owned(),
            Self::BrokerRuns(_) => "one serves all driver domains of a host; end that one to start another".to_owned(),
            Self::NoSuchGuest(_) => "`xl list` shows the guests".to_owned(),
            Self::NotPv(_) => {
                "create the guest with type=\"pv\", or an HVM guest with device_model_stubdomain_override=1 and a Linux stub domain (docs/hvm.md)"
                    .to_owned()
            }
            Self::NotUnplugged { .. } => {
                "the guest needs PCI hot-plug by ACPI (Linux: acpiphp) and must run; --timeout gives it longer, --force takes the devices".to_owned()
            }
            Self::DeviceModel { .. } => {
                "look at the console of the guest's stub domain; it needs the xen-pcifront driver and a QEMU with Xen's passthrough (docs/hvm.md)".to_owned()
            }
            Self::NoPassthrough { .. } => {
                "put passthrough=\"enabled\" and e820_host=1 into the guest's xl.cfg and create it anew".to_owned()
            }
            Self::ServedByDom0 { .. } => "detach those with `xl pci-detach` first".to_owned(),
            Self::ServedByOther { .. } => "detach all of them, then attach all with one command".to_owned(),
            Self::FrontendReplaced { guest, .. } => format!(
                "`xl pci-attach` did that, and a guest has one PCI backend only; shut the guest down, or take our devices from it with \
                 `pcidom detach --force {} BDF...`",
                guest.id
            ),
            Self::FrontendClosed { .. } => {
                "load its xen-pcifront driver again, or detach the devices that it has".to_owned()
            }
            Self::BackendGone { .. } => {
                "`pcidom list` shows them; take them from the guest with `pcidom detach`".to_owned()
            }
            Self::OtherExport { .. } => "detach them all, then attach all with one command".to_owned(),
            Self::StubNotRunning(_) => {
                "start it with `xl create`, or name the domain that serves PCI with --backend".to_owned()
            }
            Self::NotReplaceable { .. } => {
                "nothing was changed; when no guest has devices of it, `systemctl restart pcidom-backend` creates it anew from the image that is installed"
                    .to_owned()
            }
            Self::UnfitImage { .. } => "nothing was changed; give it the pcidom.elf of a release whose layout and contract are this command's".to_owned(),
            Self::UpgradeFailed { stub, .. } => format!("`pcidom logs --backend {}` shows what it said", stub.id),
            Self::PoolFull { .. } => "start another driver domain for the rest, and name it with --backend".to_owned(),
            Self::OtherVersion { part: Part::Broker, fit: Fit::Older, .. } => {
                "`systemctl restart pcidom` starts the broker that is installed".to_owned()
            }
            Self::OtherVersion { part: Part::Broker, .. } => "install the release that the broker is of".to_owned(),
            Self::OtherVersion { fit: Fit::Older, .. } => {
                "when no guest has devices of it, `systemctl restart pcidom-backend` creates it \
                 anew from the image that is installed"
                    .to_owned()
            }
            Self::OtherVersion { .. } => {
                "install the release that the backend is of, or create it anew from the image of this one".to_owned()
            }
            Self::StubNotReady(stub) => format!("look at its console: `xl console {}`", stub.id),
            Self::StubRefuses { device, .. } => {
                format!("`pcidom assignable remove {device}` and `add` prepare the device anew")
            }
            Self::StubSilent { stub, .. } | Self::StubGaveUp { stub, .. } | Self::ExportFailed { stub, .. } => {
                format!("look at its console: `xl console {}`", stub.id)
            }
            Self::StubInUse { device, guest, .. } => {
                format!("`pcidom detach {} {device}` takes it from the guest", guest.id)
            }
            Self::OtherDevice { device, .. } => {
                format!(
                    "`pcidom identify {device}` prints the line for /etc/pcidom/pcidom.conf that is about the device there now"
                )
            }
            Self::NoSuchDevice(_) => "`lspci -D` in dom0 shows the devices".to_owned(),
            Self::NoSuchName(_) => {
                "`pcidom assignable list -n` shows names, `pcidom assignable add -n NAME BDF` gives one".to_owned()
            }
            Self::Gone(device) => {
                format!("once it is in its slot again, `pcidom assignable remove {device}` and `add` prepare it anew")
            }
            Self::Host(HostError::ResetHangs(_)) => {
                "when it has come to an end, any command goes on with the device; else the host has to be restarted"
                    .to_owned()
            }
            Self::LostByReset(_) => {
                "a reset of another kind (`reset_method` of the device in sysfs) or a power cycle may bring it back".to_owned()
            }
            Self::HasVirtualFunctions { device, .. } => {
                format!("give guests the virtual ones, or write 0 to /sys/bus/pci/devices/{device}/sriov_numvfs first")
            }
            Self::PhysicalFunctionAway { physical, .. } => {
                format!("`pcidom assignable remove -r {physical}` gives it back to dom0's driver")
            }
            Self::UsedByDom0 { .. } => "dom0 cannot do without it; --seize-in-use takes it all the same".to_owned(),
            Self::NotAssignable { device, .. } => format!("`pcidom assignable add {device}` makes it so"),
            Self::AlreadyAssigned { device, owner } => {
                format!("`pcidom detach {} {device}` (or `xl pci-detach`) takes it back", owner.id)
            }
            Self::OwnedElsewhere(_) => "`xl debug-keys Q; xl dmesg` shows which domain has it".to_owned(),
            Self::OtherPool { device, .. } => {
                format!("name that backend with --backend, or `pcidom assignable remove {device}` first")
            }
            Self::SharedPage { other, .. } => {
                format!(
                    "give {other} to the same guest, or have dom0's kernel move BARs apart (pci=resource_alignment=)"
                )
            }
            Self::NotAttached { .. } => "`pcidom list` shows what is where".to_owned(),
            Self::Leaked { device, guest, .. } => format!(
                "unload the device's driver in the guest and detach again; destroying the guest frees it too, and so does \
                 `pcidom detach --force {} {device}`, which trusts the guest",
                guest.id
            ),
            Self::GuestSilent { .. } => {
                "the guest needs the xen-pcifront driver, built in or loaded; --timeout gives it longer".to_owned()
            }
            Self::NotInTime { .. } => "`pcidom list` shows how far it is; --timeout waits longer".to_owned(),
            Self::NotYetUsed { guest, .. } => {
                format!(
                    "`xl console {}` shows how far it is; `pcidom list {}` shows when it has them",
                    guest.id, guest.id
                )
            }
            Self::GuestHalfClosed { .. } => "once it has finished or is gone, run the same command again".to_owned(),
            Self::GuestRefused { .. } => "look at the guest's kernel log".to_owned(),
            // libxl waits for the terminal of a PV domain's console (`console_xswait_callback`, libxl_create.c).
            Self::Xl { said, .. } if said.contains("console tty") => {
                "xl creates no domain without xenconsoled: see that it runs in dom0 (`systemctl restart xenconsoled`, on Debian `/etc/init.d/xen restart`)"
                    .to_owned()
            }
            Self::Host(HostError::Hypercall { source, .. }) => refusal_hint(source.errno).to_owned(),
            Self::Host(HostError::File { source, .. }) => file_hint(source.raw_os_error().map(Errno)).to_owned(),
            Self::Host(HostError::Store(failure)) => store_hint(&failure.why).to_owned(),
            _ => return None,
        })
    }
}

/// Meaning of an error number of Xen, as a hint.
fn refusal_hint(errno: Errno) -> &'static str {
    const ESRCH: Errno = Errno(3);
    match errno {
        Errno::EPERM => {
            "`xl dmesg` says why; a device for which firmware reserved memory together with others needs rdm_policy=relaxed"
        }
        Errno::EBUSY => {
            "another domain has it, or something of it is still in use: `xl debug-keys Q; xl dmesg` shows which domain has which device"
        }
        Errno::ENODEV => {
            "Xen does not know the device, or has another owner for it: `xl debug-keys Q; xl dmesg` shows all of them"
        }
        Errno::ENOSPC => {
            "the guest may have no more interrupts: extra_guest_irqs= on Xen's command line raises the limit"
        }
        Errno::ENOMEM => "Xen has no memory left for it: see `xl info` for free_memory",
        Errno::ENOSYS | Errno::EOPNOTSUPP => "this Xen cannot do that: `pcidom doctor` checks the host",
        ESRCH => "the domain is gone: `xl list` shows who is there",
        _ => "`xl dmesg` may say more",
    }
}

/// Meaning of an error number of a sysfs file, as a hint.
fn file_hint(errno: Option<Errno>) -> &'static str {
    match errno {
        Some(Errno::ENOENT) => {
            "the device, its driver or a kernel module went away: `lspci -Dk` in dom0 shows who is there"
        }
        Some(Errno::ENODEV) => "no such device there, or the driver does not take it: `dmesg` in dom0 may say why",
        Some(Errno::EPERM | Errno::EACCES) => {
            "root may not do that here: is the kernel locked down (Secure Boot), or the process in a sandbox?"
        }
        Some(Errno::EBUSY) => "another driver or process has it: `lspci -Dk` in dom0 shows the drivers",
        Some(Errno::EIO | Errno::ENXIO) => "the device does not answer: `pcidom doctor` looks at it",
        _ => "`dmesg` in dom0 may say more",
    }
}

/// Meaning of an error of xenstored, as a hint.
fn store_hint(why: &str) -> &'static str {
    match why {
        _ if why.contains("EACCES") => "only dom0 may do that: is this dom0, and root?",
        _ if ["ENOSPC", "E2BIG", "EQUOTA"].iter().any(|word| why.contains(word)) => {
            "xenstored has limits: they are in its own manual, and `xenstore-ls /tool/pcidom` shows what is ours"
        }
        _ => "is xenstored running? `xenstore-ls /local` asks it",
    }
}

/// Attaches what was being done to a hypercall's error.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, HypercallError> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| HostError::Hypercall { what: what(), source }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    use crate::store::StoreFailure;

    #[test]
    fn a_missing_xenconsoled_is_named() {
        let said = "libxl: error: libxl_create.c:1976:console_xswait_callback: domain 17 console tty: timed out";
        let error = Error::Xl { what: "create", said: said.to_owned() };
        assert!(error.hint().unwrap().starts_with("xl creates no domain without xenconsoled"));
        assert_eq!(Error::Xl { what: "create", said: "no memory".to_owned() }.hint(), None);
    }

    #[test]
    fn numbers_of_xen_the_kernel_and_xenstored_have_hints() {
        let xen = |errno| HostError::Hypercall {
            what: "assign 0000:05:00.0 to web".to_owned(),
            source: HypercallError { call: "xc_assign_device", errno },
        };
        let file = |errno: i32| HostError::File { path: "/sys/x".into(), source: io::Error::from_raw_os_error(errno) };
        let store = |why: &str| HostError::Store(StoreFailure { what: "write /tool".to_owned(), why: why.to_owned() });
        for (error, words) in [
            (xen(Errno::EBUSY), "debug-keys Q"),
            (xen(Errno::EPERM), "rdm_policy=relaxed"),
            (xen(Errno::ENODEV), "Xen does not know the device"),
            (xen(Errno::EINVAL), "xl dmesg"),
            (file(16), "another driver"),
            (file(1), "locked down"),
            (file(19), "the driver does not take it"),
            (file(2), "went away"),
            (HostError::File { path: "/sys/x".into(), source: io::ErrorKind::UnexpectedEof.into() }, "dmesg"),
            (store("EACCES"), "only dom0"),
            (store("E2BIG (too long)"), "limits"),
            (store("the connection is closed"), "is xenstored running?"),
        ] {
            let error = Error::from(error);
            let hint = error.hint().unwrap();
            assert!(hint.contains(words) && !hint.contains('\n'), "{error}: {hint}");
        }
    }
}
