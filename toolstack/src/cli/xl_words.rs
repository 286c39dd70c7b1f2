//! What users of `xl` may write that is spelled otherwise here, or has no place here, each with what to write instead or the reason
//! (xl(1) of Xen 4.17 and 4.20).

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands of xl about PCI devices, and ours.
pub(crate) const COMMANDS: [(&str, &str); 6] = [
    ("pci-attach", "attach"),
    ("pci-detach", "detach"),
    ("pci-list", "list"),
    ("pci-assignable-add", "assignable add"),
    ("pci-assignable-remove", "assignable remove"),
    ("pci-assignable-list", "assignable list"),
];

/// Options of xl that are not taken, and why.
pub(crate) const NOT_TAKEN: [(&str, &str); 4] = [
    ("-N", "each command that changes something has --dry-run, behind its name"),
    (
        "-f",
        "xl means xend with it, of which no supported release of Xen knows; detach and create have a -f of their own",
    ),
    ("-t", "progress is shown on one line where standard error is a terminal, and not at all elsewhere"),
    ("-T", "-v prints the milliseconds since the start with each step"),
];

/// What is to be said besides about a command line that was refused.
pub(crate) fn explain(error: &clap::Error) -> Option<String> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let find = |table: &[(&str, &'static str)], wanted: &str| {
        table.iter().find(|(word, _)| *word == wanted).map(|(_, other)| *other)
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = word(ContextKind::InvalidSubcommand)?;
            find(&COMMANDS, word).map(|ours| format!("what xl has as {word} is `pcidom {ours}`"))
        }
        ErrorKind::UnknownArgument => {
            let word = word(ContextKind::InvalidArg)?;
            find(&NOT_TAKEN, word).map(|why| format!("xl's {word} has no place here: {why}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::process::Command;

    use clap::Parser as _;

    use crate::cli::arguments::Cli;

    /// Every option that xl(1) of Xen 4.17 and 4.20 has for its commands about PCI devices and for `create`, and its global ones (of no command);
    /// and how they are written here. Those of `*` are named by `xl help create` only.
    const OPTIONS: [(&str, &str, Option<&str>); 24] = [
        ("", "-v", Some("-v list")),
        ("", "-N", None),
        ("", "-f", None),
        ("", "-t", None),
        ("", "-T", None),
        ("create", "-q", Some("create -q web.cfg")),
        ("create", "--quiet", Some("create --quiet web.cfg")),
        ("create", "-f", Some("create -f web.cfg memory=64")),
        ("create", "--defconfig", Some("create --defconfig=web.cfg")),
        ("create", "-p", Some("create -p web.cfg")),
        ("create", "-F", Some("create -F web.cfg")),
        ("create", "-V", Some("create -V web.cfg")),
        ("create", "--vncviewer", Some("create --vncviewer web.cfg")),
        ("create", "-A", Some("create -A web.cfg")),
        ("create", "--vncviewer-autopass", Some("create --vncviewer-autopass web.cfg")),
        ("create", "-c", Some("create -c web.cfg")),
        ("create", "key", Some("create web.cfg memory=64;vcpus=2")),
        ("create*", "-n", Some("create -n web.cfg")),
        ("create*", "-d", Some("create -d web.cfg")),
        ("create*", "-e", Some("create -e web.cfg")),
        ("pci-detach", "-f", Some("detach -f web 00:05.0")),
        ("pci-assignable-list", "-n", Some("assignable list -n")),
        ("pci-assignable-add", "-n", Some("assignable add -n disk 00:05.0")),
        ("pci-assignable-remove", "-r", Some("assignable remove -r disk")),
    ];

    fn is_ours(command: &str) -> bool {
        command.is_empty() || command == "create" || COMMANDS.iter().any(|(theirs, _)| *theirs == command)
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["pcidom"].into_iter().chain(line.split(' ')))
    }

    #[test]
    fn every_option_of_xl_is_taken_or_told_by_name() {
        for (command, option, line) in OPTIONS {
            match line {
                Some(line) => drop(parse(line).unwrap_or_else(|error| panic!("xl {command} {option}: {error}"))),
                None => {
                    let error = parse(&format!("{option} list")).unwrap_err();
                    let told = explain(&error).unwrap_or_else(|| panic!("nothing is said of {option}"));
                    assert!(told.starts_with(&format!("xl's {option} ")), "{told}");
                }
            }
        }
        for (theirs, ours) in COMMANDS {
            let told = explain(&parse(theirs).unwrap_err()).unwrap();
            assert_eq!(told, format!("what xl has as {theirs} is `pcidom {ours}`"));
        }
        assert_eq!(explain(&parse("--colour list").unwrap_err()), None);
    }

    /// (command, option) pairs in a page that pod2man made: each command and each option is an index entry.
    fn read_page(page: &str) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        let mut command = String::new();
        for line in page.lines() {
            if line == r#".IX Header "GLOBAL OPTIONS""# {
                command.clear();
                continue;
            }
            let Some(item) = line.strip_prefix(".IX Item \"").and_then(|item| item.strip_suffix('"')) else { continue };
            if item.starts_with('-') || item == "key=value" {
                let forms = item.split(", ").map(|form| form.split([' ', '=']).next().unwrap_or(form).to_owned());
                found.extend(forms.map(|form| (command.clone(), form)));
            } else {
                let mut words = item.split([' ', '[', ']']).filter(|word| !word.is_empty());
                command = words.next().unwrap_or_default().to_owned();
                let short = words.filter(|word| word.len() == 2 && word.starts_with('-'));
                found.extend(short.map(|option| (command.clone(), option.to_owned())));
            }
        }
        found.retain(|(command, _)| is_ours(command));
        found
    }

    /// The names of xl's options by Debian's release: 12 has Xen 4.17, 13 has 4.20.
    const NAMES: &str = include_str!("xl_options.txt");

    fn names(release: &str) -> BTreeSet<(String, String)> {
        let of_release = NAMES.lines().filter_map(|line| line.strip_prefix(release)?.strip_prefix(": "));
        let split = |line: &str| {
            let (command, option) = line.rsplit_once(' ').unwrap_or(("", line));
            (command.to_owned(), option.to_owned())
        };
        of_release.map(split).collect()
    }

    /// xl's manual pages as the bench has unpacked them (`tests/bench`), by Debian's release.
    fn pages() -> Vec<(String, String)> {
        let bench = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../build/bench");
        let read = |release: &str| {
            let path = bench.join(format!("debian-{release}/root/usr/share/man/man1/xl.1.gz"));
            let output = path.exists().then(|| Command::new("gzip").arg("-dc").arg(path).output().unwrap())?;
            Some((release.to_owned(), String::from_utf8_lossy(&output.stdout).into_owned()))
        };
        ["12", "13"].into_iter().filter_map(read).collect()
    }

    #[test]
    fn the_list_is_what_xls_own_manual_has() {
        let listed: BTreeSet<_> = OPTIONS
            .into_iter()
            .filter(|(command, ..)| !command.ends_with('*'))
            .map(|(command, option, _)| (command.to_owned(), option.to_owned()))
            .collect();
        for release in ["12", "13"] {
            assert_eq!(names(release), listed, "xl of Debian {release}");
        }
        for (release, page) in pages() {
            assert_eq!(read_page(&page), names(&release), "xl_options.txt, Debian {release}");
        }
    }

    #[test]
    fn a_manual_page_is_read_by_its_index() {
        let page = "\
.IX Header \"GLOBAL OPTIONS\"
.IX Item \"-v\"
.IX Item \"create [configfile] [OPTIONS]\"
.IX Item \"-q, --quiet\"
.IX Item \"-f=FILE, --defconfig=FILE\"
.IX Item \"key=value\"
.IX Item \"destroy [OPTIONS] domain-id\"
.IX Item \"-x\"
.IX Item \"pci-assignable-add [-n NAME] BDF\"
";
        let found: Vec<String> =
            read_page(page).into_iter().map(|(command, option)| format!("{command} {option}")).collect();
        let want = [
            " -v",
            "create --defconfig",
            "create --quiet",
            "create -f",
            "create -q",
            "create key",
            "pci-assignable-add -n",
        ];
        assert_eq!(found, want);
    }
}
