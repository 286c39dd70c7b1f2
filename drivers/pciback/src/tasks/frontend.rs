//! The task of one frontend: reads nodes, calls [`decide()`], executes the actions.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use pcidom_abi::{PoolState, paths, pool};
use xen_types::DomId;
use xenstore::{Error, Request, TxId, path};

use super::read;
use super::store::{Answer, Transaction};
use crate::handshake::{Action, Failure, Nodes, decide};
use crate::platform::Platform;
use crate::shared::Handle;
use crate::shared::watches::{frontend_path, frontend_token};

/// First wait after xenstored refused something; doubles each time.
const RETRY_NS: u64 = 250_000_000;
/// The longest of these waits.
const MAX_RETRY_NS: u64 = 32_000_000_000;
/// Polling interval for a frontend whose node could not be watched (xenstored limits our watches).
const POLL_NS: u64 = 1_000_000_000;

/// Result of one round.
enum Progress {
    /// Something was done: look again.
    Again,
    /// All is as it should be, until a node changes.
    Settled,
    /// Our directory is gone and nothing is held any more.
    Gone,
}

/// Runs as long as there is a BE dir for the frontend.
pub(crate) async fn run<P: Platform>(handle: Handle<P>, domid: DomId) {
    let task = Task { handle, domid };
    let is_watched = task.watch().await;
    task.run_handshake(is_watched).await;
    if is_watched {
        drop(task.ask(&Request::Unwatch { path: &frontend_path(domid), token: &frontend_token(domid) }));
    }
    // Whatever we said about it is of no use now, and each node counts against our quota.
    let error_dir = path::relative::error_node(domid);
    if let Some(error_dir) = error_dir.strip_suffix("/0/error") {
        drop(task.ask(&Request::Remove { path: error_dir }));
    }
}

struct Task<P: Platform> {
    handle: Handle<P>,
    domid: DomId,
}

impl<P: Platform> Task<P> {
    fn ask(&self, request: &Request<'_>) -> Answer<P> {
        self.handle.ask(TxId::NONE, request)
    }

    async fn watch(&self) -> bool {
        match self.ask(&Request::Watch { path: &frontend_path(self.domid), token: &frontend_token(self.domid) }).await {
            Ok(_) => true,
            Err(error) if error.is(xen_types::Errno::EEXIST) || error == Error::Disconnected => true, // it is set anew then
            Err(error) => {
                plain_log::warning!("frontend {}: cannot watch its state, looking every second: {error}", self.domid);
                false
            }
        }
    }

    /// Looks at the nodes whenever something may have changed, until the directory is gone.
    async fn run_handshake(&self, is_watched: bool) {
        let Some(signal) = self.handle.with(|core| Some(Rc::clone(&core.frontends.get_mut(self.domid)?.signal))) else {
            return;
        };
        let mut retry_ns = RETRY_NS;
        loop {
            self.report_losses();
            self.pace().await;
            let wait_ns = match self.look().await {
                Ok(Progress::Again) => {
                    retry_ns = RETRY_NS;
                    continue;
                }
                Ok(Progress::Gone) => {
                    if signal.lower() {
                        continue; // a new directory appeared behind our reading
                    }
                    self.handle.with(|core| {
                        core.frontends.remove(self.domid);
                        core.platform.forget_domain(self.domid);
                        core.end_adoption();
                    });
                    return;
                }
                Ok(Progress::Settled) => {
                    self.handle
                        .with(|core| core.frontends.get_mut(self.domid).map(|frontend| frontend.pacing.settled()));
                    retry_ns = RETRY_NS;
                    (!is_watched).then_some(POLL_NS)
                }
                Err(error) => {
                    plain_log::error!("frontend {}: xenstore: {error}", self.domid);
                    let wait_ns = retry_ns;
                    retry_ns = retry_ns.saturating_mul(2).min(MAX_RETRY_NS);
                    Some(wait_ns)
                }
            };
            let alarm = wait_ns.map(|wait_ns| {
                self.handle.with(|core| {
                    let now_ns = core.platform.now_ns();
                    core.alarms.set(now_ns + wait_ns, Rc::clone(&signal))
                })
            });
            signal.wait().await;
            if let Some(alarm) = alarm {
                self.handle.with(|core| core.alarms.cancel(&alarm));
            }
        }
    }

    /// Tells guest and toolstack of devices that are gone.
    #[inline(never)]
    fn report_losses(&self) {
        let failure = self.handle.with(|core| {
            let crate::shared::Core { frontends, pool, platform, .. } = core;
            let frontend = frontends.get_mut(self.domid)?;
            let failure = frontend.take_losses(pool)?;
            frontend.tell_losses(platform);
            Some(failure)
        });
        if let Some(failure) = failure {
            self.report(&failure);
        }
    }

    /// A frontend that touches its nodes more often than any real one has to wait, so that the others do not.
    async fn pace(&self) {
        loop {
            let wait = self.handle.with(|core| {
                let now_ns = core.platform.now_ns();
                core.frontends.get_mut(self.domid).map_or(Ok(()), |frontend| frontend.may_look(now_ns))
            });
            match wait {
                Ok(()) => return,
                Err(deadline_ns) => self.handle.sleep_until(deadline_ns).await,
            }
        }
    }

    async fn look(&self) -> Result<Progress, Error> {
        let transaction = Transaction::begin(&self.handle).await?;
        let is_adopting =
            self.handle.with(|core| core.frontends.get_mut(self.domid).is_some_and(|it| it.state.is_adopting));
        let nodes = read::nodes(&self.handle, &transaction, self.domid, is_adopting).await?;
        let actions = self.decide(nodes.as_ref());
        if actions.iter().any(Action::is_local) {
            self.announce(&transaction, &actions);
            // Nothing is given away or taken on the word of nodes that were not all true at once.
            if transaction.commit().await? {
                self.apply(actions);
            }
            return Ok(Progress::Again);
        }
        match nodes {
            Some(nodes) => self.write(transaction, &nodes, actions).await,
            None => Ok(Progress::Gone),
        }
    }

