//! Grant tables, version 1 (`xen/include/public/grant_table.h`): pages that others give us ([`map`]) and pages that we give ([`table`]).

pub mod map;
mod status;
pub mod table;

pub use map::{
    GrantMapping, MapRequest, first_word, forget_unclaimed, is_unclaimed, map, map_batch, port_of, unmap_batch,
};
pub use status::GrantError;
