//! Standard output.

use std::io::{ErrorKind, Write as _};

use crate::error::{Error, HostError};

/// Prints a result. That nobody reads it to its end (`pcidom list | head -1`) is no error.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(HostError::File { path: "standard output".into(), source: error }.into())
        }
        _ => Ok(()),
    }
}
