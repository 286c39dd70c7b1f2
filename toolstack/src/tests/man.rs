//! The man pages describe what there is, all of it and nothing else.

use std::collections::BTreeSet;

use clap::CommandFactory as _;

use crate::cli::arguments::Cli;

const COMMAND: &str = include_str!("../../../docs/man/pcidom.8");
const CONFIGURATION: &str = include_str!("../../../docs/man/pcidom.cfg.5");

/// The text as a reader sees it, roughly.
fn plain(page: &str) -> String {
    let mut text = page.replace("\\-", "-");
    for font in ["\\fB", "\\fI", "\\fR"] {
        text = text.replace(font, "");
    }
    text
}

/// Options that begin a word in this text.
fn options(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| letter.is_whitespace() || "[]\",|".contains(letter));
    words.filter(|word| word.starts_with('-')).map(str::to_owned).filter(|word| word.len() > 1).collect()
}

/// Commands without subcommands, by their words.
fn commands() -> Vec<(String, clap::Command)> {
    let mut found = Vec::new();
    for command in Cli::command().get_subcommands() {
        let name = command.get_name().to_owned();
        if command.has_subcommands() {
            found
                .extend(command.get_subcommands().map(|inner| (format!("{name} {}", inner.get_name()), inner.clone())));
        } else {
            found.push((name, command.clone()));
        }
    }
    found
}

#[test]
fn every_command_has_its_section_with_every_option() {
    let page = plain(COMMAND);
    let commands = commands();
    let sections: Vec<&str> = page.split("\n.S").filter_map(|section| section.strip_prefix("S ")).collect();
    assert_eq!(sections.len(), commands.len());
    for (name, command) in commands {
        let section = sections
            .iter()
            .find(|section| section.strip_prefix(&name).is_some_and(|rest| rest.starts_with([' ', '\n'])));
        let section = section.unwrap_or_else(|| panic!("{name} has no section"));
        let mut known = BTreeSet::new();
        for argument in command.get_arguments() {
            known.extend(argument.get_short().map(|short| format!("-{short}")));
            known.extend(argument.get_long().map(|long| format!("--{long}")));
        }
        let (heading, body) = section.split_once('\n').unwrap();
        assert_eq!(options(body), known, "{name}");
        // The heading has each in one form.
        assert!(options(heading).is_subset(&known), "{name}: {heading}");
        for argument in command.get_arguments() {
            let forms = [
                argument.get_short().map(|short| format!("-{short}")),
                argument.get_long().map(|long| format!("--{long}")),
            ];
            let is_there =
                argument.is_positional() || forms.iter().flatten().any(|form| heading.contains(form.as_str()));
            assert!(is_there, "{name}: {} is not in {heading}", argument.get_id());
        }
    }
}

#[test]
fn global_options_and_exit_codes_are_described() {
    let page = plain(COMMAND);
    let (_, rest) = page.split_once(".SH OPTIONS").unwrap();
    let (global, _) = rest.split_once(".SH COMMANDS").unwrap();
    let known = ["-v", "--verbose", "-h", "--help", "-V", "--version"].map(str::to_owned);
    assert_eq!(options(global), BTreeSet::from(known));
    for code in 0..=4 {
        assert!(page.contains(&format!("\n.B {code}\n")), "{code}");
    }
    for page in [COMMAND, CONFIGURATION] {
        assert!(page.lines().next().unwrap().contains(&format!("pcidom {}", env!("CARGO_PKG_VERSION"))));
    }
}

/// `boot/src/options.rs` knows these words.
#[test]
fn every_word_of_the_stub_is_described() {
    let source = include_str!("../../../boot/src/options.rs");
    let page = plain(CONFIGURATION);
    for word in ["export", "config", "log"] {
        assert!(source.contains(&format!("(\"{word}\"")) && page.contains(&format!("{word}=")), "{word}");
    }
    assert_eq!(source.matches("Some((\"").count(), 3, "and no other");
    for mode in ["vpci", "slot", "passthrough"] {
        assert!(
            mode.parse::<pciback::topology::ExportMode>().is_ok() && page.contains(&format!("export={mode}")),
            "{mode}"
        );
    }
}

#[test]
fn the_example_is_the_one_that_is_installed() {
    let settings = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.split('#').next()?.split_once('='));
        lines.map(|(name, value)| format!("{}={}", name.trim(), value.trim())).collect()
    };
    let page = plain(CONFIGURATION);
    let (_, example) = page.split_once(".EX\n").unwrap();
    let (example, _) = example.split_once(".EE").unwrap();
    assert_eq!(settings(example), settings(include_str!("../../../examples/pcidom.cfg")));
}
