//! The real [`Inspect`].

use core::ffi::{c_uint, c_ulong};

use ::dom0::xen::library::{check, last_errno};
use xen_types::{DomId, Errno, Mfn, Pirq, Port};

use super::images::{Images, Page};
use super::inspect::{BATCH, Channel, FrameType, Inspect, Table};
use super::inspector::{Context, EvtchnStatus};
use super::libxc::Libxc;
use super::{DomainInfo, HypercallError};

/// `XEN_DOMCTL_PFINFO_*` (`xen/include/public/domctl.h`, 4.17 and 4.20): the upper bits of each answer. The one for pinned
/// tables is bit 31, which the three values with a meaning of their own use too.
const PFINFO_MASK: u64 = 0xf << 28;
const PFINFO_XTAB: u64 = 0xf << 28;
const PFINFO_XALLOC: u64 = 0xe << 28;
const PFINFO_BROKEN: u64 = 0xd << 28;
const PFINFO_TABLE_MASK: u64 = 0x7 << 28;
const PFINFO_L1TAB: u64 = 0x1 << 28;
const PFINFO_L2TAB: u64 = 0x2 << 28;
const PFINFO_L3TAB: u64 = 0x3 << 28;
const PFINFO_L4TAB: u64 = 0x4 << 28;

/// `ctrlreg[3]` of a `struct vcpu_guest_context` (`xen/include/public/arch-x86/xen.h`): byte 5,008, behind 512 of floating point registers, the flags, 200 of
/// registers, 256 traps of 16, LDT, 16 frames and the size of the GDT, kernel stack, and three more control registers. A CPU of 32 bits has
/// something else there, of which Xen says that it is no root table.
const CONTEXT_CR3: usize = 5008 / 8;

/// `trap_ctxt[2].address` of the same structure, where an NMI leads to (`register_guest_nmi_callback`, `xen/arch/x86/pv/traps.c`): the traps begin at byte 720,
/// and the address is the second half of an entry.
const CONTEXT_NMI_ENTRY: usize = (720 + 2 * 16 + 8) / 8;

/// `EVTCHNSTAT_pirq` (`xen/include/public/event_channel.h`).
const STATUS_PIRQ: u32 = 3;

impl FrameType {
    fn decode(word: u64) -> Self {
        match word & PFINFO_MASK {
            PFINFO_XTAB => Self::NotTheirs,
            PFINFO_XALLOC | PFINFO_BROKEN => Self::Other,
            word => match word & PFINFO_TABLE_MASK {
                PFINFO_L1TAB => Self::L1Table,
                PFINFO_L2TAB => Self::UpperTable(2),
                PFINFO_L3TAB => Self::UpperTable(3),
                PFINFO_L4TAB => Self::UpperTable(4),
                _ => Self::Other,
            },
        }
    }
}

// In every call below the handle is open until `Drop`, and numbers are passed by value; what else matters is said there.
impl Inspect for Libxc {
    fn next_domain(&self, from: DomId) -> Result<Option<(DomId, DomainInfo)>, HypercallError> {
        Ok(self.base.first_domain(from)?.map(|(id, info, _)| (id, info)))
    }

    fn pause(&self, domain: DomId) -> Result<(), HypercallError> {
        // SAFETY: numbers only.
        check("xc_domain_pause", unsafe { (self.inspector()?.functions.pause)(self.handle(), domain.0.into()) })
    }

    fn unpause(&self, domain: DomId) -> Result<(), HypercallError> {
        // SAFETY: numbers only.
        check("xc_domain_unpause", unsafe { (self.inspector()?.functions.unpause)(self.handle(), domain.0.into()) })
    }

    fn highest_frame(&self) -> Result<Mfn, HypercallError> {
        let mut number: c_ulong = 0;
        // SAFETY: `number` is written during the call only.
        let done = unsafe { (self.inspector()?.functions.maximum_ram_page)(self.handle(), &raw mut number) };
        check("xc_maximum_ram_page", done)?;
        Ok(Mfn(number))
    }

    fn frame_count(&self, domain: DomId) -> Result<u64, HypercallError> {
        // SAFETY: numbers only.
        let count = unsafe { (self.inspector()?.functions.get_tot_pages)(self.handle(), domain.0.into()) };
        u64::try_from(count).map_err(|_| HypercallError { call: "xc_get_tot_pages", errno: last_errno() })
    }

