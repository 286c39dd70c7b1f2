//! The requests: the broker must refuse each, except the first, which shows that it answers.

use alloc::vec;
use alloc::vec::Vec;
use pcidom_abi::BrokerCommand;
use pciif::Request;
use pciif::layout::{MAX_VECTORS, MsixEntry};
use xen_types::Sbdf;

use crate::targets::Targets;

/// One request.
pub(crate) struct Attempt {
    /// What it asks for.
    pub(crate) name: &'static str,
    /// The request.
    pub(crate) request: Request,
    /// The MSI-X entries behind it in the page.
    pub(crate) entries: Vec<MsixEntry>,
}

/// Harmless and allowed for devices of our own.
pub(crate) fn query(device: Sbdf) -> Request {
    request(BrokerCommand::Query.raw(), device)
}

/// Every attempt, in this order. The case in dom0 (`tests/agent`) knows the names and the answers.
pub(crate) fn all(targets: &Targets) -> Vec<Attempt> {
    let &Targets { msi, msix, foreign } = targets;
    [devices(msi, foreign), writes(msi), accesses(msi), vectors(msi, msix), commands(msi)]
        .into_iter()
        .flatten()
        .collect()
}

fn attempt(name: &'static str, request: Request) -> Attempt {
    Attempt { name, request, entries: Vec::new() }
}

/// A request with nothing but command and address.
fn request(cmd: u32, device: Sbdf) -> Request {
    Request {
        cmd,
        domain: device.segment().into(),
        bus: device.bus().into(),
        devfn: device.devfn().into(),
        offset: 0,
        size: 0,
        value: 0,
        info: 0,
    }
}

fn write(device: Sbdf, offset: i32, size: i32, value: u32) -> Request {
    Request { offset, size, value, info: u32::MAX, ..request(BrokerCommand::ConfWrite.raw(), device) }
}

/// Devices that are not ours.
fn devices(own: Sbdf, foreign: Sbdf) -> Vec<Attempt> {
    let quiesce = BrokerCommand::Quiesce.raw();
    vec![
        attempt("its own device", query(own)),
        attempt("its own device's cache line size", write(own, 0x0c, 1, 0x10)),
        attempt("another stub's device", query(foreign)),
        attempt("a write to another stub's device", write(foreign, 0x0c, 1, 0x10)),
        attempt("another stub's device quiesced", request(quiesce, foreign)),
        attempt("an interrupt of another stub's device", request(BrokerCommand::EnableMsi.raw(), foreign)),
        attempt("a device of dom0", request(quiesce, Sbdf::from_devfn(0, 0, 0x1f << 3 | 2))),
        attempt("a device that does not exist", request(quiesce, Sbdf::from_devfn(0, 0xff, 0xff))),
        attempt("a bus that cannot be", Request { bus: 0x1_0000 | u32::from(own.bus()), ..query(own) }),
        attempt("a segment that cannot be", Request { domain: u32::MAX, ..query(own) }),
        attempt("a function that cannot be", Request { devfn: 0x100 | u32::from(own.devfn()), ..query(own) }),
    ]
}

/// Registers that are not on the list. The device has MSI at 40h.
fn writes(own: Sbdf) -> Vec<Attempt> {
    vec![
        attempt("a BAR", write(own, 0x10, 4, 0xfee0_0000)),
        attempt("half a BAR", write(own, 0x12, 2, 0xfee0)),
        attempt("the ROM's BAR", write(own, 0x30, 4, 0xfee0_0001)),
        attempt("decoding", Request { info: 2, ..write(own, 4, 2, 0) }),
        attempt("decoding, wrapped in what is allowed", Request { info: 6, ..write(own, 4, 2, 4) }),
        attempt("decoding, as a byte", Request { info: 3, ..write(own, 4, 1, 3) }),
        attempt("the status register", write(own, 6, 2, 0xffff)),
        attempt("the interrupt line", write(own, 0x3c, 1, 9)),
        attempt("the message control word", write(own, 0x42, 2, 1)),
        attempt("the message address", write(own, 0x44, 4, 0xfee0_0000)),
        attempt("the message data", write(own, 0x4c, 2, 0x41)),
        attempt("nothing at all", Request { info: 0, ..write(own, 4, 2, 4) }),
    ]
}

/// Offsets and sizes that are no access.
fn accesses(own: Sbdf) -> Vec<Attempt> {
    vec![
        attempt("no size", write(own, 4, 0, 4)),
        attempt("three bytes", write(own, 4, 3, 4)),
        attempt("a negative size", write(own, 4, -2, 4)),
        attempt("an odd offset", write(own, 5, 2, 4)),
        attempt("a negative offset", write(own, -4, 4, 4)),
        attempt("an offset beyond the end", write(own, 4096, 4, 4)),
        attempt("the last offset there is", write(own, i32::MAX, 1, 4)),
    ]
}

fn vectors(msi: Sbdf, msix: Sbdf) -> Vec<Attempt> {
    let enable_msix = |name, device, value: u32, indexes: Vec<u16>| Attempt {
        name,
        request: Request { value, ..request(BrokerCommand::EnableMsix.raw(), device) },
        entries: indexes.into_iter().map(|entry| MsixEntry { vector: 0, entry }).collect(),
    };
    let all = || (0..).take(MAX_VECTORS).collect();
    vec![
        enable_msix("4,096 vectors", msix, 4096, all()),
        enable_msix("all the vectors there are in 32 bits", msix, u32::MAX, all()),
        enable_msix("more vectors than the table has", msix, 128, all()),
        enable_msix("a table index out of range", msix, 1, vec![u16::MAX]),
        enable_msix("one table index twice", msix, 2, vec![1, 1]),
        enable_msix("no vector", msix, 0, Vec::new()),
        enable_msix("MSI-X of a device without", msi, 1, vec![0]),
        attempt("MSI of a device without", request(BrokerCommand::EnableMsi.raw(), msix)),
        attempt("4,096 messages", Request { info: 4096, ..request(BrokerCommand::EnableMultiMsi.raw(), msi) }),
        attempt("three messages", Request { info: 3, ..request(BrokerCommand::EnableMultiMsi.raw(), msi) }),
    ]
}

fn commands(own: Sbdf) -> Vec<Attempt> {
    vec![
        attempt("what a device has lost that xen-pciback does not hold", request(BrokerCommand::Restore.raw(), own)),
        attempt("a read, which is not the broker's", request(0, own)),
        attempt("command 11", request(11, own)),
        attempt("command 0x103", request(0x103, own)),
        attempt("the last command there is", request(u32::MAX, own)),
    ]
}
