//! A machine with three parked devices, one that dom0 uses, a stub and three guests.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use xen_types::DomId;

use super::hypervisor::FakeHypervisor;
use super::kernel::{FakeChanges, FakeKernel};
use super::names::{DB, E1000, EDU, HVM, NVME, PHYSICAL, SATA, STUB, WEB, device};
use super::store::FakeStore;
use super::{Memory, TempTree, World, mcfg_table};
use dom0::sysfs::Sysfs;
use dom0::{Clock, Console, Dom0};

/// A machine's state, one fact a line.
#[derive(Clone)]
pub struct Dump(Vec<String>);

impl Dump {
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.iter().all(|line| other.0.contains(line)) && other.0.iter().all(|line| self.0.contains(line))
    }

    /// For people, of a state that should be one of two.
    pub fn differences(&self, one: &Self, other: &Self) -> String {
        let only = |of: &Self, not: &Self| {
            let lines = of.0.iter().filter(|line| !not.0.contains(line));
            lines.map(|line| format!("\n    {}", line.chars().take(120).collect::<String>())).collect::<String>()
        };
        let [more, less, or_more, or_less] =
            [(self, one), (one, self), (self, other), (other, self)].map(|(of, not)| only(of, not));
        format!("extra: {more}\nmissing: {less}\nor extra: {or_more}\nmissing: {or_less}")
    }

    /// Fails with what differs.
    #[track_caller]
    pub fn assert_same(&self, expected: &Self, when: impl std::fmt::Display) {
        let only =
            |of: &Self, not: &Self| of.0.iter().filter(|line| !not.0.contains(line)).cloned().collect::<Vec<_>>();
        let (extra, missing) = (only(self, expected), only(expected, self));
        assert!(extra.is_empty() && missing.is_empty(), "{when}\nextra: {extra:#?}\nmissing: {missing:#?}");
    }
}

pub struct Machine {
    pub world: Rc<RefCell<World>>,
    pub tree: Rc<TempTree>,
    pub host: Dom0,
}

pub struct FakeClock(pub Rc<RefCell<World>>);

impl Clock for FakeClock {
    fn elapsed(&self) -> Duration {
        self.0.borrow().clock
    }

    fn pause(&self, time: Duration) {
        let mut world = self.0.borrow_mut();
        world.clock += time;
        if let Some(act) = world.during_pause.take() {
            act(&mut world);
        }
    }
}

pub struct FakeConsole(pub Rc<RefCell<World>>);

impl Console for FakeConsole {
    fn note(&self, text: &str) {
        let world = &mut *self.0.borrow_mut();
        world.says();
        world.notes.push(text.to_owned());
    }

    fn trace(&self, _at: Duration, text: &str) {
        let world = &mut *self.0.borrow_mut();
        world.says();
        world.traces.push(text.to_owned());
    }
}

