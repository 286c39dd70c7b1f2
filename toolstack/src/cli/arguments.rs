//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use xen_types::Sbdf;

use crate::error::Error;
use crate::host::settings::Audit;
use crate::records::device_spec::parse_name;
use crate::records::device_words::{DeviceRequest, Place, parse_assignable, parse_function, parse_place};
use crate::records::export::ExportMode;

/// Gives PCI devices to Xen PV guests through a PCI driver domain
#[derive(Debug, Parser)]
#[command(name = "pcidom", version, after_help = exit_codes())]
pub(crate) struct Cli {
    /// Print each step and each xenbus transition with the milliseconds since the start
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Exit codes (`crate::error::ExitCause`) and their meaning.
pub const EXIT_CODES: [(u8, &str); 6] = [
    (0, "done"),
    (1, "failed, and what had been done was undone"),
    (2, "the command line, or a guest's configuration, makes no sense"),
    (
        3,
        "the guest did not answer in time, and what had been done was undone; `create` leaves a running guest as it is, with its devices",
    ),
    (
        4,
        "not possible on this host (no IOMMU, not dom0, not root), or for a guest that was created this way; `doctor` found something that failed",
    ),
    (5, "another broker is running (`serve`)"),
];

/// Keys of a device and their meaning, for `--help` and the manual.
pub const DEVICE_KEYS: [(&str, &str); 11] = [
    ("@VSLOT, vslot=VSLOT", "the slot wanted on the guest's bus, hexadecimal"),
    ("bdf=BDF", "the device, instead of the address in front"),
    ("seize=1", "take the device from dom0's driver if need be, as `assignable add` does"),
    ("permissive=1", "the guest may write every register of the device with which it can harm only itself"),
    ("quirk=REG:WIDTH:MASK", "the guest may change these bits of one register; all hexadecimal, several are allowed"),
    (
        "hide=CAPABILITY",
        "the guest does not see this capability: a name (msix, aer), an id in hexadecimal, or x and the id of an extended one; several are allowed",
    ),
    (
        "show=CAPABILITY",
        "the guest sees this capability, which is hidden by default because no guest can use it: sriov, rebar, vfrebar",
    ),
    (
        "rdm_policy=strict|relaxed",
        "whether memory that firmware reserved for the device must be mapped (strict is the default)",
    ),
    (
        "name=NAME",
        "without an address, the device that was made assignable under this name; with one, a name to keep beside it",
    ),
    ("power_mgmt=1", "accepted, as xl does"),
    ("msitranslate=1", "accepted, and without effect for PV guests"),
];

fn exit_codes() -> String {
    EXIT_CODES.iter().fold("Exit codes:".to_owned(), |text, (code, meaning)| text + &format!("\n  {code}  {meaning}"))
}

fn device_keys() -> String {
    let head =
        "DEVICE is BDF[@VSLOT][,KEY=VALUE]…, as in xl-pci-configuration(5); 00:07.* means all functions of a slot:"
            .to_owned();
    DEVICE_KEYS.iter().fold(head, |text, (key, meaning)| text + &format!("\n  {key}\n          {meaning}"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give devices to a guest, and wait until it uses them
    #[command(after_long_help = device_keys())]
    Attach(AttachArgs),
    /// Create a guest from an ordinary xl.cfg, with its pci= devices from the driver domain
    Create(CreateArgs),
    /// Take devices from a guest
    Detach(DetachArgs),
    /// Show which guest has which device
    List(ListArgs),
    /// Show a device's configuration space as its guest sees it: who answers reads, what writes change, which were denied
    Show(ShowArgs),
    /// Show the health of a driver domain: devices, guests, statistics
    Status {
        /// Name or id of the driver domain
        #[arg(long, value_name = "NAME", default_value = "pcidom")]
        backend: String,
        /// Print JSON (docs/schema/status.json)
        #[arg(long)]
        json: bool,
        /// Print metrics in Prometheus' text format; `pcidom_up` is 0 where the backend does not answer
        #[arg(long, conflicts_with = "json")]
        prometheus: bool,
    },
    /// Start the image of a driver domain again in the same domain; its guests keep their devices
    Restart {
        /// Name or id of the driver domain
        #[arg(long, value_name = "NAME", default_value = "pcidom")]
        backend: String,
        #[command(flatten)]
        output: Output,
    },
    /// Put another image into a driver domain that runs; its guests keep their devices. One that does not come up is taken back
    Upgrade {
        /// Name or id of the driver domain
        #[arg(long, value_name = "NAME", default_value = "pcidom")]
        backend: String,
        #[command(flatten)]
        output: Output,
        /// The image; without it, the one that kernel= in /etc/xen/pcidom.cfg names
        image: Option<PathBuf>,
    },
    /// Wait until something is as it should be
    #[command(subcommand)]
    Wait(WaitCommand),
    /// Show the last of what a driver domain said on its console, and of what the broker said
    Logs {
        /// Name or id of the driver domain
        #[arg(long, value_name = "NAME", default_value = "pcidom")]
        backend: String,
        /// How many lines of each
        #[arg(long, value_name = "COUNT", default_value = "50")]
        lines: usize,
    },
    /// Check whether this host, its devices and its guests are fit for passing devices through
    Doctor(DoctorArgs),
    /// The devices that may be given to guests
    #[command(subcommand)]
    Assignable(AssignableCommand),
    /// Run the broker, which carries out for driver domains what only dom0 may do. One per host, until SIGTERM
    Serve {
        /// Stay in the foreground, which it always does
        #[arg(long)]
        foreground: bool,
        /// How `pcidom reclaim` is started when a guest is gone
        #[arg(long, value_name = "HOW", value_enum, default_value = "spawn")]
        reclaim: Reclaiming,
        /// Do not interrupt a driver domain that is busy and does not answer, which starts its image again
        #[arg(long)]
        no_watchdog: bool,
    },
    /// Run the host's driver domain: create it, give it the devices of /etc/pcidom/pcidom.conf, and end when it has ended. Until SIGTERM, which ends the domain unless guests have devices of it
    Backend(BackendArgs),
    /// Create the guests of a folder that have devices of the driver domain. Others are left to xendomains
    Autostart {
        /// Name or id of the driver domain
        #[arg(long, value_name = "NAME", default_value = "pcidom")]
        backend: String,
        /// Where their configurations are
        #[arg(value_name = "FOLDER", default_value = "/etc/xen/auto")]
        folder: PathBuf,
    },
    /// Print which devices are at these addresses, in lines for /etc/pcidom/pcidom.conf
    Identify {
        /// The addresses
        #[arg(required = true, value_name = "BDF", value_parser = parse_function)]
        devices: Vec<Sbdf>,
    },
    /// Print a script that completes this command's words in a shell
    Completions {
        /// For which shell
        #[arg(value_parser = PossibleValuesParser::new(["bash", "zsh", "fish"]).try_map(|name| name.parse::<Shell>()))]
        shell: Shell,
    },
    /// Give devices back what they lost while their guests had them: after an error that dom0's kernel has recovered them from. udev has this done by itself
    Repair {
        /// The devices
        #[arg(required = true, value_name = "BDF", value_parser = parse_function)]
        devices: Vec<Sbdf>,
    },
    /// Take devices back from guests that are gone, and finish or undo what killed commands began. The broker has this done by itself, and every command that changes something does it first
    Reclaim {
        /// Change nothing; print what there is to put right
        #[arg(short = 'n', long)]
        dry_run: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// How a command that changes something tells what became of it.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Output {
    /// Print JSON on standard output, also where the command fails (docs/schema/result.json)
    #[arg(long)]
    pub(crate) json: bool,
}

impl Command {
    /// The words of a command that reports, and whether it is to do so as JSON.
    pub(crate) fn report(&self) -> Option<(&'static str, bool)> {
        let (words, output) = match self {
            Self::Attach(args) => ("attach", args.output),
            Self::Create(args) => ("create", args.output),
            Self::Detach(args) => ("detach", args.output),
            Self::Reclaim { output, .. } => ("reclaim", *output),
            Self::Restart { output, .. } => ("restart", *output),
            Self::Upgrade { output, .. } => ("upgrade", *output),
            Self::Assignable(AssignableCommand::Add(args)) => ("assignable add", args.output),
            Self::Assignable(AssignableCommand::Remove { output, .. }) => ("assignable remove", *output),
            Self::Wait(
                WaitCommand::Ready { output, .. }
                | WaitCommand::Free { output, .. }
                | WaitCommand::Attached { output, .. },
            ) => ("wait", *output),
            _ => return None,
        };
        Some((words, output.json))
    }
}

/// What `wait` waits for.
#[derive(Debug, Subcommand)]
pub(crate) enum WaitCommand {
    /// Wait until a driver domain serves
    Ready {
        /// Name or id of the driver domain
        #[arg(long, value_name = "NAME", default_value = "pcidom")]
        backend: String,
        /// How long
        #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
        timeout: Duration,
        #[command(flatten)]
        output: Output,
    },
    /// Wait until devices are in a driver domain's pool and no guest has them
    Free {
        /// How long
        #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
        timeout: Duration,
        #[command(flatten)]
        output: Output,
        /// The devices
        #[arg(required = true, value_name = "BDF", value_parser = parse_function)]
        devices: Vec<Sbdf>,
    },
    /// Wait until a guest uses devices
    Attached {
        /// How long
        #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
        timeout: Duration,
        #[command(flatten)]
        output: Output,
        /// Name or id of the guest
        domain: String,
        /// The devices
        #[arg(required = true, value_name = "BDF", value_parser = parse_function)]
        devices: Vec<Sbdf>,
    },
}

/// How the broker has `pcidom reclaim` run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reclaiming {
    /// As a child of the broker
    Spawn,
    /// By pcidom-reclaim.path, a unit that waits for /run/pcidom/reclaim
    Trigger,
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Change nothing; print what would be done, one step a line
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Give the devices to the guest again whenever it, or the driver domain, has rebooted
    #[arg(long, visible_alias = "keep")]
    pub(crate) persistent: bool,
    /// Name or id of the driver domain
    #[arg(long, value_name = "NAME", default_value = "pcidom")]
    pub(crate) backend: String,
    /// Which addresses a guest that has no devices yet sees; without it, what export= on the driver domain's command line says
    #[arg(long, value_name = "MODE", value_parser = export_mode())]
    pub(crate) export: Option<ExportMode>,
    /// How long the guest may take; half a second is added for each device beyond the first
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Take devices from dom0's drivers also where dom0 itself needs them: for a mounted file system, swap, or as its only network card
    #[arg(long)]
    pub(crate) seize_in_use: bool,
    /// Give guests back what `detach --all --plan` took from them, as this file says
    #[arg(long, value_name = "FILE", conflicts_with_all = ["domain", "persistent", "backend", "export"])]
    pub(crate) plan: Option<PathBuf>,
    /// Name or id of the guest
    #[arg(required_unless_present = "plan")]
    pub(crate) domain: Option<String>,
    /// Devices: each a BDF with options, as xl takes it (`--help` lists the keys)
    #[arg(required_unless_present = "plan", value_name = "DEVICE")]
    pub(crate) devices: Vec<DeviceRequest>,
}

/// Arguments of `backend`.
#[derive(Debug, Args)]
pub(crate) struct BackendArgs {
    /// Give all devices of the driver domain back to dom0's drivers instead, unless guests have some of them
    #[arg(long)]
    pub(crate) release: bool,
    /// The driver domain's configuration (xl.cfg(5))
    #[arg(value_name = "CONFIG", default_value = "/etc/xen/pcidom.cfg")]
    pub(crate) config: PathBuf,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Name or id of the driver domain
    #[arg(long, value_name = "NAME", default_value = "pcidom")]
    pub(crate) backend: String,
    /// How long the guest may take; half a second is added for each device beyond the first
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Leave the guest paused
    #[arg(short, long)]
    pub(crate) paused: bool,
    /// Change nothing; print the configuration as xl would get it, with the devices as comments
    #[arg(short = 'n', long = "dry-run", alias = "dryrun")]
    pub(crate) dry_run: bool,
    /// Connect this terminal with the guest's console before it runs, as xl does; the command ends when that is left (Ctrl-])
    #[arg(short, long)]
    pub(crate) console: bool,
    /// No notes
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Stay until the guest is gone for good; one that reboots is not
    #[arg(short = 'F', long)]
    pub(crate) foreground: bool,
    /// Have xl start a viewer for the guest's screen
    #[arg(short = 'V', long)]
    pub(crate) vncviewer: bool,
    /// The same, and have xl hand the viewer the password
    #[arg(short = 'A', long)]
    pub(crate) vncviewer_autopass: bool,
    /// Print each step, as -v does
    #[arg(short, long)]
    pub(crate) debug: bool,
    /// Have no xl wait in the background for the guest's end: then nobody carries out on_reboot= and the like
    #[arg(short = 'e', long)]
    pub(crate) no_monitor: bool,
    /// Take devices from dom0's drivers also where dom0 itself needs them: for a mounted file system, swap, or as its only network card
    #[arg(long)]
    pub(crate) seize_in_use: bool,
    /// The guest's configuration, instead of naming it in front of the settings
    #[arg(short = 'f', long = "defconfig", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The guest's configuration (xl.cfg(5)), - is standard input; and settings (KEY=VALUE, several with ; between them) that replace those of the file. Without a file they are all there is
    #[arg(value_name = "GUEST.cfg|KEY=VALUE")]
    pub(crate) words: Vec<String>,
}

impl CreateArgs {
    /// The file, if there is one, and the settings. As with xl, the word without `=` is the file, wherever it stands.
    ///
    /// # Errors
    /// Neither was given; more than one file.
    pub(crate) fn sources(&self) -> Result<(Option<PathBuf>, Vec<String>), Error> {
        let (settings, mut files): (Vec<String>, Vec<String>) =
            self.words.iter().cloned().partition(|word| word.contains('='));
        files.extend(self.file.iter().map(|file| file.display().to_string()));
        match &files[..] {
            [] if settings.is_empty() => {
                Err(Error::Usage("a configuration is wanted: GUEST.cfg, or KEY=VALUE".to_owned()))
            }
            [] => Ok((None, settings)),
            [file] => Ok((Some(self.file.clone().unwrap_or_else(|| file.into())), settings)),
            files => Err(Error::Usage(format!("one configuration is wanted, not {}", files.join(" and ")))),
        }
    }

    /// Options that xl gets as they are.
    pub(crate) fn for_xl(&self) -> Vec<&'static str> {
        let options = [(self.vncviewer, "-V"), (self.vncviewer_autopass, "-A"), (self.no_monitor, "-e")];
        options.into_iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, option)| option).collect()
    }
}

