//! Devices come and go while their guests run.

pub(super) mod cycles;
pub(super) mod data;
pub(super) mod failures;
pub(super) mod killed;
pub(super) mod life;
pub(super) mod other_frontends;
pub(super) mod sequence;
pub(super) mod sets;
pub(super) mod surprise;

use super::Case;

/// The guests of these cases. They stay from case to case, whatever devices they have.
const ONE: &str = "one";
const TWO: &str = "two";
