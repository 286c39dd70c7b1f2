//! What dom0's real code has below it: the simulated machine, by the traits that libraries and files implement in dom0.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dom0::store::Timed;
use dom0::sysfs::{ConfigFile, Kernel};
use dom0::xen::{DomainInfo, HypercallError, Hypervisor, Physdev, Rings, Vector};
use dom0::{Clock, Console};
use pciback::platform::{Events as _, Grants as _, Width};
use xen_types::{DomId, Errno, GrantRef, Pirq, Port, Sbdf};
use xenstore::Transport;

use crate::process::{Call, Syscalls};
use crate::xen::{LOWEST_PIRQ, MappedPage, SimXen, TOP_PIRQ, ecam};
use xenstored::Connection;

/// Who calls.
const BROKER: &str = "the broker";

/// The machine as a process of dom0 reaches it.
#[derive(Clone)]
pub(super) struct Outside {
    pub(super) xen: SimXen,
    pub(super) syscalls: Rc<Syscalls>,
}

impl Outside {
    fn xen(&self) -> &SimXen {
        self.syscalls.enter(Call::Other);
        &self.xen
    }

    /// A call that can fail.
    fn call(&self, call: &'static str) -> Result<&SimXen, HypercallError> {
        let xen = self.xen();
        xen.point(BROKER, call).map_err(refused(call))?;
        Ok(xen)
    }

    /// An access to sysfs that can fail.
    fn access(&self, access: &'static str) -> io::Result<&SimXen> {
        let xen = self.xen();
        xen.point(BROKER, access).map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
        Ok(xen)
    }
}

const fn refused(call: &'static str) -> impl Fn(Errno) -> HypercallError {
    move |errno| HypercallError { call, errno }
}

impl Hypervisor for Outside {
    fn domain(&self, id: DomId) -> Result<Option<DomainInfo>, HypercallError> {
        let info = DomainInfo { dying: false, hvm: false, shutdown: false, paused: false };
        Ok(self.call("xc_domain_getinfo")?.has_domain(id).then_some(info))
    }

    fn unmap_pirq(&self, domain: DomId, pirq: Pirq) -> Result<(), HypercallError> {
        const CALL: &str = "xc_physdev_unmap_pirq";
        let number = u16::try_from(pirq.0).map_err(|_| refused(CALL)(Errno::EINVAL))?;
        self.call(CALL)?.unmap_vector(domain, number).map_err(refused(CALL))
    }

    fn test_assign(&self, _domain: DomId, device: Sbdf) -> Result<(), HypercallError> {
        const CALL: &str = "xc_test_assign_device";
        match self.call(CALL)?.owner(device) {
            None => Ok(()),
            Some(_) => Err(refused(CALL)(Errno::EINVAL)),
        }
    }

    fn run_time(&self, domain: DomId) -> Result<Option<Duration>, HypercallError> {
        let xen = self.call("xc_vcpu_getinfo")?;
        Ok(xen.has_domain(domain).then(|| xen.run_time(domain)))
    }

    fn send_nmi(&self, domain: DomId) -> Result<(), HypercallError> {
        self.call("xc_domain_send_trigger")?.interrupt(domain);
        Ok(())
    }

    fn vector_pirqs(&self) -> std::ops::RangeInclusive<u32> {
        LOWEST_PIRQ.into()..=TOP_PIRQ.into()
    }
}

impl Physdev for Outside {
    fn map(&self, domain: DomId, device: Sbdf, vector: Vector) -> Result<Pirq, HypercallError> {
        const CALL: &str = "PHYSDEVOP_map_pirq";
        let mapped = self.call(CALL)?.map_vector(domain, device, vector);
        mapped.map(|pirq| Pirq(pirq.into())).map_err(refused(CALL))
    }

    fn restore(&self, _device: Sbdf) -> Result<(), HypercallError> {
        self.call("PHYSDEVOP_restore_msi_ext")?; // the simulated functions forget nothing
        Ok(())
    }
}

/// The process' `/dev/xen/gntdev` and `/dev/xen/evtchn`.
pub(super) struct SimRings {
    outside: Outside,
    ports: RefCell<BTreeSet<Port>>,
}

impl SimRings {
    pub(super) const fn new(outside: Outside) -> Self {
        Self { outside, ports: RefCell::new(BTreeSet::new()) }
    }
}

impl Drop for SimRings {
    fn drop(&mut self) {
        for port in self.ports.take() {
            self.outside.xen.close_port(DomId::DOM0, port);
        }
    }
}

impl Rings for SimRings {
    type Page = MappedPage;

    fn map(&self, stub: DomId, grant: GrantRef) -> Result<MappedPage, HypercallError> {
        let dom0 = self.outside.xen().platform(DomId::DOM0);
        dom0.map_grant(stub, grant).map_err(refused("xengnttab_map_grant_ref"))
    }

    fn bind(&self, stub: DomId, remote: Port) -> Result<Port, HypercallError> {
        let dom0 = self.outside.xen().platform(DomId::DOM0);
        let port = dom0.bind_interdomain(stub, remote).map_err(refused("xenevtchn_bind_interdomain"))?;
        self.ports.borrow_mut().insert(port);
        Ok(port)
    }

