//! Does what `xl shutdown` and `xl reboot` ask for: `control/shutdown` (`docs/misc/xenstore-paths.pandoc`, 4.17).
//!
//! Frontends are closed first, all at the same time. One that has a driver in it gets its answers until it is done; one that says nothing is
//! waited for a few seconds.

use alloc::rc::Rc;

use xen_types::Errno;
use xenstore::{Request, TxId, path::relative, text};

use crate::handshake::ShutdownStage;
use crate::platform::Platform;
use crate::shared::{Core, Handle, Shutdown};

/// Time for frontends to close.
const PATIENCE_NS: u64 = 5_000_000_000;
/// Time for xenstored to take the states of those that did not close.
const LAST_NS: u64 = 1_000_000_000;
/// Polling interval meanwhile.
const STEP_NS: u64 = 20_000_000;

/// Watches the node until it asks for something. That is acknowledged by emptying the node, which the toolstack waits for, and only
/// then obeyed.
pub(crate) async fn run<P: Platform>(handle: Handle<P>) {
    let path = relative::CONTROL_SHUTDOWN;
    let signal = handle.with(|core| Rc::clone(&core.shutdown_signal));
    loop {
        signal.wait().await;
        // Missing until it is asked for. Whatever else is wrong, the next request fires the watch again.
        let Ok(value) = handle.ask(TxId::NONE, &Request::Read { path }).await else { continue };
        let request = match text(&value).map(str::trim_ascii) {
            Ok("") => continue,
            Ok("poweroff" | "halt") => Shutdown::Poweroff,
            Ok("reboot") => Shutdown::Reboot,
            _ => {
                plain_log::warning!(
                    "{path} asks for something that this domain cannot do (only poweroff, halt and reboot)"
                );
                continue;
            }
        };
        match handle.ask(TxId::NONE, &Request::Write { path, value: b"" }).await {
            Err(error) if !error.is(Errno::ENOENT) => plain_log::warning!("cannot acknowledge {path}: {error}"),
            _ => {}
        }
        for (stop, patience_ns) in [(ShutdownStage::Asked, PATIENCE_NS), (ShutdownStage::Now, LAST_NS)] {
            if stop == ShutdownStage::Now && handle.with(Core::is_closed) {
                break;
            }
            handle.with(|core| core.close_all(stop));
            let deadline_ns = handle.now_ns() + patience_ns;
            while !handle.with(Core::is_closed) && handle.now_ns() < deadline_ns {
                handle.sleep_until(handle.now_ns() + STEP_NS).await;
            }
        }
        handle.with(|core| core.shutdown = Some(request));
        return;
    }
}
