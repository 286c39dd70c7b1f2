//! Calls of `xl`: creating, unpausing and destroying domains.

use std::fs::{self, File};
use std::io::{self, Seek as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use xen_types::DomId;

use crate::error::Seconds;
use crate::error::{Error, HostError};
use crate::host::child::{Late, Running};
use crate::host::qmp;

/// The toolstack that this host's guests are made with.
pub(crate) trait Toolstack {
    /// An id for a new domain, in the usual form.
    fn new_uuid(&self) -> Result<String, Error>;

    /// Makes a domain, which stays paused, from the text of a configuration that has this id in it. Messages call the text `source`; the
    /// `options` are those of `xl create`.
    fn create_paused(&self, config: &[u8], uuid: &str, source: &str, options: &[&str]) -> Result<(), Error>;

    /// Makes a domain of a configuration file, and lets it run. Nobody stays behind to act on its end.
    fn create_from(&self, file: &Path) -> Result<(), Error>;

    /// Whether somebody is still at [`Toolstack::create_paused`] for this id: the command that began it may be dead.
    fn is_creating(&self, uuid: &str) -> bool;

    /// Lets a domain run.
    fn unpause(&self, domain: DomId) -> Result<(), Error>;

    /// Connects this process's terminal with a domain's console. What is answered is the process that does it, where there is one to wait for.
    fn console(&self, domain: DomId) -> Result<Option<Child>, Error>;

    /// Ends a domain at once.
    fn destroy(&self, domain: DomId) -> Result<(), Error>;

    /// Has the device model of an HVM guest carry out one command of QMP, and answers what it returned, or what it said instead.
    fn device_model(&self, guest: DomId, command: &serde_json::Value) -> Result<serde_json::Value, String>;

    /// A domain's configuration as libxl records it.
    fn configuration(&self, domain: DomId) -> Option<serde_json::Value>;

    /// Xen's messages, as far as they are still there.
    fn messages(&self) -> Option<String>;

    /// Xen's command line.
    fn command_line(&self) -> Option<String>;

    /// The limits of the C xenstored for a domain, a line each, as `xenstore-control quota` prints them. oxenstored has no such command.
    fn store_limits(&self) -> Option<String>;
}

/// `xl`.
pub(crate) struct Xl;

/// Time-out of xl commands that allocate or free a guest's memory, which takes minutes for very large guests.
const FOR_MEMORY: Duration = Duration::from_mins(30);

/// Time-out of other xl commands, which may have to wait for libxl's lock.
const FOR_ANSWERS: Duration = Duration::from_mins(2);

/// The configuration as xl opens it: its own standard input. xl takes no pipe for a file, and this is none: it has no name that could
/// stay behind.
const STANDARD_INPUT: &str = "/proc/self/fd/0";

impl Toolstack for Xl {
    fn new_uuid(&self) -> Result<String, Error> {
        const PATH: &str = "/proc/sys/kernel/random/uuid";
        let uuid = fs::read_to_string(PATH).map_err(|source| HostError::File { path: PATH.into(), source })?;
        Ok(uuid.trim().to_owned())
    }

    fn create_paused(&self, config: &[u8], uuid: &str, source: &str, options: &[&str]) -> Result<(), Error> {
        let file = memory_file(config, uuid).map_err(|error| Error::Xl { what: "create", said: error.to_string() })?;
        let arguments = [&["-q", "-p"], options, &[STANDARD_INPUT]].concat();
        xl("create", &arguments, file.into(), FOR_MEMORY).map_err(|error| match error {
            Error::Xl { what, said } => Error::Xl { what, said: said.replace(STANDARD_INPUT, source) },
            other => other,
        })
    }

    fn create_from(&self, file: &Path) -> Result<(), Error> {
        let file = file.to_str().ok_or_else(|| Error::Usage(format!("{} is not UTF-8", file.display())))?;
        // -e: no xl that waits for its end.
        xl("create", &["-q", "-e", file], Stdio::null(), FOR_MEMORY)
    }

    fn is_creating(&self, uuid: &str) -> bool {
        let Ok(processes) = fs::read_dir("/proc") else { return false };
        let name = format!("/memfd:{} (deleted)", file_name(uuid));
        processes.flatten().any(|process| {
            fs::read_link(process.path().join("fd/0")).is_ok_and(|target| target.as_os_str() == name.as_str())
        })
    }

    fn unpause(&self, domain: DomId) -> Result<(), Error> {
        xl("unpause", &[&domain.to_string()], Stdio::null(), FOR_ANSWERS)
    }

    fn console(&self, domain: DomId) -> Result<Option<Child>, Error> {
        let started = Command::new("xl").args(["console", &domain.to_string()]).spawn();
        started.map(Some).map_err(|error| Error::Xl { what: "console", said: format!("it cannot be started: {error}") })
    }

    fn destroy(&self, domain: DomId) -> Result<(), Error> {
        xl("destroy", &[&domain.to_string()], Stdio::null(), FOR_MEMORY)
    }

    fn device_model(&self, guest: DomId, command: &serde_json::Value) -> Result<serde_json::Value, String> {
        qmp::execute(&Path::new(QMP_SOCKETS).join(format!("qmp-libxl-{guest}")), command)
    }

    fn configuration(&self, domain: DomId) -> Option<serde_json::Value> {
        saved_configuration(Path::new(USERDATA), domain)
            .or_else(|| serde_json::from_str(&ask("xl", &["list", "-l", &domain.to_string()])?).ok())
    }

    fn messages(&self) -> Option<String> {
        ask("xl", &["dmesg"])
    }

    fn command_line(&self) -> Option<String> {
        let info = ask("xl", &["info"])?;
        let line = info.lines().find_map(|line| line.strip_prefix("xen_commandline"))?;
        Some(line.trim_start_matches([' ', ':']).to_owned())
    }

    fn store_limits(&self) -> Option<String> {
        ask("xenstore-control", &["quota"])
    }
}

/// Where libxl has the sockets of device models (`libxl__qemu_qmp_path`, `tools/libs/light/libxl_internal.c`).
const QMP_SOCKETS: &str = "/var/run/xen";

/// Where libxl keeps what it has to know of domains (`XEN_LIB_DIR`; `userdata_path` in `tools/libs/light/libxl_dom.c`).
const USERDATA: &str = "/var/lib/xen";

/// What libxl has noted of a domain's configuration (the user data `libxl-json` of `libxl.h`), which `xl list -l` shows: to start xl takes longer than the
/// rest of an attach. `None` where there is not just one such file, as one may be left of a domain that had this number before, or where it is no JSON.
fn saved_configuration(folder: &Path, domain: DomId) -> Option<serde_json::Value> {
    let is_ours = |name: &str| name.starts_with(&format!("userdata-d.{domain}.")) && name.ends_with(".libxl-json");
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_ours));
    match (ours.next(), ours.next()) {
        // A C string, with the NUL at its end (`libxl__set_domain_configuration`).
        (Some(file), None) => serde_json::from_str(fs::read_to_string(file.path()).ok()?.trim_end_matches('\0')).ok(),
        _ => None,
    }
}

