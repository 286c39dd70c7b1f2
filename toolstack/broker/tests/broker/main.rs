//! The broker on a simulated machine (`fakes::bench`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod config_writes;
mod death;
mod guards;
mod hangs;
mod hostile;
mod life;
mod many;
mod random;
mod resets;
mod vectors;

use std::cell::RefCell;
use std::sync::Arc;

use fakes::bench::*;
use fakes::{DB, E1000, EDU, FakeRings, NVME, PHYSICAL, STUB, WEB, device};
use pcidom_abi::BrokerCommand;
use pcidom_broker::records::Phase;
use pcidom_broker::{Broker, Vectors};
use pciif::{ErrorCode, FrontendPage, Request};
use xen_types::DomId;
use xenstore::path;
