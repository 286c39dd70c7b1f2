//! Direct mode: the stub writes configuration space by itself, where Xen lets it.

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    devices::{EDU, NVME, config, sysfs},
    fixture::Fixture,
    stub,
};

/// On hosts as they are.
pub(super) const READ_ONLY: &[Case] =
    &[Case::new("direct_mode_is_refused_where_configuration_space_is_read_only", refused)];

/// On a host with `mmcfg=0`.
pub(super) const WRITABLE: &[Case] = &[
    Case::new("direct_mode_writes_without_a_broker", writes_alone),
    Case::new("direct_mode_gets_vectors_from_the_broker", vectors),
];

const WORDS: &str = "config=direct";

fn refused(fixture: &mut Fixture) -> Result<()> {
    const OTHER: &str = "direct";
    fixture.stub_with_pool()?;
    fixture.free(EDU)?;
    let other = fixture.start_stub(OTHER, WORDS)?;
    fixture.pcidom(&["assignable", "remove", EDU])?;
    fixture.pcidom_fails(&["assignable", "add", "--backend", OTHER, EDU], 1, "mmcfg=0")?;
    fixture.destroy(&other)?;
    fixture.pcidom(&["assignable", "add", EDU])?;
    Ok(())
}

/// The stub in this mode, which the pool and the guest of these cases use.
fn direct_stub(fixture: &mut Fixture) -> Result<()> {
    if !fixture.domains.iter().any(|domain| domain.name == stub::NAME) {
        fixture.start_stub(stub::NAME, WORDS)?;
    }
    Ok(())
}

fn writes_alone(fixture: &mut Fixture) -> Result<()> {
    direct_stub(fixture)?;
    fixture.kill_broker();
    let guest = fixture.guest_with("direct", &[EDU, NVME])?;
    let register = format!("{}/config", sysfs(&fixture.virtual_address(&guest, EDU)?));
    for (word, wanted) in [("6", 4), ("2", 0), ("6", 4)] {
        fixture.in_guest(&guest, &format!("printf '\\{word}\\0' | dd of={register} bs=1 seek=4 conv=notrunc"))?;
        let command = *config(EDU)?.get(4).context("an empty configuration space")?;
        ensure!(command & 4 == wanted, "after a write of {word} the command register is {command:02x}");
        // Decoding is on whatever the guest writes.
        ensure!(command & 2 == 2, "the command register is {command:02x}");
    }
    Ok(())
}

fn vectors(fixture: &mut Fixture) -> Result<()> {
    const DISK: &str = "/dev/nvme0n1";
    direct_stub(fixture)?;
    fixture.broker()?;
    let guest = fixture.guest_with("direct", &[EDU, NVME])?;
    fixture.in_guest(&guest, "load nvme")?;
    fixture.await_disk(&guest, DISK)?;
    fixture.check_kind(&guest, "nvme0q", "pcifront-msi-x", 2)?;
    fixture.in_guest(&guest, &format!("disk-write {DISK} 1 4"))?;
    fixture.in_guest(&guest, &format!("disk-check {DISK} 1 4"))?;
    Ok(())
}
