//! Running helper programs with errors that say what was run.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` to its end and returns what it printed; an error shows the command and the end of its error output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    command.stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr).trim_end());
    }
    Ok(stdout)
}

/// Like [`output`], as text.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    let bytes = output(command)?;
    String::from_utf8(bytes).with_context(|| format!("reading what {command:?} printed"))
}
