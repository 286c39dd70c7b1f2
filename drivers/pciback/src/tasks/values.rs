//! Values of nodes that were read together.

use alloc::vec::Vec;

use xenstore::number;

/// `vdevfn-N`, which is read beside the transaction: it comes and goes with its `dev-N`, which is read within.
pub(crate) const REQUESTED_SLOT: &str = "vdevfn";

/// What was answered to a question; `None` where the node is missing.
pub(crate) type Value = Option<Vec<u8>>;

/// Values of nodes by their names.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    /// The names, without the suffix.
    pub(crate) names: &'static [&'static str],
    /// In the same order.
    pub(crate) values: &'a [Value],
}

impl<'a> Values<'a> {
    /// The value of the node `name`; `None` where it is missing.
    pub(crate) fn get(self, name: &str) -> Option<&'a [u8]> {
        let place = self.names.iter().position(|known| *known == name)?;
        self.values.get(place)?.as_deref()
    }

    /// The same as a decimal number; `None` also where it is none.
    pub(crate) fn decimal(self, name: &str) -> Option<u32> {
        number::decimal(self.get(name)?).ok()
    }

    /// The same as text; `None` also where it is none.
    pub(crate) fn text(self, name: &str) -> Option<&'a str> {
        xenstore::text(self.get(name)?).ok()
    }
}