/// How long a guest may take to let go of its devices.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same where they are taken by force. A driver that lets go does so within this, and what it has let go of is free at once; what is torn away
/// from it is still mapped, and has to be freed by a second command (docs/audit.md).
const FORCED_TIMEOUT: Duration = Duration::from_secs(1);

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub(crate) struct DetachArgs {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Change nothing; print what would be done, one step a line
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Refuse unless this driver domain (name or id) serves the devices
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// How long the guest may take, 30 seconds unless told otherwise, with --force 1; half a second is added for each device beyond the first
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Take the devices also from a guest that does not release them in time, and free devices of which a guest has leaked mappings
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Whose page tables are searched for leaked mappings of the devices: guest, all (every PV guest of the host) or none; without it, what /etc/pcidom/pcidom.conf says, else guest
    #[arg(long, value_name = "WHO")]
    pub(crate) audit: Option<Audit>,
    /// All devices of the guest, or of every guest where none is named
    #[arg(long, conflicts_with_all = ["devices", "backend"])]
    pub(crate) all: bool,
    /// Write first what guests have to a file, by which `attach --plan` gives it back. One that is there already stays, and then nothing is done
    #[arg(long, value_name = "FILE", requires = "all", conflicts_with = "devices")]
    pub(crate) plan: Option<PathBuf>,
    /// Name or id of the guest
    #[arg(required_unless_present = "all")]
    pub(crate) domain: Option<String>,
    /// Devices to take; 00:07.* means those of a slot. Options are ignored, as by xl
    #[arg(required_unless_present = "all", value_name = "BDF")]
    pub(crate) devices: Vec<DeviceRequest>,
}

