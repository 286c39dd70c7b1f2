//! One boot of the full suite's machine: Xen, a Linux dom0 with the agent, and devices to pass through.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use crate::{
    images::Images,
    layout,
    qemu::{Clock, Line, Logs, Machine},
    qmp::Qmp,
};

/// In front of a line about an error that is the bench's own: it counts as none of the cases, and is told at the end.
pub(crate) const BENCH_ERROR: &str = "bench error: ";
/// Memory for dom0, which holds its archive twice while it unpacks it.
const DOM0_MIB: u32 = 768;
/// Memory of the machine: dom0, the guests and what Xen takes for itself.
const MACHINE_MIB: u32 = 2560;
/// The disks that cases write to (an NVMe and a SATA one, and an NVMe one that can be unplugged) and their size.
const DISKS: [&str; 3] = ["nvme.img", "sata.img", "hot.img"];
const DISK_MIB: u64 = 64;
/// What one device has as its expansion ROM.
const ROM: &str = "rom.img";
const ROM_BYTES: usize = 0x8000;
/// CPUs of a machine that has the host to itself: programs in dom0, the stub and a guest are at work at the same time.
pub(crate) const CPUS: usize = 2;
/// Memory for the guests that only make noise, and how many of them there are.
const NOISE_MIB: u32 = 1024;
const NOISE_DEVICES: u32 = 7;
/// Slots, full of functions, that the benchmark by the instruction clock gives away in one command.
const FULL_SLOTS: [u8; 2] = [0x10, 0x11];
/// What a host has beside the devices that cases are about, by slot (`tests/agent/src/dom0/devices.rs`): a legacy IDE controller and the primary VGA first.
/// None of them has firmware that would make the boot longer, and none is driven by the machine's.
const NEIGHBOURS: [(u8, &str); 23] = [
    (0x01, "piix3-ide"),
    (0x02, "VGA"),
    (0x04, "qemu-xhci"),
    (0x0b, "rtl8139,netdev=netb,romfile="),
    (0x0c, "rtl8139,netdev=netc,romfile="),
    (0x0d, "virtio-net-pci,netdev=netd,romfile="),
    (0x0e, "virtio-blk-pci,drive=nothing"),
    (0x0f, "virtio-rng-pci"),
    (0x10, "virtio-scsi-pci"),
    (0x11, "virtio-serial-pci"),
    (0x12, "virtio-balloon-pci"),
    (0x13, "megasas"),
    (0x14, "vmxnet3,netdev=net14,romfile="),
    (0x15, "sdhci-pci"),
    (0x16, "pcnet,netdev=net16,romfile="),
    (0x17, "i82559a,netdev=net17,romfile="),
    (0x18, "mptsas1068"),
    (0x19, "am53c974"),
    (0x1a, "tpci200"),
    (0x1b, "pci-testdev"),
    (0x1c, "tulip,netdev=net1c,romfile="),
    (0x1d, "ne2k_pci,netdev=net1d,romfile="),
    (0x1e, "pvscsi,romfile="),
];
/// Ports with eight functions behind each, where many guests are to have some.
const PORTS: u32 = 32;
/// How long a machine may take until the agent in dom0 reports something. An idle host needs ten seconds.
const FIRST_REPORT: Duration = Duration::from_mins(4);
/// No boot of the suites takes longer, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_mins(30);
/// Ten thousand cycles, and more.
const SOAK_LIMIT: Duration = Duration::from_hours(48);
/// No boot of a benchmark does.
const BENCHMARK_LIMIT: Duration = Duration::from_mins(90);

