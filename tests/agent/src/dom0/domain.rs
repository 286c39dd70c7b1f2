//! Names and numbers of domains.

/// A domain that the cases made: a guest or the stub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    pub(crate) name: String,
    pub(crate) id: u16,
}

impl Domain {
    /// A node of the domain's own.
    pub(crate) fn node(&self, path: &str) -> String {
        format!("/local/domain/{}/{path}", self.id)
    }
}
