//! What a guest keeps of a device that is taken from it is found.

use anyhow::{Context, Result, ensure};

use super::Case;
use crate::dom0::{
    bed::Bed,
    devices::{E1000, EDU, attribute},
    snapshot::debug_key,
};

pub(super) const CASES: &[Case] = &[Case::within(std::time::Duration::from_mins(6), "audit_experiment", experiment)];

fn experiment(bed: &mut Bed) -> Result<()> {
    bed.broker()?;
    let guest = bed.guest_with("clinger", &[EDU, E1000])?;
    bed.in_guest(&guest, "load e1000")?;
    bed.in_guest(&guest, "ip link set eth0 up; cat /proc/interrupts")?;
    let resource = attribute(EDU, "resource")?;
    let start = resource.split(' ').next().context("no resource")?.to_owned();
    let said = bed.in_guest(&guest, &format!("hold {start} 8192"))?;
    println!("agent: held {start}: {}", String::from_utf8_lossy(&said));
    for key in ["e", "i"] {
        for line in debug_key(bed, key)? {
            println!("agent: before {key}: {line}");
        }
    }
    let outcome = bed.try_pcidom(&["-v", "detach", &guest.name, EDU, E1000])?;
    println!("agent: {:?} {}", outcome.status, outcome.stderr);
    let said = bed.in_guest(&guest, "peek")?;
    println!("agent: peek: {}", String::from_utf8_lossy(&said));
    for key in ["e", "i", "q"] {
        for line in debug_key(bed, key)? {
            println!("agent: after {key}: {line}");
        }
    }
    ensure!(false, "experiment");
    Ok(())
}
