//! Configuration spaces for tests: plain memory, and the registers of some cards. All tests that need one use these.

mod cards;
mod memory;

pub use cards::{Known, network_card, network_card_known, server_card, virtual_function, virtual_function_known};
pub use memory::Memory;
