//! What is written down in xenstore and on disk: whose device is whose, and what a command is at.

pub(crate) mod device_spec;
pub(crate) mod device_table;
pub(crate) mod device_words;
pub(crate) mod directories;
pub(crate) mod entries;
pub(crate) mod export;
pub(crate) mod guard;
pub(crate) mod quirks;
pub(crate) mod rollback;
pub(crate) mod running_commands;
