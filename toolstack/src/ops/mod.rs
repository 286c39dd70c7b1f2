//! Operations on devices: adding to the pool, attaching, detaching, and recovery of unfinished work.

pub(crate) mod assignable;
pub(crate) mod attach;
pub(crate) mod close;
pub(crate) mod connect;
pub(crate) mod detach;
pub(crate) mod device_status;
pub(crate) mod dom0_use;
pub(crate) mod driver_domain;
pub(crate) mod executor;
pub(crate) mod hot_unplug;
pub(crate) mod in_use;
pub(crate) mod intent_log;
pub(crate) mod maintenance;
pub(crate) mod named_devices;
pub(crate) mod parking;
pub(crate) mod patience;
pub(crate) mod plan;
pub(crate) mod pool;
pub(crate) mod reattach;
pub(crate) mod recover;
pub(crate) mod recover_intents;
pub(crate) mod release;
pub(crate) mod unfinished_guests;
pub(crate) mod versions;
pub(crate) mod wait;
