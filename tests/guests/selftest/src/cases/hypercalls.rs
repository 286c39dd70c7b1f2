//! Arguments and results of the bare hypercalls.

use crate::check::{Outcome, check, check_eq};
use kernel::hypercall::{hypercall5, number};
use xen_types::Errno;

pub(super) fn version() -> Outcome {
    let (major, minor) = kernel::xen_version();
    check!(major == 4 && minor >= 17, "Xen {major}.{minor}");
    Ok(())
}

/// `hypfs_op` (`hypfs.h`) takes five arguments, the last one being the buffer's length: too short is told apart from long enough.
pub(super) fn five_arguments() -> Outcome {
    const HYPFS_OP: u32 = 42;
    const READ: u64 = 1;
    const ENOBUFS: Errno = Errno(105);
    let path = b"/\0";
    let mut buffer = [0u8; 4096];
    let mut read = |len: u64| {
        // SAFETY: Xen reads the path of the given length and writes at most `len` bytes, which the buffer has.
        unsafe { hypercall5(HYPFS_OP, READ, path.as_ptr() as u64, path.len() as u64, buffer.as_mut_ptr() as u64, len) }
    };
    check_eq!(read(8), Err(Errno::EINVAL));
    check_eq!(read(32), Err(ENOBUFS));
    check_eq!(read(4096), Ok(0));
    check!(buffer.windows(6).any(|window| window == b"params"), "hypfs' root lists its directories");
    Ok(())
}

pub(super) fn errors() -> Outcome {
    // SAFETY: no such operation; the argument is not looked at.
    let unknown = unsafe { hypercall5(number::EVENT_CHANNEL_OP, 99, 0, 0, 0, 0) };
    check_eq!(unknown, Err(Errno::ENOSYS));
    // SAFETY: Xen refuses the bad address before it does anything.
    let fault = unsafe { hypercall5(number::SCHED_OP, u64::from(3u8), 1 << 63, 0, 0, 0) };
    check_eq!(fault, Err(Errno::EFAULT));
    Ok(())
}
