//! Leaked mappings and event channels are found after a detach, and the device is assigned to no other guest (`docs/audit.md`).

use anyhow::{Context, Result, bail, ensure};

use super::Case;
use crate::{
    dom0::{
        devices::{E1000, EDU, attribute},
        fixture::Fixture,
        guests::Domain,
        irqs::Irqs,
        snapshot::{debug_key, rights},
    },
    store::expect,
};

pub(super) const CASES: &[Case] = &[
    Case::new("audit_finds_nothing_when_the_driver_was_unloaded", let_go),
    Case::new("audit_keeps_a_device_from_others_while_its_guest_has_a_bar_mapped", clings),
    Case::new("audit_is_overruled_by_force", by_force),
    Case::new("audit_is_over_with_the_guest", with_the_guest),
];

/// What `edu` says at its first register (QEMU, `docs/specs/edu.txt`).
const EDU_ID: &str = "010000ed";
const LEAKING: &str = "leaking";

/// The guest of these cases, with a device.
fn guest_with(fixture: &mut Fixture, device: &str) -> Result<Domain> {
    fixture.broker()?;
    let known = fixture.domains.iter().any(|domain| domain.name == LEAKING);
    let guest = fixture.guest_with(LEAKING, &[device])?;
    if known {
        fixture.free(device)?;
        fixture.pcidom(&["attach", LEAKING, device])?;
    }
    Ok(guest)
}

/// Detaches, which must succeed, and tells how long looking through each domain took.
fn detach(fixture: &Fixture, device: &str) -> Result<()> {
    let outcome = fixture.try_pcidom(&["-v", "detach", LEAKING, device])?;
    for line in outcome.stderr.lines().filter(|line| line.contains("looked through")) {
        println!("agent: {}", line.trim());
    }
    ensure!(outcome.code() == 0, "detach ended with {}: {}", outcome.code(), outcome.stderr.trim());
    Ok(())
}

fn let_go(fixture: &mut Fixture) -> Result<()> {
    let guest = guest_with(fixture, E1000)?;
    for unloads in [false, true] {
        fixture.in_guest(&guest, "load e1000")?;
        fixture.in_guest(&guest, "ip link set eth0 up")?;
        let before = xens_view(fixture, &guest)?;
        ensure!(before.len() >= 3, "Xen knows of no range, channel and interrupt before: {before:?}");
        if unloads {
            fixture.in_guest(&guest, "unload e1000")?;
        }
        detach(fixture, E1000)?;
        let after = xens_view(fixture, &guest)?;
        ensure!(after.is_empty(), "Xen still knows of {after:?}, of {before:?} before");
        let stub = fixture.stub()?;
        expect(E1000, fixture.pool_state(&stub, E1000)?.as_deref(), "free")?;
        if !unloads {
            fixture.pcidom(&["attach", LEAKING, E1000])?;
        }
    }
    Ok(())
}

/// What a guest has of the host's devices, by Xen's own dumps: ranges of memory and ports that it may use (key `q`), event channels
/// on interrupts (`e`), and interrupts (`i`).
fn xens_view(fixture: &Fixture, guest: &Domain) -> Result<Vec<String>> {
    let owner = format!("rights of domain {}:", guest.id);
    // `I/O Memory { f0000-f0003 }`, or empty braces.
    let is_full =
        |line: &str| line.split_once('{').is_some_and(|(_, rest)| rest.contains(|c: char| c.is_ascii_hexdigit()));
    let mut view = rights(&debug_key(fixture, "q")?);
    ensure!(view.iter().any(|line| line.starts_with(&owner)), "no rights of domain {} in {view:?}", guest.id);
    view.retain(|line| line.starts_with(&owner) && is_full(line));
    view.extend(channels(&debug_key(fixture, "e")?, guest.id)?);
    view.extend(Irqs::now(fixture)?.bound_to(guest.id).into_iter().map(|pirq| format!("interrupt {pirq}")));
    Ok(view)
}

