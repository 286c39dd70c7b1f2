//! Maps pages that other domains grant to us.

use super::GrantError;
use crate::fixmap::{self, FixmapEntry, Record};
use crate::hypercall::{hypercall5, number};
use crate::{events, paging, survivor};
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use xen_types::{DomId, Errno, GrantRef, Port};

const GNTTABOP_MAP_GRANT_REF: u64 = 0;
const GNTTABOP_UNMAP_GRANT_REF: u64 = 1;
const GNTMAP_HOST_MAP: u32 = 1 << 1;
const GNTMAP_READONLY: u32 = 1 << 2;

/// `struct gnttab_map_grant_ref`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MapArgument {
    host_addr: u64,
    flags: u32,
    reference: u32,
    domain: u16,
    status: i16,
    handle: u32,
    device_address: u64,
}

const _: () = assert!(size_of::<MapArgument>() == 32);
const _: () = assert!(offset_of!(MapArgument, status) == 18 && offset_of!(MapArgument, handle) == 20);

/// `struct gnttab_unmap_grant_ref`.
#[repr(C)]
#[derive(Clone, Copy)]
struct UnmapArgument {
    host_addr: u64,
    device_address: u64,
    handle: u32,
    status: i16,
}

const _: () = assert!(size_of::<UnmapArgument>() == 24 && offset_of!(UnmapArgument, status) == 20);

/// What to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// The domain that granted the page.
    pub peer: DomId,
    /// Its grant reference.
    pub reference: GrantRef,
    /// Whether we want to write; the grant must allow it.
    pub writable: bool,
}

/// A mapped page of another domain, which may write to it at any time. Dropping it unmaps it.
#[derive(Debug)]
pub struct GrantMapping {
    slot: FixmapEntry,
    handle: u32,
    writable: bool,
}

impl GrantMapping {
    /// The page: 4,096 bytes, readable, writable if it was asked for, valid as long as `self` lives. The peer shares it: no
    /// references may be made to its content.
    #[must_use]
    #[inline(always)] // on the way of each request
    pub fn base(&self) -> NonNull<u8> {
        self.slot.base()
    }

    /// Whether writes are possible.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    fn unmap_argument(&self) -> UnmapArgument {
        UnmapArgument { host_addr: self.slot.address() as u64, device_address: 0, handle: self.handle, status: 0 }
    }
}

impl Drop for GrantMapping {
    fn drop(&mut self) {
        unmap_arguments(&mut [self.unmap_argument()]);
    }
}

/// Maps one page.
///
/// # Errors
/// Xen's refusal, or that there is no free slot.
pub fn map(request: MapRequest) -> Result<GrantMapping, GrantError> {
    let is_this = |record| matches!(record, Record::Grant { domain, reference, .. } if (domain, reference) == (request.peer, request.reference));
    if let Some((slot, Record::Grant { handle, .. })) = fixmap::claim(&is_this) {
        return Ok(GrantMapping { slot, handle, writable: true }); // mapped by a life before, and recorded only where it is writable
    }
    let slot = FixmapEntry::take().map_err(GrantError::Call)?;
    let mut argument = request.argument(&slot);
    let call = map_arguments(core::slice::from_mut(&mut argument));
    finish(request, slot, &argument, call)
}

/// Maps several pages with one hypercall; each entry has a result of its own, in the order of the requests.
pub fn map_batch(requests: &[MapRequest]) -> Vec<Result<GrantMapping, GrantError>> {
    let slots: Vec<Result<FixmapEntry, Errno>> = requests.iter().map(|_| FixmapEntry::take()).collect();
    let with_slots = requests.iter().zip(&slots);
    let mut arguments: Vec<MapArgument> =
        with_slots.filter_map(|(request, slot)| Some(request.argument(slot.as_ref().ok()?))).collect();
    let call = map_arguments(&mut arguments);
    let mut arguments = arguments.iter();
    let finish = |(request, slot): (&MapRequest, Result<FixmapEntry, Errno>)| {
        let slot = slot.map_err(GrantError::Call)?;
        let argument = arguments.next().ok_or(GrantError::Call(Errno::EINVAL))?;
        finish(*request, slot, argument, call)
    };
    requests.iter().zip(slots).map(finish).collect()
}

impl MapRequest {
    fn argument(&self, slot: &FixmapEntry) -> MapArgument {
        MapArgument {
            host_addr: slot.address() as u64,
            flags: GNTMAP_HOST_MAP | if self.writable { 0 } else { GNTMAP_READONLY },
            reference: self.reference.0,
            domain: self.peer.0,
            status: 0,
            handle: 0,
            device_address: 0,
        }
    }
}

