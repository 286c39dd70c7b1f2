//! The interface that drivers work on.

use alloc::string::String;

use pciif::{Request, Response};

/// A guest's end: its page and port, its FE dir, and the BE dir that it may read.
pub trait Front {
    /// A node of the BE dir.
    fn backend(&mut self, name: &str) -> Option<String>;

    /// Its own state; 0 when there is no such node.
    fn state(&mut self) -> u32;

    /// Goes to a state. A guest whose directory is gone does nothing.
    fn set_state(&mut self, state: u32);

    /// Makes a page and a port and publishes them and state 3, all at once and without a word about device errors.
    fn probe_at_once(&mut self);

    /// Frees page and port without telling anybody.
    fn forget(&mut self);

    /// A request and its answer; `None` when nobody answers.
    fn ask(&mut self, request: &Request) -> Option<Response>;

    /// The backend's state; 0 when there is no such node.
    fn backend_state(&mut self) -> u32 {
        self.number("state").unwrap_or(0)
    }

    /// A node of the BE dir that is a number.
    fn number(&mut self, name: &str) -> Option<u32> {
        self.backend(name)?.parse().ok()
    }
}
