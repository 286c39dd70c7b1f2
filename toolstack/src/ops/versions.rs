//! Whether the parts that a command has to do with understand it (`docs/protocol.md`, "Versions of the parts").

use pcidom_abi::{Fit, PartVersion, VERSION, paths};
use xen_types::DomId;

use crate::error::{DomainName, Error, Part};
use crate::host::Host;
use crate::host::domain;
use crate::host::lock;

/// What a stub announces; `None` while it is not ready.
pub(crate) fn of_stub(host: &Host, stub: DomId) -> Result<Option<PartVersion>, Error> {
    Ok(host.read(&paths::version_node(stub))?.as_deref().map(PartVersion::parse))
}

/// What the broker announces that was started last. Whether one runs is for [`lock::broker_pid`] to say.
pub(crate) fn of_broker(host: &Host) -> Result<PartVersion, Error> {
    Ok(PartVersion::parse(host.read(paths::BROKER)?.as_deref().unwrap_or("an unnamed release")))
}

/// Refuses a stub that this command does not understand. One that is not ready is none.
pub(crate) fn check_stub(host: &Host, stub: &DomainName) -> Result<(), Error> {
    match of_stub(host, stub.id)? {
        Some(version) => check(Part::Backend(stub.clone()), version, VERSION),
        None => Ok(()),
    }
}

/// The same for the domain of this name, if there is one.
pub(crate) fn check_named(host: &Host, backend: &str) -> Result<(), Error> {
    match domain::find(host, backend)? {
        Some((stub, info)) if !info.dying && !info.shutdown => check_stub(host, &stub),
        _ => Ok(()),
    }
}

/// The same for the broker, if one runs.
pub(crate) fn check_broker(host: &Host) -> Result<(), Error> {
    match lock::broker_pid() {
        Some(_) => check(Part::Broker, of_broker(host)?, VERSION),
        None => Ok(()),
    }
}

/// Refuses what does not fit the contract `ours`.
fn check(part: Part, theirs: PartVersion, ours: u32) -> Result<(), Error> {
    match theirs.fit(ours) {
        Fit::Same => Ok(()),
        fit => Err(Error::OtherVersion { part, theirs, fit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, part: Part, ours: u32) -> Option<(String, String)> {
        let error = check(part, PartVersion::parse(text), ours).err()?;
        Some((error.to_string(), error.hint().unwrap()))
    }

    #[test]
    fn parts_of_the_same_contract_go_on_and_others_are_refused_with_both_told() {
        let stub = || Part::Backend(DomainName { id: DomId(3), name: Some("pcidom".to_owned()) });
        let own = env!("CARGO_PKG_VERSION");
        for (text, ours) in [("0.1.0 contract 1", 1), ("7.0 contract 3", 3), ("0.0.9", 1)] {
            assert_eq!(said(text, stub(), ours), None, "{text}");
            assert_eq!(said(text, Part::Broker, ours), None, "{text}");
        }
        let (error, hint) = said("0.0.9", stub(), 2).unwrap();
        assert_eq!(
            error,
            format!(
                "the backend pcidom (domain 3) is of release 0.0.9 (contract 1), which this command of {own} (contract 1) does not understand"
            )
        );
        assert!(hint.contains("systemctl restart pcidom-backend"), "{hint}");
        let (_, hint) = said("7.0 contract 3", stub(), 1).unwrap();
        assert!(hint.contains("install the release"), "{hint}");
        let (error, hint) = said("0.1.0 contract 1", Part::Broker, 2).unwrap();
        assert!(error.starts_with("the broker is of release 0.1.0 (contract 1), "), "{error}");
        assert!(hint.contains("`systemctl restart pcidom`"), "{hint}");
        assert!(said("7.0 contract soon", Part::Broker, 2).unwrap().1.contains("install the release"));
    }
}
