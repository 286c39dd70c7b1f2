//! User interface: the command line, and the output of commands.

pub(crate) mod arguments;
pub(crate) mod columns;
pub(crate) mod command;
pub(crate) mod completions;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod print;
pub(crate) mod prometheus;
pub(crate) mod report;
pub(crate) mod resident;
pub(crate) mod show;
pub(crate) mod status;
mod turn;
pub(crate) mod xl_words;
