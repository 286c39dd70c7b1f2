//! Clean-up of a function by the broker, for which no guest waits.

use super::BrokerRequest;

/// Where a function must be brought to as soon as the broker can, the weaker first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cleanup {
    /// It is where it should be.
    #[default]
    None,
    /// MSI and MSI-X may be on, and it is recorded nowhere.
    Disable,
    /// Its guest has released it.
    Quiesce,
}

impl Cleanup {
    /// The request to the broker.
    pub(crate) const fn request(self) -> Option<BrokerRequest> {
        match self {
            Self::None => None,
            Self::Disable => Some(BrokerRequest::Disable),
            Self::Quiesce => Some(BrokerRequest::Quiesce),
        }
    }
}
