//! The xenbus handshake with one frontend, without any I/O: what the nodes say ([`Nodes`]), what we hold ([`FrontendState`]), and what
//! to do about it ([`decide()`]).
//!
//! Nothing here remembers what was written: every decision compares with the nodes as they were just read, so a toolstack that
//! changes a node under us is simply obeyed (docs/protocol.md §2.2), and a decision that could not be carried out is made again.

mod action;
mod decide;
mod frontend_state;
mod keys;
mod nodes;

pub(crate) use action::{Action, Failure, Node};
pub(crate) use decide::{decide, makes_sense};
pub(crate) use frontend_state::{Connected, Connection, FrontendState, Outcome, Refusal, ShutdownStage};
pub(crate) use keys::{InvalidKey, Keys};
pub(crate) use nodes::{DeviceNodes, MAX_DEVICES, Nodes, Peer, read_state};

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod tests;