impl Machine {
    pub fn new() -> Self {
        let world = Rc::new(RefCell::new(World { iommu: true, ..World::default() }));
        let tree = Rc::new(TempTree::new());
        let mut host = Dom0::new(
            Rc::new(FakeHypervisor(world.clone())),
            Sysfs::new(tree.path(), Rc::new(FakeKernel { world: world.clone(), tree: tree.clone() })),
            Rc::new(FakeStore::new(world.clone(), tree.clone())),
            Box::new(FakeClock(world.clone())),
            Box::new(FakeConsole(world.clone())),
        );
        host.changes = Some(Rc::new(FakeChanges(world.clone())));
        let machine = Self { world, tree, host };
        machine.add_domain(DomId::DOM0, "Domain-0");
        machine.add_domain(STUB, "pcidom");
        machine.add_domain(WEB, "web");
        machine.add_domain(DB, "db");
        machine.add_domain(HVM, "windows");
        machine.with(|world| {
            world.domains.get_mut(&HVM).unwrap().hvm = true;
            world.write("/libxl", "");
            world.write("/tool", "");
            world.write("/local/domain/3/data/pcidom/version", pcidom_abi::ANNOUNCEMENT);
            world.write("/local/domain/3/data/pcidom/export", "vpci");
        });
        machine.tree.write("firmware/acpi/tables/MCFG", mcfg_table(&[(0xb000_0000, 0, 0, 0)]));
        machine.tree.write("bus/pci/drivers/pciback/slots", "");
        machine.add_function("0000:00:00.0", "0x060000", "", 0, &[]);
        machine.add_function(E1000, "0x020000", "pciback", 21, &[(0xfeb4_0000, 0x20000, 0x200), (0xc000, 0x40, 0x101)]);
        machine.add_function(EDU, "0x00ff00", "pciback", 22, &[(0xfea0_0000, 0x10_0000, 0x200)]);
        machine.add_function(NVME, "0x010802", "pciback", 23, &[(0x8_c000_0000, 0x4000, 0x14_0204)]);
        machine.add_function(SATA, "0x010601", "ahci", 16, &[(0xc080, 0x20, 0x101), (0xfeb9_1000, 0x1000, 0x200)]);
        std::fs::write(machine.tree.path().join(format!("bus/pci/devices/{NVME}/reset")), "").unwrap();
        machine
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.world.borrow_mut())
    }

    pub fn add_domain(&self, id: DomId, name: &str) {
        self.with(|world| world.add_domain(id, name));
    }

    /// A function with BARs of (start, size, flags). Without a driver's name it has none.
    pub fn add_function(&self, name: &str, class: &str, driver: &str, irq: u32, bars: &[(u64, u64, u64)]) {
        let dir = format!("bus/pci/devices/{name}");
        let mut resource: String = bars
            .iter()
            .map(|(start, size, flags)| format!("{start:#018x} {:#018x} {flags:#018x}\n", start + size - 1))
            .collect();
        resource.push_str(&"0x0 0x0 0x0\n".repeat(7 - bars.len()));
        let mut config = Memory::conventional();
        config.set_word(4, 0x0007);
        config.add_capability(0x40, 0x05, 0x50);
        config.add_capability(0x50, 0x11, 0);
        self.tree.write(format!("{dir}/class"), format!("{class}\n"));
        self.tree.write(format!("{dir}/irq"), format!("{irq}\n"));
        self.tree.write(format!("{dir}/resource"), resource);
        if driver == "pciback" {
            config.set_word(4, 0x0003);
            let slots = self.tree.path().join("bus/pci/drivers/pciback/slots");
            let old = std::fs::read_to_string(&slots).unwrap();
            std::fs::write(slots, format!("{old}{name}\n")).unwrap();
        }
        self.tree.write(format!("{dir}/config"), config.bytes);
        if !driver.is_empty() {
            self.tree.link(format!("{dir}/driver"), &format!("../../drivers/{driver}"));
        }
        let owner = if driver == "pciback" { DomId::IO } else { DomId::DOM0 };
        self.with(|world| world.owners.insert(device(name), owner));
    }

    /// Makes a function a virtual one of [`PHYSICAL`], which dom0's NVMe driver has then.
    pub fn make_virtual(&self, name: &str) {
        self.add_function(PHYSICAL, "0x010802", "nvme", 24, &[(0x8_d000_0000, 0x4000, 0x14_0204)]);
        let mut physical = Memory::conventional();
        physical.bytes.resize(4096, 0);
        physical.set_word(4, 0x0006);
        physical.add_capability(0x40, 0x10, 0);
        physical.set_word(0x100, 0x0010);
        physical.set_word(0x102, 0x0001);
        physical.set_word(0x108, 0x0009); // VF Enable, VF Memory Space Enable
        let dir = format!("bus/pci/devices/{PHYSICAL}");
        self.tree.write(format!("{dir}/config"), physical.bytes);
        self.tree.write(format!("{dir}/sriov_numvfs"), "1\n");
        let dir = format!("bus/pci/devices/{name}");
        let mut config = self.config(name);
        config.bytes[..4].fill(0xff);
        config.set_word(4, 0);
        config.set_word(0x0a, 0x0108);
        config.bytes[0x10..0x28].fill(0);
        self.tree.write(format!("{dir}/config"), config.bytes);
        self.tree.write(format!("{dir}/vendor"), "0x1b36\n");
        self.tree.write(format!("{dir}/device"), "0x0011\n");
        self.tree.write(format!("{dir}/irq"), "0\n");
        self.tree.link(format!("{dir}/physfn"), &format!("../{PHYSICAL}"));
    }

    pub fn config(&self, name: &str) -> Memory {
        Memory::from_bytes(std::fs::read(self.tree.path().join(format!("bus/pci/devices/{name}/config"))).unwrap())
    }

    /// Lets stub and guests act until nobody has anything to do.
    pub fn settle(&self) {
        while super::peers::act(&mut self.world.borrow_mut(), &self.tree) {}
    }

    /// Everything that a failed command must leave as it was.
    pub fn dump(&self) -> Dump {
        let mut lines = self.with(|world| world.dump());
        lines.extend(self.tree.dump());
        Dump(lines)
    }

    /// The dump, without registers: a quiesced device is as good as an untouched one.
    pub fn dump_but_config(&self) -> Dump {
        Dump(self.dump().0.into_iter().filter(|line| !line.contains("/config: ")).collect())
    }

    pub fn assert_no_violations(&self) {
        self.with(|world| assert_eq!(world.violations, [""; 0]));
    }
}
