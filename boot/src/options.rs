//! The stub's command line: `extra="export=vpci config=broker log=info restart=limited"` in its configuration.

use kernel::survivor::Restart;
use log::LevelFilter;
use pciback::topology::ExportMode;

/// Options of the command line, with defaults for those that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) export: ExportMode,
    /// `config=direct`: the stub writes to configuration space by itself.
    pub(crate) is_direct: bool,
    pub(crate) log: LevelFilter,
    /// `restart=`: what a crash leads to.
    pub(crate) restart: Restart,
}

/// Reads the command line. A word that is not understood is given to `complain` and otherwise ignored: a stub that refuses to start over
/// a typing error would take all devices away from their guests.
pub(crate) fn parse<'a>(command_line: &'a str, mut complain: impl FnMut(&'a str)) -> Options {
    let mut options =
        Options { export: ExportMode::default(), is_direct: false, log: LevelFilter::Info, restart: Restart::Limited };
    for word in command_line.split_ascii_whitespace() {
        // By prefixes: splitting at the sign takes two hundred bytes more.
        let understood = if let Some(value) = word.strip_prefix("export=") {
            value.parse().map(|export| options.export = export).is_ok()
        } else if let Some(value) = word.strip_prefix("config=") {
            let is_known = matches!(value, "broker" | "direct");
            options.is_direct = if is_known { value == "direct" } else { options.is_direct };
            is_known
        } else if let Some(value) = word.strip_prefix("log=") {
            value.parse().map(|level| options.log = level).is_ok()
        } else if let Some(value) = word.strip_prefix("restart=") {
            options.restart = match value {
                "always" => Restart::Always,
                "never" => Restart::Never,
                _ => Restart::Limited,
            };
            matches!(value, "limited" | "always" | "never")
        } else {
            false
        };
        if !understood {
            complain(word);
        }
    }
    options
}
