//! What the test images have in common, on top of the kernel.
#![no_std]

mod offered_page;
mod transport;

pub use offered_page::OfferedPage;
pub use transport::RingTransport;