/// A host that cases want.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As hosts are.
    Full,
    /// The same, for the cases about devices that come and go: a boot of their own, so that the others are not lost with it.
    Hotplug,
    /// The same, for cases of both that were chosen to run in one boot.
    Chosen,
    /// Without an IOMMU.
    NoIommu,
    /// Where Xen leaves configuration space to whoever may map it, for stubs that write there themselves.
    Direct,
    /// With devices of many kinds.
    Devices,
    /// With 256 functions behind ports, for many small guests.
    Scale,
    /// With what else real hosts have: an IDE controller in legacy mode, the primary VGA, BARs that share a page, and many more devices.
    Neighbours,
    /// For benchmarks in real time: with more devices, for more guests.
    Benchmark,
    /// As most cases have it, for as long as it takes.
    Soak,
    /// As [`Kind::Scale`], for as long as it takes.
    ScaleSoak,
    /// For benchmarks by the instruction clock. With one CPU the scheduler's rate limit (1 ms) would hide everything else.
    Instructions,
}

impl Kind {
    /// Those that each have cases of their own, the longest first.
    pub(crate) const SUITES: [Self; 7] =
        [Self::Hotplug, Self::Full, Self::Scale, Self::Neighbours, Self::Devices, Self::Direct, Self::NoIommu];

    /// What logs and the agent call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Hotplug => "hotplug",
            Self::Chosen => "chosen",
            Self::NoIommu => "no-iommu",
            Self::Direct => "direct",
            Self::Devices => "devices",
            Self::Scale => "scale",
            Self::Neighbours => "neighbours",
            Self::Soak => "soak",
            Self::ScaleSoak => "scale-soak",
            Self::Benchmark => "benchmark",
            Self::Instructions => "instructions",
        }
    }

    fn xen_options(self) -> &'static str {
        match self {
            Self::Direct => " mmcfg=0",
            Self::Instructions => " sched_ratelimit_us=0",
            Self::Full
            | Self::Hotplug
            | Self::Chosen
            | Self::NoIommu
            | Self::Devices
            | Self::Scale
            | Self::Neighbours
            | Self::Soak
            | Self::ScaleSoak
            | Self::Benchmark => "",
        }
    }

    /// Images of the stub that it needs beside the one that is shipped.
    fn more_images(self) -> &'static [&'static str] {
        match self {
            Self::Instructions => &[layout::COUNTING_IMAGE, layout::FAULTS_IMAGE],
            Self::Full | Self::Chosen | Self::Soak | Self::Benchmark => &[layout::FAULTS_IMAGE],
            _ => &[],
        }
    }

    fn clock(self) -> Clock {
        if self == Self::Instructions { Clock::Instructions } else { Clock::Real }
    }

    /// Memory of the machine in MiB.
    pub(crate) fn memory(self) -> u32 {
        if self == Self::Benchmark { MACHINE_MIB + NOISE_MIB } else { MACHINE_MIB }
    }

    fn limit(self) -> Duration {
        match self {
            Self::Full
            | Self::Hotplug
            | Self::Chosen
            | Self::NoIommu
            | Self::Direct
            | Self::Devices
            | Self::Scale
            | Self::Neighbours => LIMIT,
            Self::Benchmark | Self::Instructions => BENCHMARK_LIMIT,
            Self::Soak | Self::ScaleSoak => SOAK_LIMIT,
        }
    }
}

/// One boot of the machine.
pub(crate) struct Boot<'a> {
    /// Xen, and what dom0 and guests are made of.
    pub(crate) images: &'a Images,
    /// Name of the folder for logs.
    pub(crate) name: String,
    /// The agent's plan, see `tests/agent/src/dom0/mod.rs`.
    pub(crate) plan: String,
    /// The host.
    pub(crate) kind: Kind,
    /// How many CPUs it has, where time is real.
    pub(crate) cpus: usize,
    /// Shows the command and the consoles.
    pub(crate) verbose: bool,
}

