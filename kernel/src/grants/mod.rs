//! Grant tables, version 1 (`xen/include/public/grant_table.h`): pages that others give us ([`map`]) and pages that we give ([`table`]).

pub mod map;
mod status;
pub mod table;

pub use map::{GrantMapping, MapRequest, map, map_batch, unmap_batch};
pub use status::GrantError;
