//! The nodes, and transactions on them with the semantics of the C daemon: a transaction works on what it has read first,
//! and its end fails if any of that was changed by others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use xen_types::DomId;

/// Nodes that a guest may own (`quota-maxentity` of oxenstored).
pub const NODE_QUOTA: usize = 1000;

/// One entry of a node's permissions: `n`, `r`, `w` or `b`, and a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    read: bool,
    write: bool,
    domid: DomId,
}

impl Access {
    /// Reads a word of the wire.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let domid = DomId(text.get(1..)?.parse().ok()?);
        let (read, write) = match text.get(..1)? {
            "n" => (false, false),
            "r" => (true, false),
            "w" => (false, true),
            "b" => (true, true),
            _ => return None,
        };
        Some(Self { read, write, domid })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match (self.read, self.write) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        };
        write!(f, "{letter}{}", self.domid)
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `ENOENT`.
    NoSuchNode,
    /// `EACCES`.
    Denied,
    /// `EINVAL`.
    Invalid,
    /// `ENOSPC`: too many nodes of that domain.
    Quota,
    /// `EAGAIN`: others changed what was read.
    Again,
    /// `ENOSYS`.
    NoSuchRequest,
}

impl Refusal {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoSuchNode => "ENOENT",
            Self::Denied => "EACCES",
            Self::Invalid => "EINVAL",
            Self::Quota => "ENOSPC",
            Self::Again => "EAGAIN",
            Self::NoSuchRequest => "ENOSYS",
        }
    }
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    pub(super) value: Vec<u8>,
    permissions: Vec<Access>,
    children: BTreeSet<String>,
    /// Number of the change that last touched it.
    generation: u64,
}

impl Node {
    /// Its value; `None` when that is not UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.value).ok()
    }

    /// Who may do what with it, the owner first.
    #[must_use]
    pub fn permissions(&self) -> &[Access] {
        &self.permissions
    }

    /// The names of its children, in order.
    pub fn children(&self) -> impl Iterator<Item = &str> {
        self.children.iter().map(String::as_str)
    }

    fn owner(&self) -> DomId {
        self.permissions.first().map_or(DomId::DOM0, |first| first.domid)
    }

    fn allows(&self, domid: DomId, want: impl Fn(&Access) -> bool) -> bool {
        if domid == DomId::DOM0 || self.owner() == domid {
            return true;
        }
        let named = self.permissions.iter().skip(1).find(|access| access.domid == domid);
        named.or(self.permissions.first()).is_some_and(want)
    }
}

/// Something that watchers are told.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) path: String,
    /// Only for watches on this very node: it went away with one above it.
    pub(super) is_exact: bool,
    readers: Vec<Arc<Node>>,
}

impl Change {
    /// A domain hears of a change when it can read the node or the one above it.
    pub(super) fn is_visible_to(&self, domid: DomId) -> bool {
        self.readers.iter().any(|node| node.allows(domid, |access| access.read))
    }
}

#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Arc<Node>>,
    /// Nodes by owner.
    owned: BTreeMap<DomId, usize>,
    generation: u64,
}

impl Default for Tree {
    fn default() -> Self {
        let dom0 = Access { read: false, write: false, domid: DomId::DOM0 };
        let node = |children: &[&str]| Node {
            value: Vec::new(),
            permissions: vec![dom0],
            children: children.iter().map(ToString::to_string).collect(),
            generation: 0,
        };
        let nodes = [("/", node(&["local"])), ("/local", node(&["domain"])), ("/local/domain", node(&[]))];
        Self {
            nodes: nodes.into_iter().map(|(path, node)| (path.to_owned(), Arc::new(node))).collect(),
            owned: BTreeMap::new(),
            generation: 0,
        }
    }
}