/// The event channels of a domain that are bound to interrupts: state 4 in `domain_dump_evtchn_info`
/// (`xen/common/event_channel.c`), whose lines end in the pirq and the interrupt behind it.
fn channels(dump: &[String], domain: u16) -> Result<Vec<String>> {
    let heading = format!("Event channel information for domain {domain}:");
    let start = dump.iter().position(|line| *line == heading).with_context(|| format!("no {heading:?} in {dump:?}"))?;
    let own = dump.iter().skip(start + 1).take_while(|line| !line.starts_with("Event channel information"));
    Ok(own.filter(|line| line.contains(" s=4 ")).map(|line| format!("event channel {line}")).collect())
}

/// A guest that has `edu`, and has mapped its registers in a way that no driver gives up.
fn clinging(fixture: &mut Fixture) -> Result<Domain> {
    let guest = guest_with(fixture, EDU)?;
    let resource = attribute(EDU, "resource")?;
    let start = resource.split(' ').next().context("no resource")?.to_owned();
    let said = fixture.in_guest(&guest, &format!("hold {start} 8192"))?;
    ensure!(said == EDU_ID.as_bytes(), "edu says {}", String::from_utf8_lossy(&said));
    fixture.pcidom_fails(
        &["detach", LEAKING, EDU],
        1,
        &format!("still with {LEAKING} (domain {}): 2 mappings of 0x", guest.id),
    )?;
    Ok(guest)
}

/// The device is nobody's, the stub has it, and it can be given away.
fn is_free(fixture: &mut Fixture) -> Result<()> {
    let stub = fixture.stub()?;
    expect(EDU, fixture.pool_state(&stub, EDU)?.as_deref(), "free")?;
    let list = fixture.pcidom(&["list"])?;
    ensure!(!list.contains("leaked"), "{list}");
    Ok(())
}

fn clings(fixture: &mut Fixture) -> Result<()> {
    let guest = clinging(fixture)?;
    // It has lost every right, and is still the master of the device.
    let view = xens_view(fixture, &guest)?;
    ensure!(view.is_empty(), "Xen still knows of {view:?}");
    let said = fixture.in_guest(&guest, "peek")?;
    ensure!(said == EDU_ID.as_bytes(), "edu does not answer any more: {}", String::from_utf8_lossy(&said));
    let list = fixture.pcidom(&["list"])?;
    let Some(line) = list.lines().find(|line| line.contains(EDU)) else { bail!("{EDU} is not in {list}") };
    ensure!(
        line.contains(" leaked ") && line.contains(&format!("still with {LEAKING} (domain {})", guest.id)),
        "{line}"
    );
    println!("agent: {line}");
    let other = fixture.create_guest("other", crate::dom0::guests::GuestOptions::default())?;
    for name in ["other", LEAKING] {
        fixture.pcidom_fails(&["attach", name, EDU], 1, "is leaked and cannot be assigned: still with")?;
    }
    fixture.pcidom_fails(&["detach", LEAKING, EDU], 1, "still with")?;
    fixture.in_guest(&guest, "let-go")?;
    detach(fixture, EDU)?;
    is_free(fixture)?;
    fixture.pcidom(&["attach", "other", EDU])?;
    fixture.pcidom(&["detach", "other", EDU])?;
    fixture.destroy(&other)
}

fn by_force(fixture: &mut Fixture) -> Result<()> {
    let guest = clinging(fixture)?;
    fixture.pcidom(&["detach", "--force", LEAKING, EDU])?;
    is_free(fixture)?;
    fixture.in_guest(&guest, "let-go").map(drop)
}

fn with_the_guest(fixture: &mut Fixture) -> Result<()> {
    let guest = clinging(fixture)?;
    fixture.destroy(&guest)?;
    fixture.pcidom(&["reclaim"])?;
    is_free(fixture)?;
    let next = fixture.guest_with("next", &[EDU])?;
    ensure!(fixture.addresses_in(&next)? == ["0000:00:00.0"], "the next guest does not have it");
    fixture.destroy(&next)
}
