//! The task of one frontend: reads nodes, calls [`decide()`], executes the actions.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use pcidom_abi::{PoolState, paths, pool};
use xen_types::{DomId, Errno, Sbdf};
use xenstore::{Error, Request, TxId, XenbusState, path};

use super::read::Reading;
use super::store::{Answers, Transaction};
use crate::handshake::{Action, Failure, Nodes, decide};
use crate::platform::Platform;
use crate::shared::Handle;
use crate::shared::adoption_stage::Turn;
use crate::shared::watches::{frontend_path, frontend_token};
use crate::signal::Signal;

/// First wait after xenstored refused something; doubles each time.
const RETRY_NS: u64 = 250_000_000;
/// The longest of these waits.
const MAX_RETRY_NS: u64 = 32_000_000_000;
/// Polling interval for a frontend whose node could not be watched (xenstored limits our watches).
const POLL_NS: u64 = 1_000_000_000;

/// Result of one look.
enum Progress {
    /// Something was done: look again.
    Again,
    /// The nodes changed meanwhile, and nothing was done: look again.
    Raced,
    /// All is as it should be, until a node changes.
    Settled,
    /// Our directory is gone and nothing is held any more.
    Gone,
}

/// What the task does next.
enum Next {
    Look,
    /// Nothing until its signal is raised.
    Wait,
    End,
}

/// Runs as long as there is a BE dir for the frontend. Whenever something may have changed it looks at the nodes.
///
/// It waits at few places, and leaves the work between them to functions: each place costs some hundred bytes of the image, and more with each value that
/// outlives it.
pub(crate) async fn run<P: Platform>(handle: Handle<P>, domid: DomId) {
    let task = Task { handle, domid };
    let mut is_watched = None;
    let Some(signal) = task.handle.with(|core| Some(Rc::clone(&core.frontends.get_mut(domid)?.signal))) else { return };
    let mut retry_ns = RETRY_NS;
    loop {
        if is_watched.is_none() && !task.is_adopting() {
            is_watched = Some(task.is_watched(task.watch().await));
        }
        let mut next = task.may_look(&signal);
        if matches!(next, Next::Look) {
            let mut look = Look::new(&task, Transaction::room(&task.handle).await);
            let result = loop {
                let answered = (&mut look.answers).await;
                while look.awaits_devices() {
                    signal.wait().await;
                }
                if let Some(result) = look.go_on(answered) {
                    break result;
                }
            };
            drop(look);
            next = task.next(result, &mut retry_ns, is_watched == Some(true), &signal);
        }
        match next {
            Next::Look => {}
            Next::End => break,
            Next::Wait => signal.wait().await,
        }
    }
    task.end(is_watched == Some(true));
}

struct Task<P: Platform> {
    handle: Handle<P>,
    domid: DomId,
}

impl<P: Platform> Task<P> {
    /// Whether it is to take over what the life before has left. Its guest waits: the watch comes later, and with it the event that tells what was missed.
    fn is_adopting(&self) -> bool {
        self.handle.with(|core| core.frontends.get_mut(self.domid).is_some_and(|it| it.state.is_adopting))
    }

    /// Watches the frontend's state.
    #[inline(never)] // its caller is a task, in which everything costs more
    fn watch(&self) -> Answers<P> {
        let (path, token) = (&frontend_path(self.domid), &frontend_token(self.domid));
        let mut answers = Answers::new(&self.handle);
        answers.ask(TxId::NONE, &Request::Watch { path, token }, &[Errno::EEXIST]);
        answers
    }

    /// Whether that is done.
    fn is_watched(&self, answered: Result<(), Error>) -> bool {
        match answered {
            Ok(()) | Err(Error::Disconnected) => true, // it is set anew then
            Err(error) => {
                plain_log::warning!("frontend {}: cannot watch its state, looking every second: {error}", self.domid);
                false
            }
        }
    }

    /// Whether it is to look now. A frontend that touches its nodes more often than any real one has to wait, so that the others do not.
    #[inline(never)] // its caller is a task, in which everything costs more
    fn may_look(&self, signal: &Rc<Signal>) -> Next {
        self.report_losses();
        self.handle.with(|core| {
            if core.is_to_wait(self.domid) {
                return Next::Wait;
            }
            core.alarms.cancel(signal);
            let now_ns = core.platform.now_ns();
            let Some(frontend) = core.frontends.get_mut(self.domid) else { return Next::Look };
            let Err(deadline_ns) = frontend.may_look(now_ns) else { return Next::Look };
            core.alarms.set(deadline_ns, signal);
            Next::Wait
        })
    }

