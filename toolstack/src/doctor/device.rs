//! Checks of one device: whether it can be assigned, and what it shares with others.

use pcidom_abi::DeviceNode;
use xen_types::{DomId, Sbdf};

use super::check::{Check, Outcome};
use crate::device::resources::{DeviceResources, pages_of_other, shared_page};
use crate::device::state;
use crate::device::virtual_functions;
use crate::error::Error;
use crate::host::Host;
use crate::host::domain;
use crate::ops::assignable;
use crate::records::device_table;
use crate::records::directories;
use crate::records::guard;
use crate::sysfs::PCIBACK;
use pcidom_broker::guard::{Guard, is_taken, look};

/// Vectors that Xen gives a guest by default.
const DEFAULT_VECTORS: u32 = 32;

/// The devices that are parked or with a stub.
pub(super) fn for_guests(host: &Host) -> Result<Vec<Sbdf>, Error> {
    let mut devices = host.sysfs.devices()?;
    devices.retain(|device| host.sysfs.driver(*device).as_deref() == Some(PCIBACK));
    devices.extend(device_table::load(host)?.iter().map(|record| record.device));
    devices.sort_unstable();
    devices.dedup();
    Ok(devices)
}

pub(super) fn checks(host: &Host, device: Sbdf) -> Vec<Check> {
    if let Err(error) = assignable::check_endpoint(host, device) {
        return vec![Check::error("device", &error)];
    }
    let mut checks = vec![
        Check::of("device", presence(host, device)),
        Check::of("guard", guarded(host, device)),
        Check::of(
            "ecam",
            host.sysfs.ecam_frame(device).map(|_| Check::ok("ecam", "its configuration space is in a window")),
        ),
        reset(host, device),
        errors(host, device),
        Check::of("group", group(host, device)),
        Check::of("acs", acs(host, device)),
        Check::of("registers", pages(host, device)),
        Check::of("interrupt line", line(host, device)),
        Check::of("vectors", vectors(host, device)),
        Check::of("phantom functions", phantom_functions(host, device)),
        reserved_memory(host, device),
    ];
    if let Some(physical) = host.sysfs.physical_function(device) {
        checks.push(Check::of("physical function", physical_function(host, device, physical)));
    }
    if checks.first().is_some_and(|check| check.outcome == Outcome::Failed) {
        checks.truncate(1);
    }
    checks
}

fn presence(host: &Host, device: Sbdf) -> Result<Check, Error> {
    if state::is_gone(&host.sysfs.config(device)?)? {
        return Ok(Check::failed(
            "device",
            "it does not answer: its registers read as ones",
            "it was removed, or hangs: a reset of the slot or a power cycle may bring it back",
        ));
    }
    let record = device_table::load_one(host, device)?;
    let driver = host.sysfs.driver(device);
    Ok(match (record, driver.as_deref()) {
        (Some(record), _) => Check::ok("device", format!("it is with a backend (domain {})", record.stub)),
        (None, Some(PCIBACK)) => Check::ok("device", "it is parked and can be attached"),
        (None, driver) => {
            let with = driver.map_or_else(|| "no driver has it".to_owned(), |driver| format!("dom0's {driver} has it"));
            Check::warning("device", with, format!("`pcidom assignable add {device}` takes it for guests"))
        }
    })
}

/// Whether xl keeps its hands off the device, and off what belongs to it.
fn guarded(host: &Host, device: Sbdf) -> Result<Check, Error> {
    const NAME: &str = "guard";
    let Some(record) = device_table::load_one(host, device)? else {
        return Ok(match device_table::libxl_owner(host, device)? {
            Some(owner) => Check::ok(NAME, format!("xl has given it to domain {owner}")),
            None => Check::ok(NAME, "it is in no pool: who comes first gets it"),
        });
    };
    let guard = look(host, &[record])?.pop().unwrap_or(Guard::Sound);
    if let Guard::Names(owner) = guard
        && is_taken(host, &record, guard)?
    {
        let hint = format!("`xl pci-detach {owner} {device}` takes it back into the pool");
        return Ok(Check::failed(NAME, format!("xl has given it to domain {owner}, out of our pool"), hint));
    }
    if !guard::is_parked(host, device) {
        let hint =
            format!("`pcidom assignable add {device}` parks it again, `pcidom assignable remove {device}` lets it go");
        return Ok(Check::failed(
            NAME,
            "it is in the pool and not with xen-pciback: somebody took it from there",
            hint,
        ));
    }
    if let Some(guest) = record.frontend
        && let Err(error) = directories::check_frontend(host, record.stub, &domain::named(host, guest)?)
    {
        return Ok(Check::error(NAME, &error));
    }
    Ok(match (guard, guard::mended(host, device)?) {
        (Guard::Sound, 0) => Check::ok(NAME, "xl gives it to nobody"),
        (Guard::Sound, times) => Check::warning(
            NAME,
            format!("its guard against xl was removed, {times} times, and is there again"),
            "use `pcidom attach` and `detach` for it, not `xl pci-attach` and `pci-detach`",
        ),
        (Guard::Missing | Guard::Names(_), _) => Check::failed(
            NAME,
            "nothing keeps xl from giving it to somebody: its guard is gone",
            "`pcidom reclaim` puts it there again, and so does `pcidom serve` while it runs",
        ),
    })
}

