//! Error codes: words by which programs tell errors apart. They stay as they are, whatever becomes of the texts.

use crate::error::{Error, HostError};

/// Codes and their meaning, for the manual and for docs/schema/result.json.
pub const ERROR_CODES: [(&str, &str); 68] = [
    ("E_ALREADY_ASSIGNED", "another guest has the device"),
    ("E_BACKEND_GAVE_UP", "the backend gave up the guest's connection"),
    ("E_BACKEND_GONE", "the guest has devices of a backend that is gone"),
    ("E_BACKEND_NOT_READY", "the backend runs and is not ready"),
    ("E_BACKEND_REFUSES", "the backend refuses the device"),
    ("E_BACKEND_SILENT", "the backend did not answer in time"),
    ("E_BACKEND_WENT_AWAY", "the backend went away meanwhile"),
    ("E_BEING_CREATED", "another command is creating this guest"),
    ("E_BRIDGE", "bridges are not given to guests"),
    ("E_BROKER_RUNS", "another broker runs"),
    ("E_CHANGED_MEANWHILE", "somebody else changed xenstore meanwhile"),
    ("E_CONFIG", "a configuration, a settings file or a plan makes no sense"),
    ("E_DEVICE_GONE", "nothing answers at the device's address"),
    ("E_DEVICE_MODEL", "the device model of an HVM guest did not do what it was asked for"),
    ("E_DEVICE_REPLACED", "another device is at the address now"),
    ("E_EXPORT_FAILED", "the backend could not export the device"),
    ("E_FILE", "the kernel refused something with a file"),
    ("E_FRONTEND_CLOSED", "the guest has closed its PCI frontend"),
    ("E_FRONTEND_REPLACED", "xl replaced the guest's frontend directory"),
    ("E_GUEST_EXISTS", "there is a guest with this UUID"),
    ("E_GUEST_HALF_CLOSED", "the guest stopped closing its devices half-way"),
    ("E_GUEST_REFUSED", "the guest closed the connection instead of using the devices"),
    ("E_GUEST_SILENT", "the guest did not answer in time"),
    ("E_GUEST_UNSTEADY", "the guest changes its state again and again"),
    ("E_GUEST_WENT_AWAY", "the guest went away meanwhile"),
    ("E_HAS_VIRTUAL_FUNCTIONS", "the device has virtual functions"),
    ("E_HYPERCALL", "Xen refused a call"),
    ("E_INTERRUPTED", "a signal stopped the command"),
    ("E_LEAKED", "a guest still has mappings of the device"),
    ("E_NAME_TAKEN", "another device has this name"),
    ("E_NONSENSE", "a file or a node holds what it cannot hold"),
    ("E_NOT_ASSIGNABLE", "the device is not with xen-pciback"),
    ("E_NOT_ATTACHED", "the guest does not have the device"),
    ("E_NOT_CLOSED", "the guest has not closed its frontend, whose backend is gone"),
    ("E_NOT_IN_TIME", "what `wait` waits for did not come in time"),
    ("E_NOT_PV", "the guest is not PV and has no stub domain"),
    ("E_NOT_REPLACEABLE", "the image of the backend cannot be started again in place, and nothing was changed"),
    ("E_NOT_YET_USED", "the guest runs and does not use its devices yet; they stay attached"),
    ("E_NO_BACKEND", "the backend is not running"),
    ("E_NO_DEVICE", "there is no such device"),
    ("E_NO_ECAM", "firmware describes no ECAM window for the device"),
    ("E_NO_GUEST", "there is no such guest"),
    ("E_NO_HOST", "this is not dom0, not root, or not Xen"),
    ("E_NO_IOMMU", "Xen uses no IOMMU"),
    ("E_NO_NAME", "no assignable device has this name"),
    ("E_NO_PASSTHROUGH", "the guest was created without passthrough="),
    ("E_NO_PCIBACK", "the module xen-pciback is not loaded"),
    ("E_NO_UUID", "the guest has no UUID by which devices could follow it"),
    ("E_OTHER_EXPORT", "the guest sees its devices in another mode"),
    ("E_OTHER_POOL", "the device is in another backend's pool"),
    ("E_OTHER_VERSION", "the broker or the backend is of a release that this command does not understand"),
    ("E_OWNED_ELSEWHERE", "Xen says that another domain has the device"),
    ("E_PHYSICAL_FUNCTION_AWAY", "the device's physical function is for guests too"),
    ("E_POOL_FULL", "the backend's pool is full"),
    ("E_RESET_HANGS", "a reset of the device does not end"),
    ("E_SERVED_BY_DOM0", "the guest has devices from dom0's xen-pciback"),
    ("E_SERVED_BY_OTHER", "the guest has devices from another backend"),
    ("E_SHARED_PAGE", "the device has registers in one page with another's"),
    ("E_STILL_THERE", "a guest that was destroyed does not go away"),
    ("E_UNFIT_GUEST", "this domain cannot get devices"),
    ("E_UNFIT_IMAGE", "the file is no image that can take the place of the one that runs, and nothing was changed"),
    ("E_UNHEALTHY", "doctor found something that failed"),
    ("E_UNSETTLED", "another command is moving the device"),
    ("E_UPGRADE_FAILED", "the new image did not come up, and the one before was put back"),
    ("E_USAGE", "the command line makes no sense"),
    ("E_USED_BY_DOM0", "dom0 needs the device: a mounted file system, swap, its only network card"),
    ("E_XENSTORE", "xenstored refused a request, or does not answer"),
    ("E_XL", "xl failed"),
];