    /// What is next after a look.
    #[inline(never)] // as above
    fn next(&self, result: Result<Progress, Error>, retry_ns: &mut u64, is_watched: bool, signal: &Rc<Signal>) -> Next {
        let wait_ns = match result {
            Err(error) => {
                plain_log::error!("frontend {}: xenstore: {error}", self.domid);
                self.handle.with(|core| {
                    if let Some(frontend) = core.frontends.get_mut(self.domid) {
                        frontend.turn = Turn::Failed;
                    }
                    core.has_adopted();
                });
                let wait_ns = *retry_ns;
                *retry_ns = (wait_ns * 2).min(MAX_RETRY_NS);
                Some(wait_ns)
            }
            // A new directory may have appeared behind our reading.
            Ok(Progress::Gone) if !signal.lower() => {
                self.handle.with(|core| {
                    core.frontends.remove(self.domid);
                    core.platform.forget_domain(self.domid);
                    core.has_adopted();
                });
                return Next::End;
            }
            Ok(Progress::Gone) => return Next::Look,
            Ok(Progress::Raced) => {
                match self.handle.with(|core| core.frontends.get_mut(self.domid).map_or(0, |it| it.pacing.raced())) {
                    0 => return Next::Look,
                    wait_ns => Some(wait_ns),
                }
            }
            Ok(progress) => {
                *retry_ns = RETRY_NS;
                self.handle.with(|core| core.frontends.get_mut(self.domid).map(|it| it.pacing.kept_pace()));
                if matches!(progress, Progress::Again) {
                    return Next::Look;
                }
                self.handle.with(|core| core.frontends.get_mut(self.domid).map(|frontend| frontend.pacing.settled()));
                (!is_watched).then_some(POLL_NS)
            }
        };
        if let Some(wait_ns) = wait_ns {
            self.handle.with(|core| core.alarms.set(core.platform.now_ns() + wait_ns, signal));
        }
        Next::Wait
    }

    /// Asks xenstored for something, whatever is answered.
    fn tell(&self, request: &Request<'_>) {
        self.handle.tell(TxId::NONE, request);
    }

    /// Leaves nothing behind.
    #[inline(never)] // as above
    fn end(&self, is_watched: bool) {
        let domid = self.domid;
        if is_watched {
            self.tell(&Request::Unwatch { path: &frontend_path(domid), token: &frontend_token(domid) });
        }
        // Whatever we said about it is of no use now, and each node counts against our quota.
        let error_dir = path::relative::error_node(domid);
        if let Some(error_dir) = error_dir.strip_suffix("/0/error") {
            self.tell(&Request::Remove { path: error_dir });
        }
    }

    /// Tells guest and toolstack of devices that are gone, and has a device looked at whose error the guest can be told of now, or has answered.
    #[inline(never)]
    fn report_losses(&self) {
        let failure = self.handle.with(|core| {
            let crate::shared::Core { frontends, pool, platform, .. } = core;
            let frontend = frontends.get_mut(self.domid)?;
            let failure = frontend.take_losses(pool);
            if let Some(address) = frontend.tell_losses(platform) {
                pool.look_at(address);
            }
            failure
        });
        if let Some(failure) = failure {
            self.report(&failure);
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
    fn announce(&self, transaction: TxId, actions: &[Action]) {
        for action in actions {
            // One that the frontend had before a restart in place is said to be; one that it had let go by then is not taken.
            let Action::Take { address, exact: None, .. } = *action else { continue };
            if self.handle.with(|core| core.pool.is_free(address)) {
                let path = path::child(&paths::relative::pool_dir(address), pool::STATE);
                let value = PoolState::Assigned(self.domid).to_string();
                self.handle.tell(transaction, &Request::Write { path: &path, value: value.as_bytes() });
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
            core.has_adopted();
        });
        if is_put_aside {
            let text = "crashed the backend three times: not served".to_string();
            self.report(&Failure { errno: Errno::EIO, text });
        }
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
        self.tell(&Request::Write { path: &path, value: text.as_bytes() });
    }
}

/// One look at the nodes, and what is done about them. Each step begins when all that the one before has asked for is answered.
struct Look<'a, P: Platform> {
    task: &'a Task<P>,
    answers: Answers<P>,
    transaction: Transaction<P>,
    step: Step,
    reading: Reading,
    /// What is done when nothing has changed meanwhile.
    actions: Vec<Action>,
    /// The nodes that are being written.
    written: Vec<String>,
    /// What we say with that, if anything, in our `state`.
    state: Option<XenbusState>,
}

/// What a [`Look`] waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Begin,
    Read,
    /// After a restart in place: the pool's task looks at the devices that are to be taken over.
    Devices,
    /// Nothing is given away or taken on the word of nodes that were not all true at once.
    Confirm,
    Write,
    Commit,
}