fn file_name(uuid: &str) -> String {
    format!("pcidom-{uuid}")
}

/// A file without a name. As the standard input of a process it shows whose configuration that reads.
fn memory_file(content: &[u8], uuid: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(file_name(uuid), MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// Output of a command that only asks.
fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = run(program, arguments, Stdio::null(), FOR_ANSWERS).ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program, and ends it where it does not come to its end.
fn run(program: &str, arguments: &[&str], input: Stdio, limit: Duration) -> io::Result<Result<Output, Late>> {
    let mut running = Running::start(Command::new(program).args(arguments), input)?;
    let outcome = running.wait(limit)?;
    if outcome.is_err() {
        running.kill();
    }
    Ok(outcome)
}

fn xl(what: &'static str, arguments: &[&str], input: Stdio, limit: Duration) -> Result<(), Error> {
    let outcome = run("xl", &[&[what], arguments].concat(), input, limit);
    let failed = |said: String| Err(Error::Xl { what, said });
    match outcome {
        Err(error) => failed(format!("it cannot be started: {error}")),
        Ok(Err(Late)) => failed(format!("it did not come to an end within {}, and was ended", Seconds(limit))),
        Ok(Ok(Output { status, .. })) if status.success() => Ok(()),
        Ok(Ok(Output { status, stderr, .. })) => {
            let text = String::from_utf8_lossy(&stderr);
            let said: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            failed(if said.is_empty() { status.to_string() } else { said.join("; ") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};

    #[test]
    fn what_libxl_has_noted_of_a_domain_is_read_where_it_is_one_file() {
        let tree = crate::fake::TempTree::new();
        let read = |id| saved_configuration(tree.path(), DomId(id));
        assert_eq!(read(5), None);
        tree.write("userdata-d.5.6d1b.libxl-json", "{}\0");
        tree.write("userdata-d.55.6d1c.libxl-json", "{\"c_info\": {}}");
        tree.write("userdata-n.6.6d1d.libxl-json", "{}");
        tree.write("userdata-d.6.6d1d.xl", "name = 'x'");
        assert_eq!(read(5), Some(serde_json::json!({})));
        assert_eq!(read(6), None);
        tree.write("userdata-d.7.6d1e.libxl-json", "{\"half\": ");
        assert_eq!(read(7), None);
        // Of a domain that had the number before the host crashed.
        tree.write("userdata-d.5.0000.libxl-json", "{}");
        assert_eq!(read(5), None);
    }

    #[test]
    fn who_reads_a_configuration_is_found_while_it_does() {
        let uuid = Xl.new_uuid().unwrap();
        assert_eq!(uuid.len(), 36, "{uuid}");
        assert!(!Xl.is_creating(&uuid));
        let file = memory_file(b"name = 'x'\n", &uuid).unwrap();
        // Like xl: it opens its standard input by name, as a plain file that it reads from the start. One process does all, so that
        // none is left when it is gone.
        let mut reader = Command::new("sh")
            .args([
                "-c",
                "test -f /proc/self/fd/0 && read -r line < /proc/self/fd/0 && echo \"$line\" && exec sleep 30",
            ])
            .stdin(file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(reader.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "name = 'x'\n");
        assert!(Xl.is_creating(&uuid));
        reader.kill().unwrap();
        reader.wait().unwrap();
        assert!(!Xl.is_creating(&uuid));
    }
}
