//! Numbers that Xen assigns, as types without arithmetic.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => { number! { $(#[$doc])* $name($inner as $inner) } };
    // `$shown` is what formats it. The stub's image holds code for each type of number that is formatted.
    ($(#[$doc:meta])* $name:ident($inner:ty as $shown:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&<$shown>::from(self.0), f)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&<$shown>::from(self.0), f)
            }
        }
    };
}

number! {
    /// A domain's number (`domid_t`, `xen/include/public/xen.h`).
    DomId(u16 as u32)
}
number! {
    /// A local event channel port (`evtchn_port_t`, `xen/include/public/event_channel.h`).
    Port(u32)
}
number! {
    /// A grant reference: an index into the granting domain's grant table (`grant_ref_t`, `grant_table.h`).
    GrantRef(u32)
}
number! {
    /// A machine frame number: a 4 KiB page of the host's physical address space.
    Mfn(u64)
}
number! {
    /// A pseudo-physical frame number: a 4 KiB page as the domain itself counts them, from 0.
    Pfn(u64)
}
number! {
    /// A physical interrupt in one domain's own numbering (`physdev.h`).
    Pirq(u32)
}

impl DomId {
    /// dom0, where the toolstack runs.
    pub const DOM0: Self = Self(0);
    /// "The caller itself" (`DOMID_SELF`, `xen.h`).
    pub const SELF: Self = Self(0x7ff0);
    /// The owner of MMIO frames and of quarantined devices (`DOMID_IO`, `xen.h`).
    pub const IO: Self = Self(0x7ff1);
    /// The first reserved number: real domains are below it (`DOMID_FIRST_RESERVED`, `xen.h`).
    pub const FIRST_RESERVED: u16 = 0x7ff0;
}
