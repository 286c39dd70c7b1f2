//! The cases, in the order they run: each group starts from nothing or from what the group before left.

mod audit;
mod beside_xl;
mod broker_death;
mod broker_stopped;
mod case;
mod commands;
mod config_space;
mod data;
mod direct;
mod errors;
mod export;
mod faults;
mod hotplug;
pub(crate) mod installed;
mod interrupted;
mod kinds;
mod malicious_stub;
mod many_entries;
mod misbehaving;
mod neighbours;
mod neighbours_devices;
mod network;
mod no_iommu;
mod one_guest;
mod other_systems;
mod pool;
mod repair;
mod restart;
mod scale;
mod slow_guests;
mod stub;
mod suspended;
mod two_guests;

pub(crate) use faults::WALKS;

pub(crate) use case::Case;
pub(crate) use hotplug::cycles::{cycles, figures};
pub(crate) use misbehaving::hostile;
pub(crate) use repair::errors;

/// Cases on a host with an IOMMU.
pub(crate) const FULL: &[&[Case]] = &[
    pool::CASES,
    one_guest::CASES,
    config_space::CASES,
    stub::CASES,
    two_guests::CASES,
    data::CASES,
    repair::CASES,
    suspended::CASES,
    network::CASES,
    broker_death::CASES,
    broker_stopped::CASES,
    malicious_stub::CASES,
    hotplug::life::CASES,
    audit::CASES,
    export::CASES,
    direct::READ_ONLY,
    errors::CASES,
    misbehaving::CASES,
    restart::CASES,
    faults::CASES,
];

/// More on such a host, in a boot of their own.
pub(crate) const HOTPLUG: &[&[Case]] = &[
    hotplug::sequence::CASES,
    hotplug::sets::CASES,
    hotplug::data::CASES,
    hotplug::failures::CASES,
    hotplug::surprise::CASES,
    hotplug::killed::CASES,
    hotplug::cycles::CASES,
    hotplug::other_frontends::CASES,
    other_systems::CASES,
    beside_xl::CASES,
    commands::CASES,
    slow_guests::CASES,
    interrupted::CASES,
];

/// Cases on a host without.
pub(crate) const NO_IOMMU: &[&[Case]] = &[no_iommu::CASES];

/// Cases on a host with devices of many kinds.
pub(crate) const DEVICES: &[&[Case]] = &[kinds::CASES, many_entries::XENSTORED];

/// Cases on a host that was booted for direct mode.
pub(crate) const DIRECT: &[&[Case]] = &[direct::WRITABLE];

/// Cases on a host with very many devices.
pub(crate) const SCALE: &[&[Case]] = &[scale::CASES];

/// Cases on a host that has much else on it.
pub(crate) const NEIGHBOURS: &[&[Case]] = &[neighbours::CASES, neighbours_devices::CASES, many_entries::OXENSTORED];

/// Of the first two, those that a Debian release is tried with on which the whole suite does not run each time (`make test-chosen`): who writes what in
/// an attach and a detach, drivers and their data, a broker that dies, and devices that follow.
pub(crate) const CHOSEN: &[&str] = &[
    "nvme_gets_more_than_one_msix_vector",
    "nvme_reads_back_16_mib_as_they_were_written",
    "nvme_leaves_no_vectors_rights_or_bus_mastering_with_its_first_guest",
    "nvme_gives_the_next_guest_the_data_of_the_first",
    "a_broker_killed_between_mapping_and_answer_leaks_nothing",
    "without_a_broker_msi_fails_cleanly_and_reads_work",
    "the_devices_of_a_guest_that_crashes_are_free_again",
    "persistent_devices_return_when_the_stub_was_destroyed_and_started_again",
    "an_attach_follows_the_sequence_of_2008_write_by_write",
    "directories_have_the_shape_of_the_reference_listing",
    "a_detach_follows_the_sequence_of_2008_write_by_write",
    "devices_come_and_go_in_one_transition",
    "pcidom_create_makes_a_guest_that_has_its_devices",
    "the_image_is_started_again_and_replaced_by_command_while_a_guest_reads_and_moves_data",
    "a_guest_that_is_suspended_to_memory_and_resumed_has_its_disk_and_interrupts",
];