    fn root_table(&self, domain: DomId) -> Option<Mfn> {
        let mut context: Context = [0; 1024];
        // SAFETY: `context` has room for the structure of any release, and is written during the call only.
        let done = unsafe {
            (self.inspector().ok()?.functions.getcontext)(self.handle(), domain.0.into(), 0, &raw mut context)
        };
        (done == 0).then_some(Mfn(context[CONTEXT_CR3] >> 12))
    }

    fn frame_types(&self, domain: DomId, frames: &[Mfn]) -> Result<Vec<FrameType>, HypercallError> {
        let call = "xc_get_pfn_type_batch";
        let count = c_uint::try_from(frames.len()).ok().filter(|_| frames.len() <= BATCH);
        let count = count.ok_or(HypercallError { call, errno: Errno::E2BIG })?;
        let mut words: Vec<u64> = frames.iter().map(|frame| frame.0).collect();
        // SAFETY: `words` has as many elements as the call is told, and is read and written during it only.
        check(call, unsafe {
            (self.inspector()?.functions.get_pfn_type_batch)(self.handle(), domain.0.into(), count, words.as_mut_ptr())
        })?;
        Ok(words.into_iter().map(FrameType::decode).collect())
    }

    fn show_tables(
        &self,
        domain: DomId,
        frames: &[Mfn],
        look: &mut dyn FnMut(&Table),
    ) -> Result<Vec<Mfn>, HypercallError> {
        self.inspector()?.memory.show(domain, frames, look)
    }

    fn channel(&self, domain: DomId, port: Port) -> Result<Option<Channel>, HypercallError> {
        let call = "xc_evtchn_status";
        let mut status = EvtchnStatus { dom: domain.0, port: port.0, status: 0, vcpu: 0, detail: [0; 2] };
        // SAFETY: `status` is read and written during the call only.
        match check(call, unsafe { (self.inspector()?.functions.evtchn_status)(self.handle(), &raw mut status) }) {
            Ok(()) if status.status == STATUS_PIRQ => Ok(Some(Channel::Pirq(Pirq(status.detail[0])))),
            // Xen keeps channels that it listens at itself to itself.
            Ok(()) | Err(HypercallError { errno: Errno::EACCES, .. }) => Ok(Some(Channel::Other)),
            Err(HypercallError { errno: Errno::EINVAL, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

// As above.
impl Images for Libxc {
    fn read_pages(&self, domain: DomId, frames: &[Mfn]) -> Result<Vec<Page>, HypercallError> {
        self.inspector()?.memory.read(domain, frames)
    }

    fn write_pages(&self, domain: DomId, pages: &[(Mfn, &Page)]) -> Result<(), HypercallError> {
        self.inspector()?.memory.write(domain, pages)
    }

    fn set_nmi_entry(&self, domain: DomId, entry: u64) -> Result<(), HypercallError> {
        let functions = &self.inspector()?.functions;
        let mut context: Context = [0; 1024];
        // SAFETY: `context` has room for the structure of any release, and is written during the call only.
        let done = unsafe { (functions.getcontext)(self.handle(), domain.0.into(), 0, &raw mut context) };
        check("xc_vcpu_getcontext", done)?;
        context[CONTEXT_NMI_ENTRY] = entry;
        // SAFETY: what the library has filled in just now, but for one number; it is only read.
        let done = unsafe { (functions.setcontext)(self.handle(), domain.0.into(), 0, &raw const context) };
        check("xc_vcpu_setcontext", done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_types_are_read_as_xen_writes_them() {
        for (word, expected) in [
            (0xf000_0000, FrameType::NotTheirs),
            (0x0000_0000, FrameType::Other),
            (0x8000_0000, FrameType::Other),
            (0x1000_0000, FrameType::L1Table),
            (0x9000_0000, FrameType::L1Table),
            (0x2000_0000, FrameType::UpperTable(2)),
            (0xa000_0000, FrameType::UpperTable(2)),
            (0xb000_0000, FrameType::UpperTable(3)),
            (0x4000_0000, FrameType::UpperTable(4)),
            (0xc000_0000, FrameType::UpperTable(4)),
            (0x5000_0000, FrameType::Other),
            (0xd000_0000, FrameType::Other),
            (0xe000_0000, FrameType::Other),
        ] {
            assert_eq!(FrameType::decode(word), expected, "{word:#x}");
        }
    }
}
