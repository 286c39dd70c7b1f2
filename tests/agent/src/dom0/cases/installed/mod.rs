//! The package on a Debian host: installed by the README's commands, booted with, upgraded, removed.

mod boot;
mod crashes;
mod life;

use super::case::Case;

/// The first boot, of a host that has Xen and not the package.
pub(crate) const INSTALL: &[&[Case]] = &[life::INSTALL];

/// The next, of a host with the package. The last case purges it.
pub(crate) const BOOTED: &[&[Case]] = &[boot::CASES, crashes::CASES, life::END];
