//! A device of the pool, as it goes to a frontend and comes back.

use alloc::string::{String, ToString as _};

use crate::config::VirtualConfig;
use crate::device::DeviceInfo;
use crate::ops::LentFunction;
use crate::platform::Platform;
use crate::topology::Traits;

/// One function: what the tool said about it, its mapped configuration space, and what a guest sees of that.
pub(crate) struct PoolDevice<P: Platform> {
    info: DeviceInfo,
    window: P::Window,
    function: LentFunction,
}

impl<P: Platform> PoolDevice<P> {
    /// Looks at the function behind `window`; the reason when it is none that we can show.
    pub(crate) fn new(info: DeviceInfo, window: P::Window) -> Result<Self, String> {
        let function = LentFunction::new(&info, &window);
        function.config.check_servable().map_err(|error| error.to_string())?;
        Ok(Self { info, window, function })
    }

    /// What the tool said about it.
    pub(crate) const fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Both sides of it, to execute a request on.
    pub(crate) const fn parts(&mut self) -> (&mut LentFunction, &P::Window) {
        (&mut self.function, &self.window)
    }

    /// What decides about its virtual address.
    pub(crate) fn traits(&self) -> Traits {
        self.function.config.traits()
    }

    /// Whether it is still there and does nothing on its own; the reason if not.
    pub(crate) fn check(&self) -> Result<(), String> {
        // Read anew: it may have been unplugged since it was mapped.
        let now = VirtualConfig::new(&self.info, &self.window);
        now.check_servable().map_err(|error| error.to_string())?;
        now.check_quiet(&self.window).map_err(|error| error.to_string())
    }

    /// Makes the guest's view as at the first connect.
    pub(crate) fn reset(&mut self) {
        self.function.reset();
    }
}
