//! Does what `xl shutdown` and `xl reboot` ask for: `control/shutdown` (`docs/misc/xenstore-paths.pandoc`, 4.17).

use alloc::rc::Rc;

use xen_types::Errno;
use xenstore::{Request, TxId, path::relative, text};

use super::core::{Handle, SHUTDOWN_TOKEN};
use crate::platform::Platform;

/// How the domain is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// For good.
    Poweroff,
    /// To be started again.
    Reboot,
}

/// Watches the node for ever. A request is acknowledged by emptying the node, which the toolstack waits for, and only then obeyed.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    let path = relative::CONTROL_SHUTDOWN;
    if let Err(error) = handle.ask(TxId::NONE, &Request::Watch { path, token: SHUTDOWN_TOKEN }).await {
        log::error!("cannot watch {path}, so `xl shutdown` will not work: {error}");
        return;
    }
    let signal = handle.with(|core| Rc::clone(&core.shutdown_signal));
    loop {
        signal.wait().await;
        // Missing until somebody asks. Whatever else is wrong, the next request fires the watch again.
        let Ok(value) = handle.ask(TxId::NONE, &Request::Read { path }).await else { continue };
        let request = match text(&value).map(str::trim_ascii) {
            Ok("") => continue,
            Ok("poweroff" | "halt") => Shutdown::Poweroff,
            Ok("reboot") => Shutdown::Reboot,
            _ => {
                log::warn!("{path} asks for something that this domain cannot do (only poweroff, halt and reboot)");
                continue;
            }
        };
        match handle.ask(TxId::NONE, &Request::Write { path, value: b"" }).await {
            Err(error) if !error.is(Errno::ENOENT) => log::warn!("cannot acknowledge {path}: {error}"),
            _ => {}
        }
        handle.with(|core| core.shutdown = Some(request));
    }
}