impl DetachArgs {
    /// How long the guest may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(if self.force { FORCED_TIMEOUT } else { TIMEOUT })
    }
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Name or id of the driver domain
    #[arg(long, value_name = "NAME", default_value = "pcidom")]
    pub(crate) backend: String,
    /// Print JSON (docs/schema/doctor.json)
    #[arg(long)]
    pub(crate) json: bool,
    /// Guests (name or id) and devices to check; without any, all devices that are parked or in a pool
    #[arg(value_name = "DOMAIN|BDF")]
    pub(crate) names: Vec<String>,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Show this guest's devices only (name or id)
    pub(crate) domain: Option<String>,
    /// Print JSON (docs/schema/list.json)
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The device; one that no guest has is shown as a guest would see it
    #[arg(value_name = "BDF", value_parser = parse_function)]
    pub(crate) device: Sbdf,
    /// Print JSON (docs/schema/show.json)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AssignableCommand {
    /// Show the devices that no guest has
    List {
        /// Print JSON (docs/schema/list.json)
        #[arg(long)]
        json: bool,
        /// Show the names too under which devices were made assignable
        #[arg(short = 'n', long)]
        names: bool,
    },
    /// Take devices from dom0's drivers and give them to the driver domain
    Add(AddArgs),
    /// Give devices back to dom0
    Remove {
        /// Change nothing; print what would be done, one step a line
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// Bind each device to the driver that had it before
        #[arg(short)]
        rebind: bool,
        #[command(flatten)]
        output: Output,
        /// Devices to give back; 00:07.* means those of a slot that are assignable
        #[arg(required = true, value_name = "BDF|NAME", value_parser = parse_assignable)]
        devices: Vec<Place>,
    },
}

