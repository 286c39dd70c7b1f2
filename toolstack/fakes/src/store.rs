//! Xenstore as broker and commands meet it: the real client, and the simulated xenstored at the other end.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use xenstore::Transport;

use super::World;
use crate::TempTree;
use dom0::store::{Change, Connection, Store, StoreFailure, Timed};

/// A process' connection. Each transaction counts as a change that can fail, or kill the process.
pub struct FakeStore {
    connection: Connection<Socket>,
    pub world: Rc<RefCell<World>>,
    pub tree: Rc<TempTree>,
}

impl FakeStore {
    pub fn new(world: Rc<RefCell<World>>, tree: Rc<TempTree>) -> Self {
        Self { connection: Connection::new(Socket::new(world.clone())), world, tree }
    }
}

impl Store for FakeStore {
    fn read(&self, path: &str) -> Result<Option<String>, StoreFailure> {
        let value = self.connection.read(path)?;
        let mut world = self.world.borrow_mut();
        if let Some((_, act)) = world.after_read.take_if(|(place, _)| place == path) {
            act(&mut world);
        }
        Ok(value)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, StoreFailure> {
        self.connection.list(path)
    }

    fn commit(&self, changes: &[Change]) -> Result<bool, StoreFailure> {
        if self.world.borrow_mut().change_fails() {
            return Err(StoreFailure { what: "transaction".to_owned(), why: "EIO (injected)".to_owned() });
        }
        self.connection.commit(changes)
    }
}

/// Bytes to and from xenstored, over its socket in dom0.
pub(crate) struct Socket {
    world: Rc<RefCell<World>>,
    connection: xenstored::Connection,
}

impl Socket {
    pub(crate) fn new(world: Rc<RefCell<World>>) -> Self {
        let connection = world.borrow_mut().store.connect_socket();
        Self { world, connection }
    }
}

impl Timed for Socket {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.world.borrow().clock.as_nanos()).unwrap()
    }
}

impl Transport for Socket {
    type Error = Infallible;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.world.borrow_mut().store.send(self.connection, bytes);
        Ok(bytes.len())
    }

    fn takes_several(&self) -> bool {
        true
    }

    fn receive(&mut self, buffer: &mut [u8], deadline_ns: Option<u64>) -> Result<usize, Infallible> {
        let bytes = self.world.borrow_mut().store.receive(self.connection, buffer.len());
        assert!(!bytes.is_empty() || deadline_ns.is_some(), "an answer that will never come");
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}
