//! The view of a function, over configuration spaces that are plain memory.

mod hostile;
mod inventory;
mod lists;
mod policy;
mod sweep;
mod table;
mod vectors;

use crate::fakes::{Known, Memory};
use crate::view::VirtualConfig;

fn assign(known: &Known, memory: &Memory) -> VirtualConfig {
    VirtualConfig::new(&known.description(), memory)
}
