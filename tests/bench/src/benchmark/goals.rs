//! Goals for benchmark figures (`docs/performance.md` says which are missed, and why).

/// A goal for a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// At most so much of what xen-pciback takes.
    Ratio(f64),
    /// At most so much.
    Value(f64),
    /// The same as xen-pciback, but for this part.
    Same(f64),
}

const GOALS: &[(&str, Goal)] = &[
    ("config_read_icount_us", Goal::Ratio(0.58)),
    ("config_read_native_icount_us", Goal::Ratio(0.40)),
    ("config_read_p50_us", Goal::Ratio(0.5)),
    ("config_read_native_p50_us", Goal::Ratio(0.3)),
    ("config_read_busy_dom0_p50_us", Goal::Ratio(0.2)),
    ("config_dump_4k_us", Goal::Ratio(0.3)),
    ("config_write_icount_us", Goal::Ratio(2.5)),
    ("msix_enable_icount_us", Goal::Ratio(3.0)),
    ("msix_pair_icount_us", Goal::Ratio(3.0)),
    ("attach_icount_ms", Goal::Ratio(0.35)),
    ("attach_ms", Goal::Ratio(0.7)),
    ("detach_icount_ms", Goal::Ratio(0.75)),
    ("detach_ms", Goal::Ratio(1.0)),
    ("attach_sixteen_to_one_icount_ratio", Goal::Value(3.0)),
    ("detach_sixteen_to_one_icount_ratio", Goal::Value(3.0)),
    ("audit_per_gib_icount_ms", Goal::Value(100.0)),
    ("config_read_beside_7_p50_us", Goal::Ratio(0.5)),
    ("backend_boot_icount_ms", Goal::Value(80.0)),
    ("stub_boot_own_icount_us", Goal::Value(5_000.0)),
    ("dom0_cpu_per_10000_reads_s", Goal::Value(0.0)),
    ("nvme_sequential_read_mib_s", Goal::Same(0.03)),
    ("nvme_random_read_iops", Goal::Same(0.03)),
    ("restart_to_answer_icount_ms", Goal::Value(10.0)),
    ("restart_to_answer_64_ms", Goal::Value(100.0)),
    ("upgrade_command_ms", Goal::Value(250.0)),
    ("image_size_bytes", Goal::Value(131_072.0)),
    ("stub_memory_mib", Goal::Value(1.0)),
    ("stub_instructions_per_read", Goal::Value(400.0)),
    ("stub_hypercalls_per_read", Goal::Value(2.0)),
];

/// The goal for a figure, if it has one.
pub(crate) fn of(name: &str) -> Option<Goal> {
    GOALS.iter().find(|(named, _)| *named == name).map(|(_, goal)| *goal)
}

impl Goal {
    /// Whether it is reached.
    pub(crate) fn is_reached(self, pcidom: Option<f64>, ratio: Option<f64>) -> bool {
        match self {
            Self::Ratio(most) => ratio.is_some_and(|ratio| ratio <= most),
            Self::Value(most) => pcidom.is_some_and(|value| value <= most),
            Self::Same(part) => ratio.is_some_and(|ratio| (ratio - 1.0).abs() <= part),
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ratio(most) | Self::Value(most) => write!(f, "at most {most}"),
            Self::Same(part) => write!(f, "1 ± {part}"),
        }
    }
}
