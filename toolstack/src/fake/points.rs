//! What a command has below it on the simulated machine: each call can fail, once (`sim::points`), and simulated Xen, registers and clock hear of
//! what the fakes do.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use ::dom0::sysfs::ConfigFile;
use fakes::{FakeClock, FakeHypervisor, FakeKernel};
use sim::SimXen;
use sim::xen::{LOWEST_PIRQ, TOP_PIRQ};
use xen_types::{DomId, Errno, Mfn, Pirq, Port, Sbdf};

use super::World;
use crate::sysfs::{Kernel, Writes};
use crate::xen::{
    Channel, DomainInfo, Domctls, FrameType, Frames, HypercallError, Hypervisor, Images, Inspect, Permission, Ports,
    Table,
};
use ::dom0::Clock;

/// Who calls.
const COMMAND: &str = "the command";

type Outcome<T = ()> = Result<T, HypercallError>;

/// The strict hypervisor, which tells the simulated Xen about the stub's rights and the guests' devices.
pub(super) struct SimHypervisor {
    pub(super) fake: FakeHypervisor,
    pub(super) xen: SimXen,
}

impl SimHypervisor {
    /// A call that can fail.
    fn call(&self, call: &'static str) -> Outcome<&FakeHypervisor> {
        self.xen.point(COMMAND, call).map_err(|errno| HypercallError { call, errno })?;
        Ok(&self.fake)
    }
}

impl Hypervisor for SimHypervisor {
    fn domain(&self, id: DomId) -> Outcome<Option<DomainInfo>> {
        self.call("xc_domain_getinfo")?.domain(id)
    }

    fn unmap_pirq(&self, domain: DomId, pirq: Pirq) -> Outcome {
        self.call("xc_physdev_unmap_pirq")?;
        // GSIs are in the fake's books, vectors in those of the simulated Xen.
        match self.xen.unmap_vector(domain, u16::try_from(pirq.0).unwrap()) {
            Err(Errno::EINVAL) => self.fake.unmap_pirq(domain, pirq),
            outcome => outcome.map_err(|errno| HypercallError { call: "xc_physdev_unmap_pirq", errno }),
        }
    }

    fn vector_pirqs(&self) -> std::ops::RangeInclusive<u32> {
        LOWEST_PIRQ.into()..=TOP_PIRQ.into()
    }

    fn run_time(&self, domain: DomId) -> Outcome<Option<Duration>> {
        self.call("xc_vcpu_getinfo")?.run_time(domain)
    }

    fn send_nmi(&self, domain: DomId) -> Outcome {
        self.call("xc_domain_send_trigger")?.send_nmi(domain)
    }

    fn test_assign(&self, domain: DomId, device: Sbdf) -> Outcome {
        self.call("xc_test_assign_device")?.test_assign(domain, device)
    }
}

impl Domctls for SimHypervisor {
    fn inspect(&self) -> &dyn Inspect {
        self
    }

    fn images(&self) -> &dyn Images {
        &self.fake
    }

    fn has_iommu(&self) -> Outcome<bool> {
        self.call("xc_physinfo")?.has_iommu()
    }

    fn set_iomem(&self, domain: DomId, frames: Frames, permission: Permission) -> Outcome {
        self.call("xc_domain_iomem_permission")?.set_iomem(domain, frames, permission)?;
        for frame in (frames.first.0..).zip(0..frames.count).map(|(frame, _)| Mfn(frame)) {
            self.xen.permit(domain, frame, permission == Permission::Allow);
        }
        Ok(())
    }

    fn set_ioports(&self, domain: DomId, ports: Ports, permission: Permission) -> Outcome {
        self.call("xc_domain_ioport_permission")?.set_ioports(domain, ports, permission)
    }

    fn set_irq(&self, domain: DomId, pirq: Pirq, permission: Permission) -> Outcome {
        self.call("xc_domain_irq_permission")?.set_irq(domain, pirq, permission)
    }

    fn map_gsi(&self, domain: DomId, gsi: u32) -> Outcome<Pirq> {
        self.call("xc_physdev_map_pirq")?.map_gsi(domain, gsi)
    }

