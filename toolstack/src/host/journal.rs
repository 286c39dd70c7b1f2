//! systemd's journal.

/// The broker's part of systemd's journal, or why there is none.
pub(crate) fn of_broker(lines: usize) -> Result<String, String> {
    let count = lines.to_string();
    let arguments = ["-u", "pcidom.service", "-n", &count, "--no-pager", "-q", "-o", "short-iso"];
    let output = std::process::Command::new("journalctl").args(arguments).output();
    let output = output.map_err(|error| format!("journalctl cannot be started: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}
