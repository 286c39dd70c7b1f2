//! One request in, one reply out: what a frontend's request means for the function it names (docs/protocol.md §4).
//!
//! | file | what |
//! |---|---|
//! | [`read`](mod@read) | reads of configuration space, which most requests are |
//! | [`execute`](mod@execute) | every other request |
//! | [`interrupts`] | what is checked of a request for MSI or MSI-X |
//! | [`broker_request`] | what only the broker can carry out, and the guest's reply to what came of it |
//! | [`cleanup`] | what the broker has to do to a function, without a request that waits for it |
//! | [`assigned_function`] | the function, with what its guest has made of it |
//! | [`all_ones`] | whether a function is still there |
//! | [`presence`] | when one that is not is looked at again |
//! | [`counters`], [`denied_writes`], [`log_once`] | what people are told |
//!
//! Nothing here waits, allocates or panics, whatever the request says. Messages for the log come back as a [`LogOnce`],
//! which each function issues once for each reason while it is assigned, so no frontend can flood the log (XSA-43).

mod all_ones;
mod assigned_function;
mod broker_request;
mod cleanup;
mod counters;
mod denied_writes;
mod execute;
mod interrupts;
mod log_once;
mod presence;
mod read;

pub(crate) use assigned_function::{AssignedFunction, Interrupts};
pub(crate) use broker_request::{BrokerAnswer, BrokerRequest, Verdict};
pub(crate) use cleanup::Cleanup;
pub use counters::{Count, Counters};
pub(crate) use denied_writes::DeniedWrites;
pub(crate) use execute::{Answer, execute};
pub(crate) use interrupts::are_entries_valid;
pub(crate) use log_once::{LogOnce, Noticed};
pub(crate) use presence::{Away, Next, Presence};
pub(crate) use read::{ReadOutcome, read};

#[cfg(test)]
mod tests;