impl Tree {
    pub(super) fn get(&self, path: &str) -> Option<&Arc<Node>> {
        self.nodes.get(path)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), &**node))
    }

    pub(super) fn owned_by(&self, domid: DomId) -> Vec<String> {
        self.nodes.iter().filter(|(_, node)| node.owner() == domid).map(|(path, _)| path.clone()).collect()
    }

    pub(super) fn dump(&self) -> Vec<String> {
        let line = |(path, node): (&str, &Node)| {
            let permissions = node.permissions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            format!("{path} = {:?} ({permissions})", String::from_utf8_lossy(&node.value))
        };
        self.nodes().map(line).collect()
    }

    /// Ends a transaction: `None` when others changed what it had read.
    pub(super) fn commit(&mut self, overlay: Overlay, quota: usize) -> Option<Vec<Change>> {
        for (path, seen) in &overlay.seen {
            if self.nodes.get(path).map(|node| node.generation) != *seen {
                return None;
            }
        }
        if overlay.changes.is_empty() {
            return Some(Vec::new());
        }
        self.generation += 1;
        for (path, node) in overlay.nodes {
            let before = match node {
                Some(mut node) if overlay.written.contains(&path) => {
                    Arc::make_mut(&mut node).generation = self.generation;
                    *self.owned.entry(node.owner()).or_default() += 1;
                    self.nodes.insert(path, node)
                }
                Some(_) => None,
                None => self.nodes.remove(&path),
            };
            if let Some(count) = before.and_then(|node| self.owned.get_mut(&node.owner())) {
                *count -= 1;
            }
        }
        for (domid, count) in &self.owned {
            // Each request was checked; a transaction of many could still pass it in sum.
            assert!(*domid == DomId::DOM0 || *count <= quota, "domain {domid} owns {count} nodes");
        }
        Some(overlay.changes)
    }
}

/// A transaction: what it has read, and what it will have changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    /// Generation of each node at its first reading, `None` where there was none.
    seen: BTreeMap<String, Option<u64>>,
    nodes: BTreeMap<String, Option<Arc<Node>>>,
    written: BTreeSet<String>,
    changes: Vec<Change>,
    /// What was asked in it.
    pub(super) requests: usize,
}

impl Overlay {
    /// How many nodes it has to do with.
    pub(super) fn touched(&self) -> usize {
        self.seen.len()
    }

    /// Number of the change that last touched a node.
    pub(super) fn generation(&mut self, tree: &Tree, path: &str) -> u64 {
        self.node(tree, path).map_or(0, |node| node.generation)
    }

    pub(super) fn read(&mut self, tree: &Tree, domid: DomId, path: &str) -> Result<Vec<u8>, Refusal> {
        self.readable(tree, domid, path).map(|node| node.value.clone())
    }

    pub(super) fn directory(&mut self, tree: &Tree, domid: DomId, path: &str) -> Result<Vec<String>, Refusal> {
        self.readable(tree, domid, path).map(|node| node.children.iter().cloned().collect())
    }

    pub(super) fn permissions(&mut self, tree: &Tree, domid: DomId, path: &str) -> Result<Vec<Access>, Refusal> {
        self.readable(tree, domid, path).map(|node| node.permissions.clone())
    }

    pub(super) fn set_permissions(
        &mut self,
        tree: &Tree,
        domid: DomId,
        path: &str,
        permissions: Vec<Access>,
    ) -> Result<(), Refusal> {
        let mut node = self.node(tree, path).ok_or(Refusal::NoSuchNode)?;
        let owner = permissions.first().map(|first| first.domid);
        if domid != DomId::DOM0 && (node.owner() != domid || owner != Some(domid)) {
            return Err(Refusal::Denied);
        }
        Arc::make_mut(&mut node).permissions = permissions;
        self.changed(tree, path, &node);
        self.put(path, node);
        Ok(())
    }

    /// Writes a value, or with `None` makes sure that the node is there.
    pub(super) fn write(&mut self, tree: &Tree, domid: DomId, path: &str, value: Option<&[u8]>) -> Result<(), Refusal> {
        if let Some(mut node) = self.node(tree, path) {
            if !node.allows(domid, |access| access.write) {
                return Err(Refusal::Denied);
            }
            if let Some(value) = value {
                Arc::make_mut(&mut node).value = value.to_vec();
                self.changed(tree, path, &node);
                self.put(path, node);
            }
            return Ok(());
        }
        self.create(tree, domid, path, value.unwrap_or_default())
    }