fn physical_function(host: &Host, device: Sbdf, physical: Sbdf) -> Result<Check, Error> {
    const NAME: &str = "physical function";
    if let Err(error) = virtual_functions::check(host, device) {
        return Ok(Check::error(NAME, &error));
    }
    let driver = host.sysfs.driver(physical).map_or_else(|| "nobody".to_owned(), |driver| format!("dom0's {driver}"));
    let decodes = match host.sysfs.sr_iov(physical)? {
        Some(at) => host.sysfs.decodes_virtual_functions(physical, at)?,
        None => false,
    };
    Ok(if decodes {
        Check::ok(NAME, format!("it is {physical}, which {driver} has: take care that nothing there turns it off"))
    } else {
        Check::failed(
            NAME,
            format!("it is {physical}, whose virtual functions do not answer"),
            format!("write 0 and then their number to sriov_numvfs of {physical}"),
        )
    })
}

fn reset(host: &Host, device: Sbdf) -> Check {
    match host.sysfs.reset_methods(device).as_str() {
        "" => Check::warning(
            "reset",
            "Linux knows no way to reset it by itself: what a guest left in it, the next one finds",
            "give it to guests that trust each other",
        ),
        "yes" => Check::ok("reset", "it can be reset"),
        methods => Check::ok("reset", format!("it can be reset ({methods})")),
    }
}

/// Errors that it has reported: correctable ones tell of a bad link, others have cost somebody data.
fn errors(host: &Host, device: Sbdf) -> Check {
    const NAME: &str = "errors";
    if let Ok(Some(why)) = host.read(&DeviceNode::Isolated.of(device)) {
        let hint =
            format!("`pcidom detach` takes it back and resets it, then `pcidom attach` gives it to a guest: {device}");
        return Check::failed(NAME, format!("it is isolated from its guest: {why}"), hint);
    }
    match host.sysfs.error_counters(device) {
        None => Check::ok(NAME, "it reports none, or dom0's kernel counts none"),
        Some(counters) if counters.is_clean() => Check::ok(NAME, "it has reported none"),
        Some(counters) => Check::warning(
            NAME,
            format!("it has reported {counters}"),
            "`dmesg` in dom0 has them; look at slot, cable and firmware",
        ),
    }
}

/// Owner of a device for checks of sharing: devices of one guest may share anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Dom0,
    /// In a pool or parked: not in use.
    Nobody,
    Guest(DomId),
}

fn owner(host: &Host, device: Sbdf) -> Result<Owner, Error> {
    let record = device_table::load_one(host, device)?;
    let stranger = guard::stranger(host, device, record.as_ref())?;
    Ok(match stranger.or_else(|| record?.frontend) {
        Some(guest) => Owner::Guest(guest),
        None if record.is_some() => Owner::Nobody,
        None if host.sysfs.driver(device).as_deref() == Some(PCIBACK) => Owner::Nobody,
        None => Owner::Dom0,
    })
}

/// Those of `others` that are or may be somebody else's. Bridges are nobody's.
fn strangers(host: &Host, device: Sbdf, others: Vec<Sbdf>) -> Result<Vec<Sbdf>, Error> {
    let own = owner(host, device)?;
    let mut strangers = Vec::new();
    for other in others {
        let theirs = owner(host, other)?;
        let together = own == theirs && own != Owner::Dom0 || theirs == Owner::Nobody;
        // One that cannot be told is told.
        if !together && !host.sysfs.is_bridge(other).unwrap_or(false) {
            strangers.push(other);
        }
    }
    Ok(strangers)
}

fn list(devices: &[Sbdf]) -> String {
    devices.iter().map(Sbdf::to_string).collect::<Vec<_>>().join(", ")
}

fn group(host: &Host, device: Sbdf) -> Result<Check, Error> {
    let siblings = host.sysfs.siblings(device)?;
    let strangers = strangers(host, device, siblings.clone())?;
    Ok(if !strangers.is_empty() {
        Check::warning(
            "group",
            format!("the IOMMU may not tell its DMA from that of {}", list(&strangers)),
            format!(
                "give all of them to the same guest: `pcidom assignable add {}`",
                list(&strangers).replace(',', "")
            ),
        )
    } else if siblings.is_empty() {
        Check::ok("group", "it is alone")
    } else {
        Check::ok("group", format!("it goes together with {}", list(&siblings)))
    })
}

