//! `pcidom logs`: the last of what a backend said on its console, and of what the broker said.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::error::Error;
use crate::host::Host;
use crate::host::domain;

/// Bytes of a log that are looked at: a line is shorter than this by far.
const TAIL: u64 = 1 << 20;

/// Both, with a line in front of each that says where it is from.
pub(crate) fn logs(host: &Host, backend: &str, lines: usize) -> Result<String, Error> {
    // By its name, under which xenconsoled has its file also where it is not running any more.
    let name = match domain::find(host, backend)? {
        Some((stub, _)) => stub.name.unwrap_or_else(|| backend.to_owned()),
        None => backend.to_owned(),
    };
    let path = host.console_logs.join(format!("guest-{}.log", name.replace('/', "_")));
    let console = match tail(&path, lines) {
        Ok(text) => text,
        Err(error) => format!("none: {error} (xenconsoled keeps it if it is started with --log=guest)"),
    };
    let broker = match (host.journal)(lines) {
        Ok(text) => last(&text, lines),
        Err(why) => format!("none: {why} (a broker that systemd did not start says it on its standard error)"),
    };
    Ok(format!("== {}\n{console}\n== journal of pcidom.service\n{broker}", path.display()))
}

fn tail(path: &Path, lines: usize) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(last(&String::from_utf8_lossy(&bytes), lines))
}

/// The last lines, without what a terminal would obey: a backend may say anything.
fn last(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let shown = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
    let plain = |line: &&str| -> String {
        line.chars()
            .filter(|letter| *letter != '\r')
            .map(|letter| if letter.is_control() && letter != '\t' { '?' } else { letter })
            .collect()
    };
    shown.iter().map(plain).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Machine;

    #[test]
    fn the_last_lines_of_both_are_shown_and_no_terminal_obeys_them() {
        let mut machine = Machine::new();
        machine.host.console_logs = machine.tree.path().join("console");
        machine.host.journal = |lines| Ok(format!("one\ntwo {lines}\n"));
        machine.tree.write("console/guest-pcidom.log", "first\r\nsecond\nthird \x1b]0;title\x07\n");
        for backend in ["pcidom", "3"] {
            let shown = logs(&machine.host, backend, 2).unwrap();
            assert!(shown.contains("console/guest-pcidom.log\nsecond\nthird ?]0;title?\n=="), "{shown:?}");
            assert!(shown.ends_with("== journal of pcidom.service\none\ntwo 2"), "{shown:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_with_what_to_do() {
        let mut machine = Machine::new();
        machine.host.console_logs = machine.tree.path().join("console");
        machine.host.journal = |_| Err("no journal".to_owned());
        let shown = logs(&machine.host, "../other", 2).unwrap();
        assert!(shown.contains("guest-.._other.log\nnone: ") && shown.contains("--log=guest"), "{shown}");
        assert!(shown.contains("none: no journal"), "{shown}");
    }

    #[test]
    fn a_long_log_is_read_from_its_end() {
        let tree = crate::fake::TempTree::new();
        tree.write("log", "x".repeat(3 << 20) + "\nlast\n");
        assert_eq!(tail(&tree.path().join("log"), 1).unwrap(), "last");
        assert_eq!(last("a\nb", 0), "");
    }
}