impl Error {
    /// The code, which is one of [`ERROR_CODES`].
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::BrokerRuns(_) => "E_BROKER_RUNS",
            Self::NoIommu => "E_NO_IOMMU",
            Self::NoPciback => "E_NO_PCIBACK",
            Self::NoSuchGuest(_) => "E_NO_GUEST",
            Self::NoUuid(_) => "E_NO_UUID",
            Self::NotPv(_) => "E_NOT_PV",
            Self::DeviceModel { .. } => "E_DEVICE_MODEL",
            Self::GuestExists(_) => "E_GUEST_EXISTS",
            Self::BeingCreated(_) => "E_BEING_CREATED",
            Self::NotYetUsed { .. } => "E_NOT_YET_USED",
            Self::StillThere(_) => "E_STILL_THERE",
            Self::UnfitGuest { .. } => "E_UNFIT_GUEST",
            Self::NoPassthrough { .. } => "E_NO_PASSTHROUGH",
            Self::ServedByDom0 { .. } => "E_SERVED_BY_DOM0",
            Self::ServedByOther { .. } => "E_SERVED_BY_OTHER",
            Self::FrontendReplaced { .. } => "E_FRONTEND_REPLACED",
            Self::FrontendClosed { .. } => "E_FRONTEND_CLOSED",
            Self::BackendGone { .. } => "E_BACKEND_GONE",
            Self::StubNotRunning(_) => "E_NO_BACKEND",
            Self::StubNotReady(_) => "E_BACKEND_NOT_READY",
            Self::OtherVersion { .. } => "E_OTHER_VERSION",
            Self::NotReplaceable { .. } => "E_NOT_REPLACEABLE",
            Self::UnfitImage { .. } => "E_UNFIT_IMAGE",
            Self::UpgradeFailed { .. } => "E_UPGRADE_FAILED",
            Self::StubRefuses { .. } => "E_BACKEND_REFUSES",
            Self::StubSilent { .. } => "E_BACKEND_SILENT",
            Self::StubWentAway(_) => "E_BACKEND_WENT_AWAY",
            Self::PoolFull { .. } => "E_POOL_FULL",
            Self::StubInUse { .. } => "E_ALREADY_ASSIGNED",
            Self::OtherDevice { .. } => "E_DEVICE_REPLACED",
            Self::NoSuchDevice(_) => "E_NO_DEVICE",
            Self::NoSuchName(_) => "E_NO_NAME",
            Self::NameTaken { .. } => "E_NAME_TAKEN",
            Self::Gone(_) | Self::LostByReset(_) => "E_DEVICE_GONE",
            Self::Bridge(_) => "E_BRIDGE",
            Self::HasVirtualFunctions { .. } => "E_HAS_VIRTUAL_FUNCTIONS",
            Self::PhysicalFunctionAway { .. } => "E_PHYSICAL_FUNCTION_AWAY",
            Self::NotAssignable { .. } => "E_NOT_ASSIGNABLE",
            Self::UsedByDom0 { .. } => "E_USED_BY_DOM0",
            Self::AlreadyAssigned { .. } => "E_ALREADY_ASSIGNED",
            Self::OwnedElsewhere(_) => "E_OWNED_ELSEWHERE",
            Self::OtherPool { .. } => "E_OTHER_POOL",
            Self::Unsettled(_) => "E_UNSETTLED",
            Self::SharedPage { .. } => "E_SHARED_PAGE",
            Self::NoEcam(_) => "E_NO_ECAM",
            Self::NotAttached { .. } => "E_NOT_ATTACHED",
            Self::Leaked { .. } => "E_LEAKED",
            Self::OtherExport { .. } => "E_OTHER_EXPORT",
            Self::GuestSilent { .. } | Self::NotUnplugged { .. } => "E_GUEST_SILENT",
            Self::GuestHalfClosed { .. } => "E_GUEST_HALF_CLOSED",
            Self::NotClosed { .. } => "E_NOT_CLOSED",
            Self::GuestRefused { .. } => "E_GUEST_REFUSED",
            Self::GuestWentAway(_) => "E_GUEST_WENT_AWAY",
            Self::ExportFailed { .. } => "E_EXPORT_FAILED",
            Self::StubGaveUp { .. } => "E_BACKEND_GAVE_UP",
            Self::GuestUnsteady(_) => "E_GUEST_UNSTEADY",
            Self::Unhealthy { .. } => "E_UNHEALTHY",
            Self::Xl { .. } => "E_XL",
            Self::Config { .. } => "E_CONFIG",
            Self::Interrupted(_) => "E_INTERRUPTED",
            Self::NotInTime { .. } => "E_NOT_IN_TIME",
            Self::Usage(_) => "E_USAGE",
            Self::Host(error) => host_code(error),
        }
    }
}

fn host_code(error: &HostError) -> &'static str {
    match error {
        HostError::NoHost(_) => "E_NO_HOST",
        HostError::BrokerRuns => "E_BROKER_RUNS",
        HostError::ResetHangs(_) => "E_RESET_HANGS",
        HostError::Hypercall { .. } => "E_HYPERCALL",
        HostError::Store(_) => "E_XENSTORE",
        HostError::ChangedMeanwhile => "E_CHANGED_MEANWHILE",
        HostError::File { .. } => "E_FILE",
        HostError::Replaced(_) => "E_DEVICE_REPLACED",
        HostError::Nonsense { .. } => "E_NONSENSE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_that_is_told_is_described_and_no_other() {
        let source = include_str!("error_code.rs");
        let (_, code) = source.split_once("impl Error").unwrap();
        let (code, _) = code.split_once("#[cfg(test)]").unwrap();
        let told: BTreeSet<&str> = code.split('"').filter(|word| word.starts_with("E_")).collect();
        let described: BTreeSet<&str> = ERROR_CODES.iter().map(|(code, _)| *code).collect();
        assert_eq!(told, described);
        assert_eq!(described.len(), ERROR_CODES.len(), "one is described twice");
        assert!(ERROR_CODES.is_sorted());
    }
}
