//! What a process tells the service manager that started it (`sd_notify(3)`): datagrams of `KEY=VALUE` lines to the socket that
//! `NOTIFY_SOCKET` names. Without that variable it does nothing.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Environment variables set by the service manager, not to be passed to children.
pub(super) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The service manager.
pub struct Manager {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// Watchdog interval.
    interval: Option<Duration>,
    heard: Cell<Option<Duration>>,
}

impl Manager {
    /// The service manager that started this process, if any.
    #[must_use]
    pub fn from_environment() -> Self {
        let [socket, microseconds, process] = VARIABLES.map(std::env::var_os);
        let is_ours = process.is_none_or(|process| process.to_str() == Some(&std::process::id().to_string()));
        Self::new(socket.as_deref(), microseconds.as_deref().filter(|_| is_ours))
    }

    fn new(socket: Option<&OsStr>, microseconds: Option<&OsStr>) -> Self {
        let address = socket.and_then(|name| match name.as_bytes() {
            [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name).ok(),
            [b'/', ..] => SocketAddr::from_pathname(name).ok(),
            _ => None,
        });
        let to = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        // Twice as often as it must be, so that one late turn does not end us.
        let limit = microseconds.and_then(|text| text.to_str()?.parse().ok()).map(Duration::from_micros);
        Self { interval: limit.filter(|_| to.is_some()).map(|limit| limit / 2), to, heard: Cell::default() }
    }

    /// Everything works; `status` is for `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// We are about to end.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// The loop has turned.
    pub(super) fn turned(&self, now: Duration) {
        if self.due_in(now) == Some(Duration::ZERO) {
            self.say("WATCHDOG=1");
            self.heard.set(Some(now));
        }
    }

    /// Time until the next watchdog message is due.
    pub(super) fn due_in(&self, now: Duration) -> Option<Duration> {
        let interval = self.interval?;
        Some(self.heard.get().map_or(Duration::ZERO, |heard| (heard + interval).saturating_sub(now)))
    }

    /// Best effort: that it cannot be told is no reason not to serve.
    fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fakes::TempTree;

    fn hear(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 256];
        socket.set_nonblocking(true).unwrap();
        let count = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..count].to_vec()).unwrap())
    }

    #[test]
    fn the_manager_hears_that_we_are_ready_and_that_we_stop() {
        let tree = TempTree::new();
        let path = tree.path().join("notify");
        let name = format!("pcidom-test-{}", std::process::id());
        let listeners = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (listener, name) in listeners {
            let manager = Manager::new(Some(&name), None);
            manager.ready("serving");
            assert_eq!(hear(&listener).as_deref(), Some("READY=1\nSTATUS=serving"));
            assert_eq!(manager.due_in(Duration::ZERO), None, "it has no watchdog");
            manager.turned(Duration::from_secs(100));
            manager.stopping();
            assert_eq!(hear(&listener).as_deref(), Some("STOPPING=1"));
        }
    }

    #[test]
    fn the_watchdog_hears_of_turns_twice_as_often_as_it_must() {
        let tree = TempTree::new();
        let path = tree.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::new(Some(path.as_os_str()), Some("30000000".as_ref()));
        let at = Duration::from_secs;
        let mut heard = Vec::new();
        for now in 7..60 {
            manager.turned(at(now));
            heard.extend(hear(&listener).map(|text| (now, text)));
        }
        let ping = || "WATCHDOG=1".to_owned();
        assert_eq!(heard, [(7, ping()), (22, ping()), (37, ping()), (52, ping())]);
        assert_eq!(manager.due_in(at(60)), Some(at(7)), "and the loop must not sleep longer");
    }

    #[test]
    fn nobody_hears_anything_where_nobody_listens() {
        for socket in [None, Some("vsock:2:1"), Some(""), Some("/nowhere/at/all")] {
            let manager = Manager::new(socket.map(OsStr::new), Some("nonsense".as_ref()));
            manager.ready("serving");
            manager.stopping();
            assert_eq!(manager.due_in(Duration::ZERO), None);
        }
        assert_eq!(Manager::new(None, Some("1000000".as_ref())).due_in(Duration::ZERO), None);
    }
}
