//! Checks of how the host was set up: what its admin or its distribution chose, and what of it keeps a backend outside of dom0 from its work.

use std::fs;
use std::path::Path;

use super::check::Check;
use crate::host::Host;
use xen_types::Sbdf;

pub(super) fn checks(host: &Host) -> Vec<Check> {
    vec![xsm(host), dom0_kind(host), lockdown(host), xenstored(host), hidden_devices(host)]
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// In SILO mode guests may share pages and event channels with dom0 and xenstored only (`xen/xsm/silo.c`); Flask does as its policy says.
fn xsm(host: &Host) -> Check {
    const NAME: &str = "xsm";
    let messages = host.xl.messages().unwrap_or_default();
    let line = host.xl.command_line().unwrap_or_default();
    let asked = line.split_whitespace().filter_map(|word| word.strip_prefix("xsm=")).next_back();
    // What Xen said counts more than what it was asked: it may be built without a mode.
    let says = |text: &str| messages.contains(text);
    if says("Initialising XSM SILO mode") || asked == Some("silo") {
        return Check::failed(
            NAME,
            "Xen is in SILO mode: guests may share pages and event channels with dom0 only, so no guest can talk to a backend outside of it",
            "put xsm=dummy on Xen's command line, or xsm=flask with a policy that lets guests talk to the backend",
        );
    }
    if says("Flask:") || asked == Some("flask") {
        return Check::warning(
            NAME,
            "Xen's Flask decides who may talk to whom, and pcidom was not tried with a policy",
            "it has to let the backend map its guests' pages, bind their event channels, and map the configuration space that dom0 gives it",
        );
    }
    Check::ok(NAME, "nothing tells of a policy that keeps guests from a backend outside of dom0")
}

/// The kernel's own word for what kind of domain it runs in (`Documentation/ABI/stable/sysfs-hypervisor-xen`).
fn dom0_kind(host: &Host) -> Check {
    const NAME: &str = "dom0's kind";
    match read(host.sysfs.root().join("hypervisor/guest_type")).trim() {
        "PV" => Check::ok(NAME, "it is a PV domain"),
        "" => Check::ok(NAME, "the kernel does not tell; pcidom was tried with PV ones"),
        other => Check::warning(
            NAME,
            format!(
                "it is a {other} domain, and pcidom was tried with PV ones only. Whether xen-pciback can park devices there and Xen maps \
                 their vectors for guests depends on the releases of both"
            ),
            "a PV dom0 (no dom0=pvh on Xen's command line) is known to work",
        ),
    }
}

/// Since Linux 5.4 a locked down kernel refuses writes to configuration space through sysfs (`pci_write_config`). Secure Boot turns it on in
/// many distributions.
fn lockdown(host: &Host) -> Check {
    const NAME: &str = "lockdown";
    let text = read(host.sysfs.root().join("kernel/security/lockdown"));
    let mode = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(mode, _)| mode);
    match mode {
        Some(mode) if mode != "none" => Check::failed(
            NAME,
            format!(
                "dom0's kernel is locked down ({mode}): it lets no process write configuration space, so devices cannot be quiesced or prepared, \
                 and guests' writes do not reach them"
            ),
            "turn Secure Boot off for this host, or lockdown= on dom0's command line",
        ),
        Some(_) => Check::ok(NAME, "dom0's kernel is not locked down"),
        None => Check::ok(NAME, "dom0's kernel does not tell of any"),
    }
}

/// Watches that a backend sets for itself; each guest takes one more, or is looked at once a second (`docs/architecture.md`, "Limits").
const OWN_WATCHES: u64 = 4;
/// Transactions that it has at a time.
const TRANSACTIONS: u64 = 4;
/// Fewer guests with a watch than this are worth a word.
const FEW_GUESTS: u64 = 32;