/// Callers own the slots that the arguments name, and nothing is mapped there.
fn map_arguments(arguments: &mut [MapArgument]) -> Result<(), Errno> {
    let (pointer, count) = (arguments.as_mut_ptr() as u64, arguments.len() as u64);
    // SAFETY: `count` arguments at `pointer`, alive until the call returns; the addresses are those of empty slots that are the caller's alone.
    unsafe { hypercall5(number::GRANT_TABLE_OP, GNTTABOP_MAP_GRANT_REF, pointer, count, 0, 0) }.map(drop)
}

fn finish(
    request: MapRequest,
    slot: FixmapEntry,
    argument: &MapArgument,
    call: Result<(), Errno>,
) -> Result<GrantMapping, GrantError> {
    call.map_err(GrantError::Call)?;
    GrantError::check(argument.status)?;
    let handle = argument.handle;
    if request.writable {
        let (domain, reference) = (request.peer, request.reference);
        slot.set_record(Record::Grant { domain, reference, handle, port: Port(0), remote: Port(0) });
    }
    Ok(GrantMapping { slot, handle, writable: request.writable })
}

/// The port that goes with the page that `peer` granted: the one that is there from a life before, or the one that `bind` makes now. Also one that a life before
/// has bound and did not come to write down.
///
/// # Errors
/// Those of `bind`.
pub fn port_of(peer: DomId, wanted: Port, bind: impl FnOnce() -> Result<Port, Errno>) -> Result<Port, Errno> {
    let found = fixmap::find(&|record| matches!(record, Record::Grant { domain, .. } if domain == peer));
    let Some((slot, Record::Grant { domain, reference, handle, port, remote })) = found else { return bind() };
    if port.0 != 0 {
        if remote == wanted && events::is_connected(port) {
            events::raise(port); // a request may have come meanwhile
            return Ok(port);
        }
        events::close(port);
    }
    let port = match bind() {
        Err(error) if survivor::restarts() > 0 => events::find_bound(peer, wanted).ok_or(error)?,
        bound => bound?,
    };
    slot.set_record(Record::Grant { domain, reference, handle, port, remote: wanted });
    Ok(port)
}

/// Whether a life before has mapped this page, and nobody has claimed it yet.
#[must_use]
pub fn is_unclaimed(peer: DomId, wanted: GrantRef) -> bool {
    let is_it =
        |record| matches!(record, Record::Grant { domain, reference, .. } if (domain, reference) == (peer, wanted));
    fixmap::unclaimed::<u8>(&is_it).is_some()
}

/// The first word of a page of `peer` that a life before has mapped, as its guest has it now, while nobody has claimed the page.
#[must_use]
pub fn first_word(peer: DomId) -> Option<u32> {
    let word: NonNull<AtomicU32> =
        fixmap::unclaimed(&|record| matches!(record, Record::Grant { domain, .. } if domain == peer))?;
    // SAFETY: the first word of a page that is mapped (`fixmap::restore` keeps records of such alone) and is not unmapped before it is claimed or forgotten,
    // which nobody does meanwhile; the guest writes to it at any time, hence the atomic.
    Some(unsafe { word.as_ref() }.load(Ordering::Acquire))
}

/// Gives up what a life before has mapped and nobody has claimed: pages, and the ports that go with them.
pub fn forget_unclaimed() {
    while let Some((slot, record)) = fixmap::claim(&|_| true) {
        match record {
            Record::Grant { handle, port, .. } => {
                if port.0 != 0 {
                    events::close(port);
                }
                drop(GrantMapping { slot, handle, writable: true });
            }
            Record::Mmio { .. } | Record::Nothing => {
                // SAFETY: nothing of this life uses the entry.
                let _ = unsafe { paging::set_entry(slot.address(), 0) };
            }
        }
    }
}

/// Unmaps several pages with one hypercall.
pub fn unmap_batch(mappings: Vec<GrantMapping>) {
    let mut arguments: Vec<UnmapArgument> = mappings.iter().map(GrantMapping::unmap_argument).collect();
    unmap_arguments(&mut arguments);
    for mapping in mappings {
        // Unmapped above: only the slot is given back, without a second unmap.
        let mapping = core::mem::ManuallyDrop::new(mapping);
        // SAFETY: `mapping` is never used again, so its slot is moved out once.
        drop(unsafe { core::ptr::read(&raw const mapping.slot) });
    }
}

/// Failures are logged: nothing can be done about them, and Xen refuses only handles that are not ours.
fn unmap_arguments(arguments: &mut [UnmapArgument]) {
    let (pointer, count) = (arguments.as_mut_ptr() as u64, arguments.len() as u64);
    // SAFETY: `count` arguments at `pointer`; their users are gone (callers own the mappings).
    let call = unsafe { hypercall5(number::GRANT_TABLE_OP, GNTTABOP_UNMAP_GRANT_REF, pointer, count, 0, 0) };
    for argument in arguments {
        if let Err(error) = call.map_err(GrantError::Call).and_then(|_| GrantError::check(argument.status)) {
            plain_log::error!("unmapping grant at {:#x}: {error}", argument.host_addr);
        }
    }
}
