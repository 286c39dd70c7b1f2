//! Operations on nodes, the same inside and outside of a transaction.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use xen_types::Errno;

use crate::error::{Error, StoreError};
use crate::permission::Permission;
use crate::reply;
use crate::request::Request;

/// One answer for each request, or what broke the connection.
pub(crate) type Answers<E> = Result<Vec<Result<Vec<u8>, Error>>, StoreError<E>>;

/// Tells what concerns this request from what concerns all.
pub(crate) fn outcome<E>(answer: Result<Vec<u8>, StoreError<E>>) -> Result<Result<Vec<u8>, Error>, StoreError<E>> {
    match answer {
        Err(StoreError::Request(error)) => Ok(Err(error)),
        answer => answer.map(Ok),
    }
}

/// What can be done with nodes, be it directly ([`crate::Store`]) or in a transaction ([`crate::Transaction`]).
pub trait Nodes {
    /// The transport's error.
    type Error;

    /// Makes one request and waits for the answer.
    ///
    /// # Errors
    /// The request's or the connection's.
    fn request(&mut self, request: &Request<'_>) -> Result<Vec<u8>, StoreError<Self::Error>>;

    /// Makes several requests that do not depend on each other's answers, in this order, and waits for all of them.
    ///
    /// # Errors
    /// The connection's. What is wrong with a request is in its answer, and the others are made nevertheless.
    fn request_all(&mut self, requests: &[Request<'_>]) -> Answers<Self::Error> {
        requests.iter().map(|request| outcome(self.request(request))).collect()
    }

    /// The values of several nodes as they are, each `None` where there is no such node.
    ///
    /// # Errors
    /// As [`Nodes::request`].
    fn read_all(&mut self, paths: &[&str]) -> Result<Vec<Option<Vec<u8>>>, StoreError<Self::Error>> {
        let requests: Vec<Request<'_>> = paths.iter().map(|path| Request::Read { path }).collect();
        let answers = self.request_all(&requests)?;
        answers.into_iter().map(|answer| present(answer.map_err(StoreError::Request))).collect()
    }

    /// A node's value as text without one newline or NUL at its end, `None` where there is no such node.
    ///
    /// # Errors
    /// As [`Nodes::request`], and [`Error::NotText`].
    fn read(&mut self, path: &str) -> Result<Option<String>, StoreError<Self::Error>> {
        match self.read_bytes(path)? {
            Some(value) => Ok(Some(reply::text(&value)?.into())),
            None => Ok(None),
        }
    }

    /// A node's value as it is, `None` where there is no such node.
    ///
    /// # Errors
    /// As [`Nodes::request`].
    fn read_bytes(&mut self, path: &str) -> Result<Option<Vec<u8>>, StoreError<Self::Error>> {
        present(self.request(&Request::Read { path }))
    }

    /// Writes a value; missing nodes above it are created.
    ///
    /// # Errors
    /// As [`Nodes::request`].
    fn write(&mut self, path: &str, value: impl AsRef<[u8]>) -> Result<(), StoreError<Self::Error>>
    where
        Self: Sized,
    {
        self.request(&Request::Write { path, value: value.as_ref() }).map(drop)
    }

    /// Creates an empty node where there is none.
    ///
    /// # Errors
    /// As [`Nodes::request`].
    fn mkdir(&mut self, path: &str) -> Result<(), StoreError<Self::Error>> {
        self.request(&Request::Mkdir { path }).map(drop)
    }

    /// Removes a node and everything below it. Says whether there was one.
    ///
    /// # Errors
    /// As [`Nodes::request`].
    fn remove(&mut self, path: &str) -> Result<bool, StoreError<Self::Error>> {
        Ok(present(self.request(&Request::Remove { path }))?.is_some())
    }

    /// The names of a node's children, `None` where there is no such node.
    ///
    /// # Errors
    /// As [`Nodes::request`]; `E2BIG` where they do not fit into one message and xenstored does not tell them in parts either, and
    /// `EAGAIN` where they change all the time.
    fn directory(&mut self, path: &str) -> Result<Option<Vec<String>>, StoreError<Self::Error>> {
        let listing = match self.request(&Request::Directory { path }) {
            Err(error) if error.is(Errno::E2BIG) => in_parts(self, path)?,
            answer => present(answer)?,
        };
        Ok(listing.map(|listing| reply::directory_entries(&listing).map(String::from).collect()))
    }

    /// Who may do what with a node.
    ///
    /// # Errors
    /// As [`Nodes::request`].
    fn get_permissions(&mut self, path: &str) -> Result<Vec<Permission>, StoreError<Self::Error>> {
        let list = self.request(&Request::GetPermissions { path })?;
        Ok(reply::permissions(&list)?)
    }

    /// Says who may do what with a node: the whole list, the owner first.
    ///
    /// # Errors
    /// As [`Nodes::request`].
    fn set_permissions(&mut self, path: &str, permissions: &[Permission]) -> Result<(), StoreError<Self::Error>> {
        self.request(&Request::SetPermissions { path, permissions }).map(drop)
    }
}

/// How often a listing in parts begins anew. It does so whenever another client adds or removes a child meanwhile.
const LISTING_TRIES: u32 = 100;

/// The whole answer to DIRECTORY, asked for in parts.
fn in_parts<N: Nodes + ?Sized>(nodes: &mut N, path: &str) -> Result<Option<Vec<u8>>, StoreError<N::Error>> {
    for _ in 0..LISTING_TRIES {
        let (mut listing, mut generation) = (Vec::new(), None);
        loop {
            let offset = listing.len().to_string();
            let part = match nodes.request(&Request::DirectoryPart { path, offset: &offset }) {
                // What oxenstored says of questions that it does not know.
                Err(error) if error.is(Errno::ENOSYS) || error.is(Errno::EINVAL) => {
                    return Err(Error::Store(Errno::E2BIG).into());
                }
                part => present(part)?,
            };
            let Some(part) = part else { return Ok(None) };
            let part = reply::directory_part(&part)?;
            if generation.get_or_insert_with(|| part.generation.to_vec()) != part.generation {
                break;
            }
            listing.extend_from_slice(part.names);
            if part.is_last {
                return Ok(Some(listing));
            }
        }
    }
    Err(Error::Store(Errno::EAGAIN).into())
}

/// "No such node" as `None`.
fn present<E>(answer: Result<Vec<u8>, StoreError<E>>) -> Result<Option<Vec<u8>>, StoreError<E>> {
    match answer {
        Ok(payload) => Ok(Some(payload)),
        Err(error) if error.is(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