impl Boot<'_> {
    /// The folder for this boot's logs.
    pub(crate) fn log_dir(&self) -> PathBuf {
        layout::log_dir(&self.name)
    }

    /// Boots, passes every line of the agent's report to `on_report` and returns the processor time that QEMU used, when the machine has ended by itself.
    ///
    /// A machine that ends before it reports anything is booted once more. That is the bench's error and no case's: QEMU's emulation does it to a dom0 of Debian 13
    /// now and then, whose kernel patches its code while the other CPU runs it.
    pub(crate) fn run(&self, on_report: &mut dyn FnMut(&str)) -> Result<Duration> {
        let mut heard = false;
        let first = self.once(&mut |line| {
            heard = true;
            on_report(line);
        });
        if heard {
            return first;
        }
        layout::keep_logs(&self.log_dir())?;
        let why = first.err().map(|error| format!(" ({error:#})")).unwrap_or_default();
        println!("{BENCH_ERROR}{} ended before its first case{why}, and is booted once more", self.name);
        self.once(on_report)
    }

    fn once(&self, on_report: &mut dyn FnMut(&str)) -> Result<Duration> {
        let (images, dir) = (self.images, &self.log_dir());
        layout::prepare_logs(dir)?;
        let initramfs = dir.join("dom0.cpio");
        images.dom0_for_run(&self.plan, self.kind.more_images(), &initramfs)?;
        let share = dir.join("share");
        fs::create_dir(&share)?;
        let socket = dir.join("qmp");
        let mut qmp = Qmp::new(&socket, &share);
        let machine = Machine {
            xen: images.xen.clone(),
            // bootscrub=off: memory that nobody has had needs no zeros, and an emulated machine takes seconds to write them.
            xen_options: format!(
                "dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M bootscrub=off loglvl=info guest_loglvl=warning{}",
                self.kind.xen_options()
            ),
            // panic=-1: a dom0 that panics restarts, which ends QEMU, instead of waiting for somebody to look at it.
            modules: vec![
                (
                    images.linux.clone(),
                    "console=hvc0 quiet panic=-1 mitigations=off rodata=off cryptomgr.notests".into(),
                ),
                (initramfs.clone(), String::new()),
            ],
            memory: self.kind.memory(),
            cpus: if self.kind.clock() == Clock::Instructions { 1 } else { self.cpus },
            clock: self.kind.clock(),
            devices: devices(dir, self.kind)?,
            qmp: Some(socket.clone()),
        };
        let logs = Logs {
            serial: dir.join("dom0.log"),
            report: Some((share.join("report"), FIRST_REPORT)),
            until: None,
            on_line: &mut |line| match line {
                Line::Serial(line) if self.verbose => println!("| {line}"),
                Line::Serial(_) => {}
                Line::Report(line) => match line.strip_prefix("qmp ") {
                    Some(request) => qmp.obey(request),
                    None => on_report(&line),
                },
            },
        };
        let result = machine.run(self.kind.limit(), self.verbose, logs);
        // Large, and made anew by every run.
        for file in ["dom0.cpio", "dom0-run.cpio", "guest-run.cpio"].into_iter().chain(DISKS) {
            // One that stays is no reason to hide how the machine ended.
            let _ = fs::remove_file(dir.join(file));
        }
        // QEMU takes it away when it ends by itself.
        let _ = fs::remove_file(socket);
        result
    }
}