/// What runs as xenstored, and whether its limits for guests leave a backend enough: it is one.
fn xenstored(host: &Host) -> Check {
    const NAME: &str = "xenstored";
    const HINT: &str = "raise the limit for guests: quota-maxwatch and quota-transaction in /etc/xen/oxenstored.conf, or --quota of xenstored";
    let Daemon { name, limits } = Daemon::find(host);
    let limit =
        |names: [&str; 2]| limits.iter().find(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| *value);
    let (watches, transactions) = (limit(["quota-maxwatch", "watches"]), limit(["quota-transaction", "transactions"]));
    if let Some(count) = transactions.filter(|count| *count < TRANSACTIONS) {
        let text =
            format!("{name} lets a guest have {count} transactions at a time, and the backend needs {TRANSACTIONS}");
        return Check::failed(NAME, text, HINT);
    }
    let Some(watches) = watches else {
        return Check::ok(NAME, format!("{name}, whose limits for guests cannot be told"));
    };
    let guests = watches.saturating_sub(OWN_WATCHES);
    let text =
        format!("{name}: of {watches} watches {guests} are for guests, and more guests are looked at once a second");
    if guests < FEW_GUESTS { Check::warning(NAME, text, HINT) } else { Check::ok(NAME, text) }
}

/// The process that serves xenstore, and its limits for guests as it names them.
struct Daemon {
    name: &'static str,
    limits: Vec<(String, u64)>,
}

impl Daemon {
    fn find(host: &Host) -> Self {
        let pid = ["run/xen/xenstored.pid", "run/xenstored.pid"].map(|name| read(host.root.join(name)));
        let pid = pid.iter().map(|pid| pid.trim()).find(|pid| !pid.is_empty());
        let process = pid.map(|pid| read(host.root.join("proc").join(pid).join("comm")));
        match process.as_deref().map(str::trim) {
            Some("oxenstored") => {
                let settings = read(host.root.join("etc/xen/oxenstored.conf"));
                Self { name: "it is oxenstored", limits: Self::oxenstored_limits(&settings) }
            }
            Some("xenstored") => Self { name: "it is the C xenstored", limits: Self::limits(host) },
            _ => Self { name: "it is no process of dom0", limits: Self::limits(host) },
        }
    }

    /// `quota-maxwatch = 100`; what is not there has the value that oxenstored was built with (`tools/ocaml/xenstored/define.ml`).
    fn oxenstored_limits(settings: &str) -> Vec<(String, u64)> {
        let pairs = settings.lines().filter_map(|line| {
            let (name, value) = line.split('#').next()?.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        });
        let pairs: Vec<(String, String)> = pairs.collect();
        // Without quota-activate no limit holds.
        if pairs.iter().any(|(name, value)| name == "quota-activate" && value == "false") {
            return vec![("quota-maxwatch".to_owned(), u64::from(u32::MAX))];
        }
        let set = pairs.into_iter().filter_map(|(name, value)| Some((name, value.parse().ok()?)));
        let built_in = [("quota-maxwatch", 100), ("quota-transaction", 10)];
        set.chain(built_in.map(|(name, value)| (name.to_owned(), value))).collect()
    }

    /// `watches:  128  maximum number of watches`, or an error where this xenstored has no such command.
    fn limits(host: &Host) -> Vec<(String, u64)> {
        let text = host.xl.store_limits().unwrap_or_default();
        let pairs = text.lines().filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            Some((name.trim().to_owned(), rest.split_whitespace().next()?.parse().ok()?))
        });
        pairs.collect()
    }
}