/// Whether the ports above it send requests from device to device through the IOMMU (PCIe 5.0 §6.12).
fn acs(host: &Host, device: Sbdf) -> Result<Check, Error> {
    let ports = host.sysfs.ports_without_acs(device)?;
    Ok(if ports.is_empty() {
        Check::ok("acs", "no port above it lets requests past the IOMMU")
    } else {
        Check::warning(
            "acs",
            format!(
                "{} may let it reach other devices below the same port or switch without the IOMMU (no Access Control Services)",
                list(&ports)
            ),
            "give devices below that port to one guest, or use a slot of the processor's own ports",
        )
    })
}

/// Pages of memory with registers of two devices (XSA-461): such a device is not attached without the other.
fn pages(host: &Host, device: Sbdf) -> Result<Check, Error> {
    let resources = DeviceResources::of_registers(host, device)?;
    let mut sharing = host.sysfs.devices()?;
    sharing.retain(|other| *other != device && shared_page(&resources, &pages_of_other(host, *other)).is_some());
    if sharing.is_empty() {
        return Ok(Check::ok("registers", "no page of memory has registers of another device"));
    }
    let shared = format!("a page of memory also has registers of {}", list(&sharing));
    Ok(if strangers(host, device, sharing)?.is_empty() {
        Check::warning("registers", shared, "give them to the same guest, all with one command")
    } else {
        Check::failed("registers", shared, "have dom0's kernel move BARs apart (pci=resource_alignment=)")
    })
}

fn line(host: &Host, device: Sbdf) -> Result<Check, Error> {
    const NAME: &str = "interrupt line";
    const HINT: &str = "use drivers that turn MSI or MSI-X on, or another slot";
    let Some(gsi) = host.sysfs.gsi(device)? else {
        return Ok(if host.sysfs.has_pin(device)? {
            let text = "its pin leads to no line that a guest can have (1 to 254)";
            Check::warning(NAME, text, "use drivers that turn MSI or MSI-X on")
        } else {
            Check::ok(NAME, "it has none")
        });
    };
    let mut sharing = Vec::new();
    for other in host.sysfs.devices()?.into_iter().filter(|other| *other != device) {
        match host.sysfs.gsi(other) {
            Ok(theirs) if theirs == Some(gsi) => sharing.push(other),
            Ok(_) => {}
            Err(error) => host.note(&format!("{other} is left out where interrupt lines are compared: {error}")),
        }
    }
    let strangers = strangers(host, device, sharing.clone())?;
    if !strangers.is_empty() {
        let text = format!("{gsi} is also that of {}: an interrupt storm on it affects all of them", list(&strangers));
        return Ok(Check::warning(NAME, text, HINT));
    }
    // Those that nobody has may go to other guests than this one.
    let mut free = Vec::new();
    for other in sharing {
        if owner(host, other)? == Owner::Nobody {
            free.push(other);
        }
    }
    Ok(if free.is_empty() {
        Check::ok(NAME, format!("nobody else uses {gsi}"))
    } else {
        let text = format!("{gsi} is also that of {}, which nobody has and other guests may get", list(&free));
        Check::warning(NAME, text, format!("give all of them to one guest; or {HINT}"))
    })
}

fn vectors(host: &Host, device: Sbdf) -> Result<Check, Error> {
    let count = host.sysfs.msix_vectors(device)?;
    let is_raised = host.xl.command_line().unwrap_or_default().contains("extra_guest_irqs=");
    Ok(if count > DEFAULT_VECTORS && !is_raised {
        Check::warning(
            "vectors",
            format!("it has {count} MSI-X vectors, and a guest gets {DEFAULT_VECTORS} for all its devices"),
            format!("extra_guest_irqs={} on Xen's command line", count.next_power_of_two().max(64)),
        )
    } else {
        Check::ok("vectors", format!("{count} for MSI-X"))
    })
}

fn phantom_functions(host: &Host, device: Sbdf) -> Result<Check, Error> {
    Ok(if host.sysfs.has_phantom_functions(device)? {
        Check::warning(
            "phantom functions",
            "it may use the numbers of other functions for its DMA (XSA-449)",
            "pci-phantom= on Xen's command line tells Xen of them",
        )
    } else {
        Check::ok("phantom functions", "none")
    })
}

fn reserved_memory(host: &Host, device: Sbdf) -> Check {
    const NAME: &str = "reserved memory";
    match host.sysfs.has_reserved_memory(device) {
        Some(false) => Check::ok(NAME, "firmware has reserved none for it"),
        Some(true) => Check::warning(
            NAME,
            "firmware has reserved memory for its DMA (RMRR), which a guest would have to map",
            "rdm_policy=relaxed attaches it nevertheless; see XSA-400",
        ),
        None => Check::ok(NAME, "no table of firmware's tells (only Intel's VT-d has one)"),
    }
}