    fn notify(&self, port: Port) -> Result<(), HypercallError> {
        self.outside.call("xenevtchn_notify")?.notify(DomId::DOM0, port);
        Ok(())
    }

    fn unbind(&self, port: Port) -> Result<(), HypercallError> {
        self.outside.call("xenevtchn_unbind")?.close_port(DomId::DOM0, port);
        self.ports.borrow_mut().remove(&port);
        Ok(())
    }

    fn next_event(&self) -> Result<Option<Port>, HypercallError> {
        Ok(self.outside.call("xenevtchn_pending")?.take_pending_of(DomId::DOM0, &self.ports.borrow()))
    }
}

/// The process' connection to xenstored, over its socket.
pub(super) struct Socket {
    outside: Outside,
    connection: Connection,
}

impl Socket {
    pub(super) const fn new(outside: Outside, connection: Connection) -> Self {
        Self { outside, connection }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.outside.xen.store().disconnect(self.connection);
    }
}

impl Timed for Socket {
    fn now_ns(&self) -> u64 {
        self.outside.xen.now_ns()
    }
}

impl Transport for Socket {
    type Error = Infallible;

    fn send(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.outside.xen().store().send(self.connection, bytes);
        Ok(bytes.len())
    }

    fn takes_several(&self) -> bool {
        true
    }

    fn receive(&mut self, buffer: &mut [u8], deadline_ns: Option<u64>) -> Result<usize, Infallible> {
        let bytes = self.outside.xen.store().receive(self.connection, buffer.len());
        buffer[..bytes.len()].copy_from_slice(&bytes);
        if bytes.is_empty() {
            // Nobody else acts while this process waits, so what it waits for does not come.
            let deadline_ns = deadline_ns.expect("an answer that will never come");
            self.outside.xen.advance_ns(deadline_ns.saturating_sub(self.now_ns()));
        }
        Ok(bytes.len())
    }
}

impl Clock for Outside {
    fn elapsed(&self) -> Duration {
        self.syscalls.enter(Call::Clock);
        self.xen.clock_point(BROKER);
        Duration::from_nanos(self.xen.now_ns())
    }

    fn pause(&self, time: Duration) {
        self.xen().advance_ns(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Where the process' lines go.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Console for Lines {
    fn note(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    fn trace(&self, _: Duration, _: &str) {}
}

/// sysfs as dom0's kernel has it: the functions that are plugged in, each by its address.
impl Outside {
    /// The function whose folder a path leads into, and the name of the attribute.
    fn attribute(path: &Path) -> Option<(Sbdf, &str)> {
        let folder = path.parent()?.file_name()?.to_str()?;
        Some((folder.parse().ok()?, path.file_name()?.to_str()?))
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Kernel for Outside {
    fn read(&self, path: &Path) -> io::Result<String> {
        let (device, name) = Self::attribute(path).ok_or_else(not_found)?;
        let text = self.access("reads an attribute")?.with_function(ecam(device), |function| match name {
            "resource" => Some(function.resource_file()),
            "irq" => Some("11\n".to_owned()),
            "vendor" => Some(format!("{:#06x}\n", function.read(0, Width::Word))),
            "device" => Some(format!("{:#06x}\n", function.read(2, Width::Word))),
            _ => None,
        });
        text.flatten().ok_or_else(not_found)
    }

    fn read_link(&self, path: &Path) -> Option<String> {
        let (device, name) = Self::attribute(path)?;
        let is_there = self.xen().with_function(ecam(device), |_| ()).is_some();
        (is_there && name == "driver").then(|| "pciback".to_owned())
    }

    fn exists(&self, path: &Path) -> bool {
        let device = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        device.is_some_and(|device| self.xen().with_function(ecam(device), |_| ()).is_some())
    }

    fn open_config(&self, path: &Path) -> io::Result<Box<dyn ConfigFile>> {
        let (device, _) = Self::attribute(path).ok_or_else(not_found)?;
        self.xen().failure("open_config").map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
        // Linux keeps a function that was pulled out until it was told; what is read of it is all ones.
        Ok(Box::new(Registers { outside: self.clone(), device }))
    }
}

/// A function's file `config`.
struct Registers {
    outside: Outside,
    device: Sbdf,
}

impl Registers {
    /// Each access is one of one, two or four bytes that is aligned, as Linux makes of it.
    fn place(buffer: &[u8], offset: u64) -> (u16, Width) {
        let width = u32::try_from(buffer.len()).ok().and_then(Width::from_bytes).expect("a register's width");
        let offset = u16::try_from(offset).ok().filter(|offset| *offset < 4096);
        let offset = offset.filter(|offset| offset.is_multiple_of(width as u16));
        (offset.expect("a register's offset"), width)
    }
}

impl ConfigFile for Registers {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let (offset, width) = Self::place(buffer, offset);
        let xen = self.outside.access("reads a register")?;
        let value = xen.with_function(ecam(self.device), |function| function.read(offset, width));
        let value = value.unwrap_or(u32::MAX).to_le_bytes();
        buffer.copy_from_slice(&value[..buffer.len()]);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (offset, width) = Self::place(bytes, offset);
        let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let xen = self.outside.access("writes a register")?;
        xen.with_function(ecam(self.device), |function| function.write_register(offset, width, value));
        Ok(())
    }
}
