//! The C-library symbols that `kernel::rt` supplies.

use crate::check::{Outcome, check_eq};
use alloc::vec::Vec;
use core::hint::black_box;

pub(super) fn memory_functions() -> Outcome {
    let original: Vec<u8> = (0..=255).cycle().take(1000).collect();
    for (from, to, len) in
        [(0, 0, 1000), (0, 1, 999), (1, 0, 999), (0, 500, 500), (500, 0, 500), (10, 17, 300), (17, 10, 300), (3, 9, 0)]
    {
        let mut moved = original.clone();
        moved.copy_within(black_box(from..from + len), to);
        for (index, byte) in moved.iter().enumerate() {
            let source = if (to..to + len).contains(&index) { index - to + from } else { index };
            check_eq!(*byte, original[source]);
        }
    }
    let mut filled = original.clone();
    filled[black_box(7)..black_box(900)].fill(0xa5);
    check_eq!(
        filled.iter().filter(|&&byte| byte == 0xa5).count(),
        893 + original[..7].iter().chain(&original[900..]).filter(|&&b| b == 0xa5).count()
    );
    let (mut low, high) = (original.clone(), original.clone());
    check_eq!(black_box(&low).cmp(black_box(&high)), core::cmp::Ordering::Equal);
    low[700] = 0;
    check_eq!(black_box(&low).cmp(black_box(&high)), core::cmp::Ordering::Less);
    check_eq!(black_box(&high).cmp(black_box(&low)), core::cmp::Ordering::Greater);
    check_eq!(black_box(&low[..700]) == black_box(&high[..700]), true);
    check_eq!(black_box(&low[..0]) == black_box(&high[..0]), true);
    check_eq!(black_box(c"pcidom").count_bytes(), 6);
    Ok(())
}
