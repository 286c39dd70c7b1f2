//! The data plane: one event, the request in the page, its answer.

use xen_types::Port;

use crate::backend::Served;
use crate::control::core::Core;
use crate::platform::Platform;

impl<P: Platform> Core<P> {
    pub(crate) fn serve(&mut self, port: Port) -> Served {
        let Self { ports, guests, platform, counters, .. } = self;
        match ports.owner(port).and_then(|domid| guests.get_mut(&domid)) {
            Some(guest) => guest.serve(platform, counters),
            None => Served::UnknownPort,
        }
    }
}
