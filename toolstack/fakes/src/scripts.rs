//! How stub and guests behave.

use std::collections::BTreeSet;

use xen_types::{DomId, Sbdf};

/// How the stub behaves.
#[derive(Default)]
pub struct StubScript {
    /// It does nothing at all.
    pub silent: bool,
    /// It finds this device unfit.
    pub refuses: Option<(Sbdf, &'static str)>,
    /// It finds any device unfit that has a policy.
    pub refuses_policy: bool,
    /// It cannot export this device.
    pub cannot_export: Option<(Sbdf, &'static str)>,
    /// It goes to Closing instead of connecting.
    pub gives_up: Option<&'static str>,
    /// Guests that it has been connected to.
    pub connected: BTreeSet<DomId>,
    /// Its number, if it is not the first one any more.
    pub number: Option<DomId>,
}

/// How guests behave.
#[derive(Default)]
pub struct GuestScript {
    /// They have no pcifront.
    pub silent: bool,
    /// They connect but do not let go.
    pub keeps: bool,
    /// They close, but do not know of reconfiguring.
    pub knows_no_hotplug: bool,
    /// They stop in the middle of reconfiguring.
    pub stops_at_7: bool,
    /// What they see: by guest and virtual address.
    pub seen: BTreeSet<(DomId, String)>,
    /// They begin to let go but do not come to an end.
    pub half_closes: bool,
    /// They see the devices and close.
    pub refuses: Option<&'static str>,
}

/// How device models of HVM guests behave.
#[derive(Default)]
pub struct DeviceModelScript {
    /// They do what the next command says, and their answer is lost.
    pub loses_answer: bool,
    /// They answer nothing.
    pub silent: bool,
    /// What they have asked their guests to let go of, by its name there: they do not ask again.
    pub asked: BTreeSet<(DomId, String)>,
}
