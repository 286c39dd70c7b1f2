//! Xen's security advisories about what toolstacks do with devices, a file each: what the attacker does, and what we answer. The table in
//! `docs/threat-model.md` has all of them; those about stub and broker are in `tests/sim/tests/advisories`.

mod xsa_057;
mod xsa_302;
mod xsa_400;
mod xsa_449;
mod xsa_461;
mod xsa_476;

use super::{TIMEOUT, attach_to_web, attached, detach_from_web};
