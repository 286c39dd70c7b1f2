//! Runs QEMU until it exits, for a limited time, and never longer than this process lives.

use std::{
    fmt,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Clock of a machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The host's. Each CPU is a thread of the host.
    Real,
    /// One CPU on which each instruction takes 2 ns, whatever the host does meanwhile: the same run takes the same time.
    Instructions,
}

impl Clock {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Real => &["-accel", "tcg,thread=multi"],
            // shift=1: 2^1 ns an instruction. sleep=off: an idle machine jumps to its next timer.
            Self::Instructions => &["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off"],
        }
    }
}

/// QEMU itself crashed, which nothing in the machine may make it do. QEMU 7.2 does it now and then with two CPUs: one reads a device register while the other moves registers in the
/// address map (`memory_region_dispatch_read` of no region). Later versions change the map on the thread of each CPU.
#[derive(Debug)]
pub(crate) struct Crashed(ExitStatus);

impl fmt::Display for Crashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU: {}", self.0)
    }
}

impl std::error::Error for Crashed {}

/// A virtual machine to run.
pub(crate) struct Machine {
    /// Xen's ELF file.
    pub(crate) xen: PathBuf,
    /// Xen's command line, beside what every run has.
    pub(crate) xen_options: String,
    /// Files that Xen gets as modules, each with its command line (may be empty): first the kernel, then an initramfs.
    pub(crate) modules: Vec<(PathBuf, String)>,
    /// Memory in MiB.
    pub(crate) memory: u32,
    /// Its CPUs; one by the instruction clock.
    pub(crate) cpus: usize,
    /// Its time.
    pub(crate) clock: Clock,
    /// More arguments: devices.
    pub(crate) devices: Vec<String>,
    /// Where QEMU listens for commands, if it does.
    pub(crate) qmp: Option<PathBuf>,
}

/// One line of output while a machine runs.
pub(crate) enum Line {
    /// On the serial console: Xen and dom0.
    Serial(String),
    /// In the file that cases are reported in.
    Report(String),
}

/// Where a machine's lines come from and go to.
pub(crate) struct Logs<'a> {
    /// The serial console is copied to this file.
    pub(crate) serial: PathBuf,
    /// A file that the machine appends its reports to, if it does, and how long it may take to report something; then it is ended.
    pub(crate) report: Option<(PathBuf, Duration)>,
    /// What ends the machine as soon as it stands on the serial console, if anything does.
    pub(crate) until: Option<&'static str>,
    /// Called for every line.
    pub(crate) on_line: &'a mut dyn FnMut(Line),
}

