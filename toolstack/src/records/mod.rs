//! Persistent records in xenstore and on disk: owners of devices, and what commands have begun.

pub(crate) mod configured_devices;
pub(crate) mod device_spec;
pub(crate) mod device_table;
pub(crate) mod device_words;
pub(crate) mod directories;
pub(crate) mod entries;
pub(crate) mod export;
pub(crate) mod guard;
pub(crate) mod quirks;
pub(crate) mod reset_note;
pub(crate) mod running_commands;