/// The shared folder and the devices that cases work on, at the addresses where dom0 sees them (`addr=5` is `00:05.0`).
fn devices(dir: &Path, kind: Kind) -> Result<Vec<String>> {
    for name in DISKS {
        fs::File::create(dir.join(name))?.set_len(DISK_MIB << 20)?;
    }
    let share = dir.join("share");
    let mut arguments = Vec::new();
    let mut device = |description: &str| arguments.extend(["-device".to_owned(), description.to_owned()]);
    if kind != Kind::NoIommu {
        device("intel-iommu,intremap=on,device-iotlb=off");
    }
    device("virtio-9p-pci,fsdev=share,mount_tag=share,addr=3");
    device("e1000,addr=5,netdev=net5");
    device("edu,addr=6");
    device("nvme,serial=bench,drive=disk,addr=7");
    device("e1000e,addr=8,netdev=net8");
    // The one that dom0 keeps.
    device("virtio-net-pci,addr=9,netdev=net9");
    device("ich9-ahci,id=sata,addr=a");
    device("ide-hd,bus=sata.0,drive=sata");
    if matches!(kind, Kind::Full | Kind::Hotplug | Kind::Chosen | Kind::Soak) {
        // Nothing on bus 0 can be plugged or unplugged while the machine runs; behind a port it can.
        device("pcie-root-port,id=outside,chassis=1,addr=b");
        device("nvme,id=hot,bus=outside,serial=hot,drive=hot");
        // Two functions of one slot.
        device("edu,addr=c.0,multifunction=on");
        device("edu,addr=c.1");
    }
    if kind == Kind::Devices {
        // Behind ports: a function with virtual ones, and a USB controller.
        device("pcie-root-port,id=outside,chassis=1,addr=b");
        device("nvme-subsys,id=several");
        device(
            "nvme,bus=outside,serial=several,subsys=several,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2",
        );
        device("pcie-root-port,id=behind,chassis=2,addr=d");
        device("qemu-xhci,bus=behind");
        // A prefetchable BAR of 64 bits.
        device("ivshmem-plain,memdev=memory,addr=e");
        // An expansion ROM, with a signature and nothing that firmware would run.
        let rom = dir.join(ROM);
        fs::write(&rom, [&[0x55, 0xaa][..], &[0; ROM_BYTES - 2]].concat())?;
        device(&format!("pvscsi,addr=f,romfile={}", rom.display()));
    }
    if matches!(kind, Kind::Scale | Kind::ScaleSoak) {
        for port in 0..PORTS {
            let (slot, function) = (0x10 + port / 8, port % 8);
            device(&format!(
                "pcie-root-port,id=port{port},chassis={},addr={slot:x}.{function},multifunction=on",
                port + 1
            ));
            for function in 0..8 {
                device(&format!("edu,bus=port{port},addr=0.{function},multifunction=on"));
            }
        }
    }
    if kind == Kind::Neighbours {
        for (slot, description) in NEIGHBOURS {
            device(&format!("{description},addr={slot:x}"));
        }
    }
    if kind == Kind::Benchmark {
        for index in 0..NOISE_DEVICES {
            device(&format!("edu,addr={:x}", 0xb + index));
        }
    }
    if kind == Kind::Instructions {
        for slot in FULL_SLOTS {
            for function in 0..8 {
                device(&format!("edu,addr={slot:x}.{function},multifunction=on"));
            }
        }
    }
    if kind == Kind::Devices {
        arguments.extend(["-object", "memory-backend-ram,id=memory,size=4M,share=on"].map(str::to_owned));
    }
    let mut interfaces = vec![5, 8, 9];
    if kind == Kind::Neighbours {
        let disk = format!("driver=null-co,node-name=nothing,size={},read-zeroes=on", DISK_MIB << 20);
        arguments.extend(["-blockdev".to_owned(), disk]);
        interfaces.extend(NEIGHBOURS.iter().filter(|(_, device)| device.contains("netdev")).map(|(slot, _)| *slot));
    }
    // A cable between them that leads nowhere else (which QEMU warns of).
    for slot in interfaces {
        arguments.extend(["-netdev".to_owned(), format!("hubport,id=net{slot:x},hubid=0")]);
    }
    arguments.extend(["-fsdev".to_owned(), format!("local,id=share,path={},security_model=none", share.display())]);
    for (id, name) in ["disk", "sata"].into_iter().zip(DISKS) {
        let file = dir.join(name);
        arguments.extend(["-drive".to_owned(), format!("if=none,id={id},format=raw,file={}", file.display())]);
    }
    // A `-drive` would go with its device.
    let file = dir.join(DISKS[2]);
    let disk = format!("driver=raw,node-name=hot,file.driver=file,file.filename={}", file.display());
    arguments.extend(["-blockdev".to_owned(), disk]);
    Ok(arguments)
}