    fn assign(&self, domain: DomId, device: Sbdf, relaxed_rdm: bool) -> Outcome {
        self.call("xc_assign_device")?.assign(domain, device, relaxed_rdm)?;
        self.xen.assign(device, domain);
        Ok(())
    }

    fn deassign(&self, domain: DomId, device: Sbdf) -> Outcome {
        self.call("xc_deassign_device")?.deassign(domain, device)?;
        self.xen.deassign(device);
        Ok(())
    }
}

impl Inspect for SimHypervisor {
    fn next_domain(&self, from: DomId) -> Outcome<Option<(DomId, DomainInfo)>> {
        self.call("xc_domain_getinfolist")?.next_domain(from)
    }

    fn pause(&self, domain: DomId) -> Outcome {
        self.call("xc_domain_pause")?.pause(domain)
    }

    /// Never fails for a domain that is there.
    fn unpause(&self, domain: DomId) -> Outcome {
        self.fake.unpause(domain)
    }

    fn highest_frame(&self) -> Outcome<Mfn> {
        self.call("xc_maximum_ram_page")?.highest_frame()
    }

    fn frame_count(&self, domain: DomId) -> Outcome<u64> {
        self.call("xc_domain_getinfo")?.frame_count(domain)
    }

    fn root_table(&self, domain: DomId) -> Option<Mfn> {
        self.call("xc_vcpu_getcontext").ok()?.root_table(domain)
    }

    fn frame_types(&self, domain: DomId, frames: &[Mfn]) -> Outcome<Vec<FrameType>> {
        self.call("xc_get_pfn_type_batch")?.frame_types(domain, frames)
    }

    fn show_tables(&self, domain: DomId, frames: &[Mfn], look: &mut dyn FnMut(&Table)) -> Outcome<Vec<Mfn>> {
        self.call("xenforeignmemory_map")?.show_tables(domain, frames, look)
    }

    fn channel(&self, domain: DomId, port: Port) -> Outcome<Option<Channel>> {
        self.call("xc_evtchn_status")?.channel(domain, port)
    }
}

/// The fake kernel, any of whose accesses to sysfs can fail. Whether something is there has no way to fail.
pub(super) struct SimKernel {
    pub(super) fake: FakeKernel,
    pub(super) xen: SimXen,
}

/// An access that can fail.
fn access(xen: &SimXen, access: &'static str) -> io::Result<()> {
    xen.point(COMMAND, access).map_err(|errno| io::Error::from_raw_os_error(errno.0))
}

impl Kernel for SimKernel {
    fn read(&self, path: &Path) -> io::Result<String> {
        access(&self.xen, "reads an attribute")?;
        self.fake.read(path)
    }

    fn open_config(&self, path: &Path) -> io::Result<Box<dyn ConfigFile>> {
        access(&self.xen, "opens registers")?;
        Ok(Box::new(Registers { file: self.fake.open_config(path)?, xen: self.xen.clone() }))
    }

    fn pristine_folder(&self) -> PathBuf {
        self.fake.pristine_folder()
    }

    fn is_writing(&self, path: &Path) -> bool {
        self.fake.is_writing(path)
    }
}

impl Writes for SimKernel {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        access(&self.xen, "writes an attribute")?;
        self.fake.write(path, text)
    }
}

struct Registers {
    file: Box<dyn ConfigFile>,
    xen: SimXen,
}

impl ConfigFile for Registers {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        access(&self.xen, "reads a register")?;
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        access(&self.xen, "writes a register")?;
        self.file.write_all_at(bytes, offset)
    }
}

/// A clock that can leap: the process was not scheduled.
pub(super) struct SimClock {
    pub(super) world: Rc<RefCell<World>>,
    pub(super) xen: SimXen,
}

impl Clock for SimClock {
    fn elapsed(&self) -> Duration {
        self.world.borrow_mut().clock += Duration::from_nanos(self.xen.clock_point(COMMAND));
        FakeClock(self.world.clone()).elapsed()
    }

    fn pause(&self, time: Duration) {
        FakeClock(self.world.clone()).pause(time);
    }
}
