//! Does what `xl shutdown` and `xl reboot` ask for: `control/shutdown` (`docs/misc/xenstore-paths.pandoc`, 4.17).
//!
//! Frontends are closed first, all at the same time. One that has a driver in it gets its answers until it is done; one that says nothing is
//! waited for a few seconds.

use alloc::rc::Rc;

use xen_types::Errno;
use xenstore::{Request, TxId, path::relative, text};

use super::store::Answers;
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
    let request = loop {
        signal.wait().await;
        let mut answers = Answers::new(&handle);
        answers.ask(TxId::NONE, &Request::Read { path }, &[]);
        // Missing until it is asked for. Whatever else is wrong, the next request fires the watch again.
        if (&mut answers).await.is_ok()
            && let Some(request) = asked_for(&mut answers)
        {
            if let Err(error) = answers.await {
                plain_log::warning!("cannot acknowledge {path}: {error}");
            }
            break request;
        }
    };
    let mut closing = Closing { stage: ShutdownStage::No, deadline_ns: 0 };
    while let Some(next_ns) = closing.step(&handle) {
        handle.sleep_until(next_ns).await;
    }
    handle.with(|core| core.shutdown = Some(request));
}

/// What the node asks for, if it is something that we can do. Then the node is being emptied.
#[inline(never)] // its caller is a task, in which everything costs more
fn asked_for<P: Platform>(answers: &mut Answers<P>) -> Option<Shutdown> {
    let path = relative::CONTROL_SHUTDOWN;
    let value = answers.values.iter().flatten().next().map(|value| text(value).map(str::trim_ascii));
    let request = match value? {
        Ok("") => return None,
        Ok("poweroff" | "halt") => Shutdown::Poweroff,
        Ok("reboot") => Shutdown::Reboot,
        _ => {
            plain_log::warning!(
                "{path} asks for something that this domain cannot do (only poweroff, halt and reboot)"
            );
            return None;
        }
    };
    answers.ask(TxId::NONE, &Request::Write { path, value: b"" }, &[Errno::ENOENT]);
    Some(request)
}

/// The frontends being closed.
struct Closing {
    stage: ShutdownStage,
    /// When the stage ends, closed or not.
    deadline_ns: u64,
}

impl Closing {
    /// Goes on. Until when to wait, or `None` at the end.
    #[inline(never)] // as above
    fn step<P: Platform>(&mut self, handle: &Handle<P>) -> Option<u64> {
        let now_ns = handle.now_ns();
        loop {
            if self.stage != ShutdownStage::No && handle.with(Core::is_closed) {
                return None;
            }
            if now_ns < self.deadline_ns {
                return Some(now_ns + STEP_NS);
            }
            let (stage, patience_ns) = match self.stage {
                ShutdownStage::No => (ShutdownStage::Asked, PATIENCE_NS),
                ShutdownStage::Asked => (ShutdownStage::Now, LAST_NS),
                ShutdownStage::Now => return None,
            };
            *self = Self { stage, deadline_ns: now_ns + patience_ns };
            handle.with(|core| core.close_all(stage));
        }
    }
}
