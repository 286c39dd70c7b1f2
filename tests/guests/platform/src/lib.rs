//! Code shared by the test images.
#![no_std]

mod offered_page;
mod transport;

pub use offered_page::OfferedPage;
pub use transport::RingTransport;
