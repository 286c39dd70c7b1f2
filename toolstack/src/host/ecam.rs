//! Checks that Xen maps ECAM pages read-only for a backend. Xen does so for every MMCFG region that it uses; a region
//! that it does not know or use is ordinary memory to it.

use crate::host::Host;

/// Whether Xen protects the MMCFG regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// It uses all of them.
    Kept,
    /// Its command line says that it shall use none.
    Off,
    /// It uses none for this segment and these buses: `segment 0000 bus 00-3f`.
    Rejected(String),
    /// What it said when it booted is not there any more.
    Unknown,
}

impl Protection {
    /// Asks Xen for its command line and its messages.
    pub(crate) fn find(host: &Host) -> Self {
        if is_off(&host.xl.command_line().unwrap_or_default()) {
            return Self::Off;
        }
        of_messages(&host.xl.messages().unwrap_or_default())
    }

    /// The problem in words, if there is one.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self {
            Self::Kept | Self::Unknown => None,
            Self::Off => Some("Xen was booted with mmcfg=0".to_owned()),
            Self::Rejected(what) => Some(format!("Xen does not use the MMCFG window of {what}")),
        }
    }
}

/// `mmcfg=` takes a boolean and other words, and `no-mmcfg` is the same as `mmcfg=no` (`docs/misc/xen-command-line.pandoc`). The last one counts.
fn is_off(command_line: &str) -> bool {
    const OFF: [&str; 5] = ["0", "no", "off", "false", "disable"];
    let mut off = false;
    for word in command_line.split_whitespace() {
        match word.strip_prefix("mmcfg=") {
            Some(values) if values.split(',').any(|value| OFF.contains(&value)) => off = true,
            Some(_) => off = false,
            None if word == "no-mmcfg" => off = true,
            None => {}
        }
    }
    off
}

/// Xen says of each window whether it uses it, and once more when dom0's kernel has told it about one (`xen/arch/x86/x86_64/mmconfig*.c`).
fn of_messages(messages: &str) -> Protection {
    let mut windows: Vec<(&str, bool)> = Vec::new();
    for line in messages.lines() {
        let (what, used) = match (line.split_once("PCI: Using MCFG for "), line.split_once("PCI: Not using MCFG for "))
        {
            (Some((_, what)), _) => (what.trim(), true),
            (None, Some((_, what))) => (what.trim(), false),
            (None, None) if line.contains("PCI: Not using MMCONFIG") => ("any segment", false),
            (None, None) => continue,
        };
        windows.retain(|(known, _)| *known != what && !(used && *known == "any segment"));
        windows.push((what, used));
    }
    match windows.iter().find(|(_, used)| !used) {
        Some((what, _)) => Protection::Rejected((*what).to_owned()),
        None if windows.is_empty() => Protection::Unknown,
        None => Protection::Kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_turns_it_off_in_several_ways() {
        for off in [
            "mmcfg=0",
            "dom0_mem=1G mmcfg=no console=vga",
            "mmcfg=off",
            "no-mmcfg",
            "mmcfg=amd-fam10,0",
            "mmcfg mmcfg=false",
        ] {
            assert!(is_off(off), "{off}");
        }
        for on in ["", "mmcfg", "mmcfg=1", "mmcfg=amd-fam10", "mmcfg=0 mmcfg=1", "xmmcfg=0", "extra_mmcfg=0"] {
            assert!(!is_off(on), "{on}");
        }
    }

    #[test]
    fn the_messages_tell_of_each_window() {
        let using =
            "(XEN) PCI: MCFG area at b0000000 reserved in E820\n(XEN) PCI: Using MCFG for segment 0000 bus 00-ff\n";
        let not_using = "(XEN) PCI: MCFG area at e0000000 is not reserved in E820\n(XEN) PCI: Not using MCFG for segment 0001 bus 00-3f\n";
        assert_eq!(of_messages(using), Protection::Kept);
        let rejected = Protection::Rejected("segment 0001 bus 00-3f".to_owned());
        assert_eq!(of_messages(&format!("{using}{not_using}")), rejected);
        // dom0's kernel has told it later.
        let later = "(XEN) PCI: Using MCFG for segment 0001 bus 00-3f\n";
        assert_eq!(of_messages(&format!("{using}{not_using}{later}")), Protection::Kept);
        assert_eq!(of_messages("(XEN) PCI: Not using MMCONFIG.\n"), Protection::Rejected("any segment".to_owned()));
        assert_eq!(of_messages(&format!("(XEN) PCI: Not using MMCONFIG.\n{using}")), Protection::Kept);
        assert_eq!(of_messages("(XEN) Interrupt remapping enabled\n"), Protection::Unknown);
    }
}