/// Arguments of `assignable add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Change nothing; print what would be done, one step a line
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Name or id of the driver domain
    #[arg(long, value_name = "NAME", default_value = "pcidom")]
    pub(crate) backend: String,
    /// Take devices from dom0's drivers also where dom0 itself needs them: for a mounted file system, swap, or as its only network card
    #[arg(long)]
    pub(crate) seize_in_use: bool,
    /// A name for the device, by which xl and pcidom find it as name=NAME
    #[arg(short, long, value_name = "NAME", value_parser = parse_name)]
    pub(crate) name: Option<String>,
    /// Devices to take; 00:07.* means all functions of a slot
    #[arg(required = true, value_name = "BDF", value_parser = parse_place)]
    pub(crate) devices: Vec<Place>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    const MAX_SECONDS: f64 = 86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=MAX_SECONDS).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("want a number of seconds up to {MAX_SECONDS}")),
    }
}

/// The words for an export mode, each with what it means.
fn export_mode() -> impl TypedValueParser<Value = ExportMode> {
    let words = ExportMode::ALL.map(|mode| {
        PossibleValue::new(mode.name()).help(match mode {
            ExportMode::Vpci => "One bus; functions of one device stay together",
            ExportMode::Slot => "Each function alone in a slot, as function 0",
            ExportMode::Passthrough => "The real addresses",
        })
    });
    PossibleValuesParser::new(words).try_map(|word| word.parse::<ExportMode>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn several_devices_go_to_one_guest() {
        let cli = parse("pcidom attach -v --timeout 2.5 web 00:05.0 0000:00:06.0@3,seize=1").unwrap();
        assert_eq!(cli.verbose, 1);
        let Command::Attach(args) = cli.command else { panic!("not attach") };
        assert_eq!((args.backend.as_str(), args.domain.as_deref(), args.devices.len()), ("pcidom", Some("web"), 2));
        assert_eq!(args.timeout, Duration::from_millis(2500));
    }

    #[test]
    fn every_command_that_moves_devices_can_be_tried() {
        for line in ["attach -n web 00:05.0", "attach --dry-run web 00:05.0", "detach --dry-run web 00:05.0"] {
            let cli = parse(&format!("pcidom {line}")).unwrap();
            assert!(
                matches!(
                    cli.command,
                    Command::Attach(AttachArgs { dry_run: true, .. })
                        | Command::Detach(DetachArgs { dry_run: true, .. })
                ),
                "{line}"
            );
        }
        for line in [
            "assignable add --dry-run 00:05.0",
            "assignable remove -n 00:05.0",
            "create --dry-run web.cfg",
            "create -n a=1",
        ] {
            parse(&format!("pcidom {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn a_persistent_assignment_has_two_names() {
        for option in ["--persistent", "--keep"] {
            let cli = parse(&format!("pcidom attach {option} web 00:05.0")).unwrap();
            assert!(matches!(cli.command, Command::Attach(AttachArgs { persistent: true, .. })), "{option}");
        }
    }

    #[test]
    fn all_of_a_guest_or_of_everybody_needs_no_device() {
        for line in
            ["detach --all", "detach --all web", "detach --all --plan plan.json --force", "attach --plan plan.json -n"]
        {
            parse(&format!("pcidom {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn whatever_changes_something_reports() {
        for (line, words) in [
            ("attach --json web 00:05.0", "attach"),
            ("detach --json web 00:05.0", "detach"),
            ("create --json web.cfg", "create"),
            ("assignable add --json 00:05.0", "assignable add"),
            ("assignable remove --json 00:05.0", "assignable remove"),
            ("reclaim --json", "reclaim"),
            ("restart --json", "restart"),
            ("upgrade --json", "upgrade"),
            ("upgrade --json pcidom.elf", "upgrade"),
            ("wait ready --json", "wait"),
            ("wait free --json 00:05.0", "wait"),
            ("wait attached --json web 00:05.0", "wait"),
        ] {
            assert_eq!(parse(&format!("pcidom {line}")).unwrap().command.report(), Some((words, true)), "{line}");
        }
        assert_eq!(parse("pcidom reclaim -n").unwrap().command.report(), Some(("reclaim", false)));
        assert_eq!(parse("pcidom list --json").unwrap().command.report(), None);
    }

    #[test]
    fn a_guest_that_is_forced_has_a_moment() {
        for (line, seconds) in [
            ("web 00:05.0", 30),
            ("-f web 00:05.0", 1),
            ("-f --timeout 7 web 00:05.0", 7),
            ("--timeout 7 web 00:05.0", 7),
        ] {
            let Command::Detach(args) = parse(&format!("pcidom detach {line}")).unwrap().command else { panic!() };
            assert_eq!(args.timeout(), Duration::from_secs(seconds), "{line}");
        }
    }

    #[test]
    fn a_configuration_is_a_file_with_settings_or_settings_alone() {
        let sources = |line: &str| {
            let line = format!("pcidom create {line}");
            let Command::Create(args) = parse(line.trim_end()).unwrap().command else { panic!() };
            args.sources()
        };
        let settings = || vec!["memory=64".to_owned(), "name='a'".to_owned()];
        for line in [
            "web.cfg memory=64 name='a'",
            "-f web.cfg memory=64 name='a'",
            "memory=64 name='a' --defconfig=web.cfg",
            "memory=64 web.cfg name='a'",
        ] {
            assert_eq!(sources(line).unwrap(), (Some("web.cfg".into()), settings()), "{line}");
        }
        assert_eq!(sources("memory=64 name='a'").unwrap(), (None, settings()));
        assert!(sources("").is_err() && sources("-f web.cfg other.cfg").is_err() && sources("a.cfg b.cfg").is_err());
        assert_eq!(parse("pcidom -vvv list").unwrap().verbose, 3, "as xl takes it");
    }

    #[test]
    fn a_slot_behind_a_device_is_told_its_spelling() {
        let error = parse("pcidom attach web 00:05.0 3").unwrap_err().to_string();
        assert!(error.contains("a virtual slot is written behind its device: BDF@3"), "{error}");
    }

    #[test]
    fn the_broker_needs_no_words() {
        for line in [
            "pcidom serve",
            "pcidom serve --foreground",
            "pcidom serve --reclaim=trigger",
            "pcidom serve --no-watchdog",
        ] {
            assert!(matches!(parse(line).unwrap().command, Command::Serve { .. }), "{line}");
        }
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "pcidom",
            "pcidom attach web",
            "pcidom attach web 00:05",
            "pcidom attach web 00:05.0,permissive=yes",
            "pcidom attach --timeout -1 web 00:05.0",
            "pcidom attach --export controller web 00:05.0",
            "pcidom attach --timeout inf web 00:05.0",
            "pcidom detach web",
            "pcidom detach web 00:05.0,colour=red",
            "pcidom detach --audit stub web 00:05.0",
            "pcidom assignable",
            "pcidom assignable add",
            "pcidom assignable remove",
            "pcidom assignable add disk",
            "pcidom assignable add -n 00:05.0",
            "pcidom assignable remove 00:05",
            "pcidom attach web 00:05.0 3",
            "pcidom attach --plan plan.json web 00:05.0",
            "pcidom detach --all web 00:05.0",
            "pcidom detach --plan plan.json web 00:05.0",
            "pcidom status --json --prometheus",
            "pcidom wait",
            "pcidom wait free",
            "pcidom wait attached web",
            "pcidom logs --lines -1",
            "pcidom serve now",
            "pcidom serve --reclaim=never",
            "pcidom reclaim web",
            "pcidom show",
            "pcidom show 00:05",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