    fn create(&mut self, tree: &Tree, domid: DomId, path: &str, value: &[u8]) -> Result<(), Refusal> {
        let (above, name) = path.rsplit_once('/').ok_or(Refusal::Invalid)?;
        let above = if above.is_empty() { "/" } else { above };
        if self.node(tree, above).is_none() {
            self.create(tree, domid, above, &[])?;
        }
        let mut parent = self.node(tree, above).ok_or(Refusal::NoSuchNode)?;
        if !parent.allows(domid, |access| access.write) {
            return Err(Refusal::Denied);
        }
        let mut permissions = parent.permissions.clone();
        if domid != DomId::DOM0 {
            // What a guest creates is its own, and counts.
            if let Some(owner) = permissions.first_mut() {
                owner.domid = domid;
            }
            if tree.owned.get(&domid).is_some_and(|count| *count >= NODE_QUOTA) {
                return Err(Refusal::Quota);
            }
        }
        Arc::make_mut(&mut parent).children.insert(name.to_owned());
        self.put(above, parent);
        let node = Arc::new(Node { value: value.to_vec(), permissions, children: BTreeSet::new(), generation: 0 });
        self.changed(tree, path, &node);
        self.put(path, node);
        Ok(())
    }

    pub(super) fn remove(&mut self, tree: &Tree, domid: DomId, path: &str) -> Result<(), Refusal> {
        let (above, name) = path.rsplit_once('/').ok_or(Refusal::Invalid)?;
        let above = if above.is_empty() { "/" } else { above };
        let Some(node) = self.node(tree, path) else {
            // As the C daemon: removing what is not there is fine if it could be there.
            return self.node(tree, above).map(|_| ()).ok_or(Refusal::NoSuchNode);
        };
        if !node.allows(domid, |access| access.write) {
            return Err(Refusal::Denied);
        }
        self.changed(tree, path, &node);
        if let Some(mut parent) = self.node(tree, above) {
            Arc::make_mut(&mut parent).children.remove(name);
            self.put(above, parent);
        }
        self.remove_below(tree, path, &node);
        self.delete(path);
        Ok(())
    }

    fn remove_below(&mut self, tree: &Tree, path: &str, node: &Node) {
        for name in &node.children {
            let below = format!("{path}/{name}");
            if let Some(child) = self.node(tree, &below) {
                self.changes.push(Change { path: below.clone(), is_exact: true, readers: vec![Arc::clone(&child)] });
                self.remove_below(tree, &below, &child);
                self.delete(&below);
            }
        }
    }

    fn readable(&mut self, tree: &Tree, domid: DomId, path: &str) -> Result<Arc<Node>, Refusal> {
        if let Some(node) = self.node(tree, path) {
            return if node.allows(domid, |access| access.read) { Ok(node) } else { Err(Refusal::Denied) };
        }
        // Whether a node exists is told only to those who may read above it (the daemon's `errno_from_parents`).
        let mut above = path;
        loop {
            above = above.rsplit_once('/').map_or("/", |(above, _)| if above.is_empty() { "/" } else { above });
            if let Some(node) = tree.get(above) {
                let may_know = node.allows(domid, |access| access.read);
                return Err(if may_know { Refusal::NoSuchNode } else { Refusal::Denied });
            }
        }
    }

    fn node(&mut self, tree: &Tree, path: &str) -> Option<Arc<Node>> {
        if let Some(node) = self.nodes.get(path) {
            return node.clone();
        }
        let node = tree.get(path).cloned();
        self.seen.insert(path.to_owned(), node.as_ref().map(|node| node.generation));
        self.nodes.insert(path.to_owned(), node.clone());
        node
    }

    fn put(&mut self, path: &str, node: Arc<Node>) {
        self.written.insert(path.to_owned());
        self.nodes.insert(path.to_owned(), Some(node));
    }

    fn delete(&mut self, path: &str) {
        self.nodes.insert(path.to_owned(), None);
    }

    fn changed(&mut self, tree: &Tree, path: &str, node: &Arc<Node>) {
        let above = path.rsplit_once('/').map_or("/", |(above, _)| if above.is_empty() { "/" } else { above });
        let mut readers = vec![Arc::clone(node)];
        // Not through `node`: who may hear of it is no part of what the transaction has read.
        readers.extend(match self.nodes.get(above) {
            Some(above) => above.clone(),
            None => tree.get(above).cloned(),
        });
        self.changes.push(Change { path: path.to_owned(), is_exact: false, readers });
    }
}
