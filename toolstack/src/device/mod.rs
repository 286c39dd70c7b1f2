//! One device, as dom0 handles it: its resources, and how it is reset.

pub(crate) mod permitted_writes;
pub(crate) mod pristine;
pub(crate) mod quiesce;
pub(crate) mod reset;
pub(crate) mod resources;
pub(crate) mod state;
pub(crate) mod virtual_functions;