    #[inline(never)]
    fn decide(&self, nodes: Option<&Nodes>) -> Vec<Action> {
        self.handle.with(|core| {
            core.platform.looking_at(Some(self.domid));
            let now_ns = core.platform.now_ns();
            let Some(frontend) = core.frontends.get_mut(self.domid) else { return Vec::new() };
            match nodes {
                Some(nodes) => {
                    frontend.observe(nodes, now_ns);
                    decide(nodes, &frontend.state)
                }
                None => frontend.state.release_everything(),
            }
        })
    }

    /// Says of devices that are about to be taken that they are assigned. In the transaction that takes them: so a toolstack that has removed an
    /// entry and finds the device free may rely on it. Best effort, like all that the pool's task can mend.
    #[inline(never)]
    fn announce(&self, transaction: &Transaction<P>, actions: &[Action]) {
        for action in actions {
            let Action::Take { address, .. } = *action else { continue };
            if self.handle.with(|core| core.pool.is_free(address)) {
                let path = path::child(&paths::relative::pool_dir(address), pool::STATE);
                let value = PoolState::Assigned(self.domid).to_string();
                drop(transaction.ask(&Request::Write { path: &path, value: value.as_bytes() }));
            }
        }
    }

    /// The steps that concern only ourselves. The others are decided again afterwards.
    #[inline(never)]
    fn apply(&self, actions: Vec<Action>) {
        let mut is_put_aside = false;
        self.handle.with(|core| {
            let crate::shared::Core { frontends, pool, ports, platform, broker, .. } = core;
            let Some(frontend) = frontends.get_mut(self.domid) else { return };
            platform.looking_at(Some(self.domid)); // others had their turn meanwhile
            broker.make_room(pool.len());
            for action in actions {
                match action {
                    Action::Disconnect => frontend.disconnect(platform, ports, broker),
                    Action::ReleaseAll => frontend.release_all(pool, broker),
                    Action::Release(address) => frontend.release(pool, broker, address, false),
                    Action::Seize(address) => frontend.release(pool, broker, address, true),
                    Action::Renew => frontend.renew(),
                    Action::Take { address, requested_slot, exact } => {
                        frontend.take(pool, address, requested_slot, exact);
                    }
                    Action::Adopt(keys, states) => {
                        is_put_aside = frontend.adopt(platform, ports, broker, keys, states);
                    }
                    Action::Connect(keys) => frontend.connect(platform, ports, keys),
                    Action::Refuse(invalid) => frontend.refuse(invalid),
                    Action::Report(_) | Action::ClearReport | Action::Write(_) => {}
                }
            }
            core.end_adoption();
        });
        if is_put_aside {
            let text = "crashed the backend three times: not served".to_string();
            self.report(&Failure { errno: xen_types::Errno::EIO, text });
        }
    }

    /// Carries out what is for others to see. The reason of a failure is there before the state that tells of it.
    async fn write(&self, transaction: Transaction<P>, nodes: &Nodes, actions: Vec<Action>) -> Result<Progress, Error> {
        let next = actions.iter().find_map(Action::state);
        let answers = self.ask_to_write(&transaction, actions);
        if answers.is_empty() {
            return Ok(Progress::Settled);
        }
        for (node, answer) in answers {
            if let Err(error) = answer.await {
                let errno = if let Error::Store(errno) = error { errno } else { xen_types::Errno::EIO };
                self.report(&Failure { errno, text: format!("cannot write {node}") });
                return Err(error);
            }
        }
        if transaction.commit().await?
            && let Some(state) = next
        {
            self.handle
                .with(|core| core.frontends.get_mut(self.domid).map(|frontend| frontend.state.said(state, nodes)));
        }
        Ok(Progress::Again)
    }

    /// Asks for everything at once: xenstored does it in this order. What concerns the error node is best effort and not waited
    /// for; with or without it, the state tells that something is wrong.
    #[inline(never)]
    fn ask_to_write(&self, transaction: &Transaction<P>, actions: Vec<Action>) -> Vec<(String, Answer<P>)> {
        let dir = path::relative::backend_dir(self.domid);
        let mut answers = Vec::new();
        for action in actions {
            match action {
                Action::Report(failure) => self.report(&failure),
                Action::ClearReport => {
                    let path = path::relative::error_node(self.domid);
                    drop(self.ask(&Request::Remove { path: &path })); // ENOENT is what we want
                }
                Action::Write(nodes) => {
                    for (node, value) in nodes {
                        plain_log::debug!("frontend {}: {node} = {value}", self.domid);
                        let node = node.to_string();
                        let (path, value) = (path::child(&dir, &node), value.as_bytes());
                        answers.push((node, transaction.ask(&Request::Write { path: &path, value })));
                    }
                }
                _ => {}
            }
        }
        answers
    }

    /// Says what went wrong, in the log and in the error node.
    #[inline(never)]
    fn report(&self, failure: &Failure) {
        self.handle.with(|core| {
            let now_ns = core.platform.now_ns();
            if let Some(frontend) = core.frontends.get_mut(self.domid) {
                frontend.say(now_ns, log::Level::Error, format_args!("{}: {}", failure.text, failure.errno));
            }
        });
        let text = format!("{} {}", failure.errno.0, failure.text);
        let path = path::relative::error_node(self.domid);
        drop(self.ask(&Request::Write { path: &path, value: text.as_bytes() }));
    }
}