impl Machine {
    fn command(&self) -> Result<Command> {
        // PDEATHSIG ends QEMU when this process ends in any way, SIGKILL included. (setpriv is in util-linux, always there.)
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
        // smap=off: with SMAP under TCG a PV guest dies in its first upcall. xsave=off: QEMU 7.2 loses parts of the AVX registers
        // when domains take turns on a CPU, and programs in guests crash at random. x2apic=off: QEMU 10 has it, and loses interrupts of Xen with it.
        // la57=off: nothing here has use for it.
        command.args(["-M", "q35,kernel-irqchip=split", "-cpu", "max,la57=off,smap=off,xsave=off,x2apic=off"]);
        command.args(self.clock.arguments()).args(["-smp", &self.cpus.to_string()]);
        command.args(["-m", &self.memory.to_string()]);
        command.args(["-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio"]);
        let mut modules = Vec::new();
        for (path, options) in &self.modules {
            let path =
                path.to_str().filter(|path| !path.contains([',', ' '])).context("a path that -initrd cannot take")?;
            // A comma separates modules, two of them are one.
            modules.push(format!("{path} {}", options.replace(',', ",,")).trim_end().to_owned());
        }
        command.arg("-kernel").arg(&self.xen).args(["-initrd", &modules.join(",")]);
        command.args(["-append", &format!("console=com1 com1=115200,8n1 {}", self.xen_options)]).args(&self.devices);
        if let Some(socket) = &self.qmp {
            command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Ok(command)
    }

    /// Runs the machine until it ends, or ends it after `limit`, which is an error. Returns the processor time that QEMU used.
    pub(crate) fn run(&self, limit: Duration, verbose: bool, logs: Logs<'_>) -> Result<Duration> {
        let mut command = self.command()?;
        if verbose {
            println!("bench: {command:?}");
        }
        let started = Instant::now();
        let mut child = command.spawn().context("starting QEMU")?;
        let lines = serial_lines(child.stdout.take().context("no pipe")?, &logs.serial)?;
        let mut running = Running(child);
        let patience = logs.report.as_ref().map(|(_, patience)| *patience);
        let mut report = logs.report.map(|(path, _)| Tail::new(path));
        let mut panic: Option<(Instant, String)> = None;
        let mut waits_for_report = patience;
        loop {
            let serial = lines.recv_timeout(Duration::from_millis(100));
            for line in report.iter_mut().flat_map(Tail::lines) {
                waits_for_report = None;
                (logs.on_line)(Line::Report(line));
            }
            match serial {
                Ok(line) => {
                    match &mut panic {
                        // The first line behind it that says more than stars is the reason.
                        Some((_, reason)) if reason.ends_with(':') => *reason += line.trim_start_matches("(XEN)"),
                        None if line.contains("(XEN) Panic on CPU") => panic = Some((Instant::now(), line.clone())),
                        _ => {}
                    }
                    let is_last = logs.until.is_some_and(|text| line.contains(text));
                    (logs.on_line)(Line::Serial(line));
                    if is_last {
                        return Ok(cpu_time(running.0.id()));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let cpu = cpu_time(running.0.id());
                    let status = running.0.wait()?;
                    return match status.signal() {
                        _ if status.success() => Ok(cpu),
                        Some(_) => Err(Crashed(status).into()),
                        None => bail!("QEMU: {status}"),
                    };
                }
            }
            // Xen restarts the machine then, if it can.
            if let Some((when, reason)) = &panic
                && when.elapsed() > PANIC_PATIENCE
            {
                bail!("{reason}");
            }
            if let Some(patience) = waits_for_report
                && started.elapsed() > patience
            {
                bail!("ended after {} s without a word from dom0", patience.as_secs());
            }
            if started.elapsed() > limit {
                bail!("ended after {} s without a result", limit.as_secs());
            }
        }
    }
}

/// The processor time of all threads of a process that has not been waited for; zero where it cannot be read.
fn cpu_time(process: u32) -> Duration {
    /// `sysconf(_SC_CLK_TCK)`, which is 100 on every Linux.
    const TICKS_A_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Behind the name in parentheses, which may have blanks in it: utime and stime are the fields 14 and 15 of all (proc(5)).
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_A_SECOND)
}

/// Time for the console output of a Xen that panics.
const PANIC_PATIENCE: Duration = Duration::from_secs(10);

/// A QEMU that dies with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies the serial console to a file and hands its lines out, in a thread that ends with QEMU.
fn serial_lines(console: ChildStdout, log: &Path) -> Result<Receiver<String>> {
    let mut log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            // A full disk is no reason to stop the run.
            let _ = log.write_all(&line);
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Follows a file that somebody else appends whole lines to.
struct Tail {
    path: PathBuf,
    position: u64,
}

impl Tail {
    fn new(path: PathBuf) -> Self {
        Self { path, position: 0 }
    }

    /// The complete lines that were appended since the last call.
    fn lines(&mut self) -> Vec<String> {
        let mut text = Vec::new();
        let read = fs::File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.position))?;
            file.read_to_end(&mut text)
        });
        // The file appears when the machine has something to say.
        if read.is_err() {
            return Vec::new();
        }
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        self.position += u64::try_from(whole).unwrap_or_default();
        String::from_utf8_lossy(&text[..whole]).lines().map(str::to_owned).collect()
    }
}