impl<'a, P: Platform> Look<'a, P> {
    #[inline(never)] // its caller is a task, in which everything costs more
    fn new(task: &'a Task<P>, transaction: Transaction<P>) -> Self {
        let mut answers = Answers::new(&task.handle);
        answers.ask(TxId::NONE, &Request::TransactionStart, &[]);
        Self {
            task,
            answers,
            transaction,
            step: Step::Begin,
            reading: Reading::new(task.domid, task.is_adopting()),
            actions: Vec::new(),
            written: Vec::new(),
            state: None,
        }
    }

    /// Whether the pool's task has still to look at a device that is to be taken over. It raises the frontend's signal then.
    fn awaits_devices(&self) -> bool {
        self.step == Step::Devices
            && self.devices().any(|address| self.task.handle.with(|core| core.pool.is_awaited(address)))
    }

    /// The devices that were read so far.
    fn devices(&self) -> impl Iterator<Item = Sbdf> {
        self.reading.nodes.iter().flat_map(|nodes| &nodes.devices).filter_map(|device| device.address)
    }

    /// Goes on with what was answered. `None` when there is more to wait for.
    #[inline(never)] // as above
    fn go_on(&mut self, answered: Result<(), Error>) -> Option<Result<Progress, Error>> {
        if let Err(error) = answered {
            if let Some(node) = self.written.get(self.answers.values.len())
                && self.step == Step::Write
            {
                let errno = if let Error::Store(errno) = error { errno } else { Errno::EIO };
                self.task.report(&Failure { errno, text: format!("cannot write {node}") });
            }
            return Some(Err(error));
        }
        let values = core::mem::take(&mut self.answers.values);
        let first = values.first().and_then(Option::as_deref);
        match self.step {
            Step::Begin => {
                if let Err(error) = self.transaction.begun(first.unwrap_or_default()) {
                    return Some(Err(error));
                }
                self.reading.ask(self.transaction.id(), &mut self.answers);
                self.step = Step::Read;
                return None;
            }
            Step::Read => {
                self.reading.take(self.transaction.id(), &mut self.answers, &values);
                let is_adopting = self.task.is_adopting();
                if is_adopting {
                    self.devices().for_each(|address| self.task.handle.with(|core| core.pool.await_device(address)));
                }
                if self.answers.is_empty() {
                    self.step = Step::Devices;
                }
                if is_adopting || !self.answers.is_empty() {
                    return None;
                }
            }
            Step::Devices => {}
            Step::Confirm => {
                if first.is_none() {
                    return Some(Ok(Progress::Raced));
                }
                self.task.apply(core::mem::take(&mut self.actions));
                return Some(Ok(Progress::Again));
            }
            Step::Write => {
                self.transaction.commit(&mut self.answers);
                self.step = Step::Commit;
                return None;
            }
            Step::Commit => {
                if first.is_none() {
                    return Some(Ok(Progress::Raced));
                }
                if let (Some(state), Some(nodes)) = (self.state, &self.reading.nodes) {
                    self.task.handle.with(|core| {
                        core.frontends.get_mut(self.task.domid).map(|frontend| frontend.state.said(state, nodes))
                    });
                }
                return Some(Ok(Progress::Again));
            }
        }
        self.act()
    }

    /// Decides on what was read, and begins to do it.
    fn act(&mut self) -> Option<Result<Progress, Error>> {
        let actions = self.task.decide(self.reading.nodes.as_ref());
        if actions.iter().any(Action::is_local) {
            self.task.announce(self.transaction.id(), &actions);
            self.actions = actions;
            self.transaction.commit(&mut self.answers);
            self.step = Step::Confirm;
            return None;
        }
        if self.reading.nodes.is_none() {
            return Some(Ok(Progress::Gone));
        }
        self.state = actions.iter().find_map(Action::state);
        self.ask_to_write(actions);
        self.step = Step::Write;
        self.answers.is_empty().then_some(Ok(Progress::Settled))
    }

    /// Asks for everything at once, for others to see: xenstored does it in this order, so the reason of a failure is there before the state that tells of
    /// it. What concerns the error node is best effort and not waited for; with or without it, the state tells that something is wrong.
    fn ask_to_write(&mut self, actions: Vec<Action>) {
        let task = self.task;
        let dir = path::relative::backend_dir(task.domid);
        for action in actions {
            match action {
                Action::Report(failure) => task.report(&failure),
                Action::ClearReport => {
                    let path = path::relative::error_node(task.domid);
                    task.tell(&Request::Remove { path: &path }); // ENOENT is what we want
                }
                Action::Write(nodes) => {
                    for (node, value) in nodes {
                        plain_log::debug!("frontend {}: {node} = {value}", task.domid);
                        let node = node.to_string();
                        let (path, value) = (path::child(&dir, &node), value.as_bytes());
                        self.answers.ask(self.transaction.id(), &Request::Write { path: &path, value }, &[]);
                        self.written.push(node);
                    }
                }
                _ => {}
            }
        }
    }
}
