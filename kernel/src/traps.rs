//! CPU exceptions. Each is a bug of the image, but for the NMI, with which dom0 starts an image again that hangs (`xl trigger DOMAIN nmi`): the handler
//! writes the place to the console and panics. Nothing is resumed.

use crate::culprit::looking_at;
use crate::hypercall::{hypercall_op, hypercall5, number};
use crate::layout::KERNEL_CS;
use crate::{shared_info, trace};
use core::arch::naked_asm;
use xen_types::Errno;

const NMI: u8 = 2;
const PAGE_FAULT: u8 = 14;

/// What Xen pushes, without the error code (`create_bounce_frame`, `xen/arch/x86/x86_64/entry.S`).
#[repr(C)]
struct Frame {
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Entry of the trap with number `VECTOR`: `rcx` and `r11` lie on top, then the error code where the CPU has one.
#[unsafe(naked)]
extern "C" fn entry<const VECTOR: u8>() -> ! {
    naked_asm!(
        "mov rsi, rsp",
        "and rsp, -16",
        "mov edi, {vector}",
        "call {report}",
        "ud2",
        vector = const VECTOR,
        report = sym report,
    )
}

const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

/// Tells what happened and ends the domain. `stack` is the stack pointer at entry.
extern "C" fn report(vector: u32, stack: *const u64) -> ! {
    let vector = u8::try_from(vector).unwrap_or(u8::MAX);
    let skipped = 2 + usize::from(has_error_code(vector));
    // SAFETY: Xen pushed rcx, r11, maybe an error code, and then this frame.
    let frame = unsafe { &*stack.wrapping_add(skipped).cast::<Frame>() };
    let error = if has_error_code(vector) {
        // SAFETY: the error code is the third word.
        unsafe { *stack.wrapping_add(2) }
    } else {
        0
    };
    let address =
        if vector == PAGE_FAULT { shared_info::try_get().map_or(0, shared_info::SharedInfo::fault_address) } else { 0 };
    trace::record("trap", [u64::from(vector), frame.rip]);
    if vector == NMI {
        looking_at(None); // it is put down to no frontend
        panic!("told to start again by an NMI, at {:#x}", frame.rip);
    }
    panic!(
        "trap {} at {:#x}, error {error:#x}, address {address:#x}, rsp {:#x}",
        u32::from(vector),
        frame.rip,
        frame.rsp
    );
}

const fn trap(vector: u8, handler: extern "C" fn() -> !) -> (u8, extern "C" fn() -> !) {
    (vector, handler)
}

/// `struct callback_register` and its numbers (`callback.h`).
#[repr(C)]
struct CallbackRegister {
    kind: u16,
    flags: u16,
    address: u64,
}

const CALLBACKOP_REGISTER: u32 = 0;
const CALLBACKTYPE_NMI: u16 = 4;

/// Registers a handler for every exception that kernel code can raise (`HYPERVISOR_set_trap_table`), and for NMIs (`HYPERVISOR_callback_op`).
pub(crate) fn init() -> Result<(), Errno> {
    let handlers = [
        trap(0, entry::<0>),
        trap(3, entry::<3>),
        trap(4, entry::<4>),
        trap(6, entry::<6>),
        trap(7, entry::<7>),
        trap(11, entry::<11>),
        trap(12, entry::<12>),
        trap(13, entry::<13>),
        trap(PAGE_FAULT, entry::<14>),
        trap(16, entry::<16>),
        trap(17, entry::<17>),
        trap(19, entry::<19>),
    ];
    const END: xen_sys::trap_info = xen_sys::trap_info { vector: 0, flags: 0, cs: 0, address: 0 };
    let mut table = [END; 13];
    for (slot, (vector, handler)) in table.iter_mut().zip(handlers) {
        // Flag bit 2: events stay masked on entry (xen.h, TI_SET_IF).
        *slot = xen_sys::trap_info { vector, flags: 1 << 2, cs: KERNEL_CS, address: handler as usize as u64 };
    }
    // SAFETY: a table ended by an entry with address 0; Xen copies it.
    unsafe { hypercall5(number::SET_TRAP_TABLE, table.as_ptr() as u64, 0, 0, 0, 0) }?;
    let mut nmi = CallbackRegister { kind: CALLBACKTYPE_NMI, flags: 0, address: entry::<NMI> as *const () as u64 };
    // SAFETY: the structure that CALLBACKOP_register takes; Xen copies it.
    unsafe { hypercall_op(number::CALLBACK_OP, CALLBACKOP_REGISTER, &mut nmi) }.map(drop)
}