/// `xen-pciback.hide=(0000:03:00.0)(0000:04:00.*)`: xen-pciback does not load when it cannot read the list, and dom0's drivers keep the devices.
fn hidden_devices(host: &Host) -> Check {
    const NAME: &str = "hide=";
    let is_hide = |word: &str| {
        let (name, value) = word.split_once('=')?;
        let name = name.replace('-', "_");
        ["xen_pciback.hide", "pciback.hide"].contains(&name.as_str()).then(|| value.trim_matches('"').to_owned())
    };
    let xen = host.xl.command_line().unwrap_or_default();
    if let Some(list) = xen.split_whitespace().find_map(is_hide) {
        return Check::warning(
            NAME,
            format!("Xen's command line has xen-pciback.hide={list}, which Xen does not know"),
            "it belongs on the command line of dom0's kernel",
        );
    }
    let kernel = read(host.root.join("proc/cmdline"));
    let of_modprobe = settings_of_modprobe(host);
    let lists = kernel.split_whitespace().filter_map(is_hide).map(|list| (list, "dom0's command line"));
    let lists: Vec<(String, &str)> =
        lists.chain(of_modprobe.into_iter().map(|list| (list, "/etc/modprobe.d"))).collect();
    let mut missing = Vec::new();
    for (list, place) in &lists {
        let Some(entries) = entries(list) else {
            return Check::failed(
                NAME,
                format!("xen-pciback does not understand hide={list} ({place}), and hides nothing or does not load"),
                "write (SSSS:BB:DD.F) for each device, without blanks: xen-pciback.hide=(0000:03:00.0)(0000:04:00.*)",
            );
        };
        missing.extend(
            entries.into_iter().filter(|entry| entry.parse().is_ok_and(|device: Sbdf| !host.sysfs.exists(device))),
        );
    }
    if !missing.is_empty() {
        let text = format!("no such device: {}, which xen-pciback shall hide", missing.join(", "));
        return Check::warning(NAME, text, "bus numbers change with the cards: `lspci -D` in dom0 shows them");
    }
    match lists.len() {
        0 => Check::ok(NAME, "nothing is hidden at boot"),
        _ => Check::ok(NAME, "xen-pciback understands the list, and its devices are there"),
    }
}

/// What files of modprobe say: `options xen-pciback hide=(…)`.
fn settings_of_modprobe(host: &Host) -> Vec<String> {
    let Ok(files) = fs::read_dir(host.root.join("etc/modprobe.d")) else { return Vec::new() };
    let mut lists = Vec::new();
    for file in files.flatten().filter(|file| file.path().extension().is_some_and(|end| end == "conf")) {
        for line in read(file.path()).lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some("options")
                && words.next().is_some_and(|name| name.replace('-', "_") == "xen_pciback")
            {
                lists.extend(words.filter_map(|word| word.strip_prefix("hide=")).map(str::to_owned));
            }
        }
    }
    lists
}

/// The addresses in a list, with their segments; `None` if it is none. A function, or a device with all its functions, may be `*`.
fn entries(list: &str) -> Option<Vec<String>> {
    let mut entries = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let (entry, behind) = rest.strip_prefix('(')?.split_once(')')?;
        let (bus, function) = entry.rsplit_once(':')?;
        let (segment, bus) = bus.split_once(':').unwrap_or(("0000", bus));
        let (device, function) = if function == "*" { ("0", "0") } else { function.split_once('.')? };
        let is_hex = |text: &str, digits: usize| {
            (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let is_function = function == "*" || matches!(function.as_bytes(), [b'0'..=b'7']);
        if !(is_hex(segment, 4) && is_hex(bus, 2) && is_hex(device, 2) && is_function) {
            return None;
        }
        let function = if function == "*" { "0" } else { function };
        entries.push(format!("{segment:0>4}:{bus:0>2}:{device:0>2}.{function}"));
        rest = behind;
    }
    (!entries.is_empty()).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_xen_pciback_reads_them() {
        for (list, want) in [
            ("(0000:03:00.0)", &["0000:03:00.0"][..]),
            ("(03:00.0)(1:2:3.4)", &["0000:03:00.0", "0001:02:03.4"]),
            ("(0000:04:00.*)(05:*)", &["0000:04:00.0", "0000:05:00.0"]),
        ] {
            assert_eq!(
                entries(list).as_deref(),
                Some(&want.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()[..]),
                "{list}"
            );
        }
        for bad in [
            "",
            "03:00.0",
            "(03:00.0",
            "(03:00.0),(04:00.0)",
            "(03:00)",
            "(03:00.8)",
            "(3g:00.0)",
            "(00000:03:00.0)",
            "()",
        ] {
            assert_eq!(entries(bad), None, "{bad}");
        }
    }
}
