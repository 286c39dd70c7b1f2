//! The page: the template with what the command line's definitions say.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use clap::{Arg, Command};
use pcidom::manual::{DEVICE_KEYS, ERROR_CODES, EXIT_CODES, command_line};

use crate::roff;

/// Fills the template in.
///
/// # Errors
/// A line asks for something that there is not, or a command has no section, no list of options, or two.
pub(crate) fn fill(template: &str) -> Result<String> {
    let mut root = command_line();
    root.build();
    let commands = leaves(&root);
    let mut page = String::new();
    let mut filled = BTreeSet::new();
    for (number, line) in (1..).zip(template.lines()) {
        let Some(directive) = line.strip_prefix('@') else {
            writeln!(page, "{}", line.replace("@VERSION@", root.get_version().unwrap_or_default()))?;
            continue;
        };
        ensure!(filled.insert(directive), "line {number}: @{directive} is there twice");
        let find = |name: &str| {
            let found = commands.iter().find(|(known, _)| known == name);
            found.with_context(|| format!("line {number}: there is no command {name:?}"))
        };
        page += &match directive.split_once(' ').unwrap_or((directive, "")) {
            ("command", name) => section(name, find(name)?.1),
            ("options", name) => options(own_options(find(name)?.1)),
            ("global", "") => options(root.get_arguments()),
            ("keys", "") => DEVICE_KEYS
                .iter()
                .map(|(key, meaning)| roff::entry(&roff::bold(key), &roff::sentence(meaning)))
                .collect(),
            ("exit-codes", "") => EXIT_CODES
                .iter()
                .map(|(code, meaning)| roff::entry(&roff::bold(&code.to_string()), &roff::sentence(meaning)))
                .collect(),
            ("error-codes", "") => ERROR_CODES
                .iter()
                .map(|(code, meaning)| roff::entry(&roff::bold(code), &roff::sentence(meaning)))
                .collect(),
            _ => anyhow::bail!("line {number}: @{directive} means nothing"),
        };
    }
    for (name, command) in &commands {
        ensure!(filled.contains(format!("command {name}").as_str()), "the command {name} has no section");
        let is_described = filled.contains(format!("options {name}").as_str()) || own_options(command).next().is_none();
        ensure!(is_described, "the options of {name} are not described");
    }
    for list in ["global", "keys", "exit-codes", "error-codes"] {
        ensure!(filled.contains(list), "@{list} is missing");
    }
    Ok(page)
}

/// Commands without subcommands, by their words.
fn leaves(root: &Command) -> Vec<(String, &Command)> {
    let mut found = Vec::new();
    for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name().to_owned();
        if command.has_subcommands() {
            let inner = command.get_subcommands().filter(|command| command.get_name() != "help");
            found.extend(inner.map(|inner| (format!("{name} {}", inner.get_name()), inner)));
        } else {
            found.push((name, command));
        }
    }
    found
}

/// The options of one command; those of all commands are described once.
fn own_options(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|argument| !argument.is_positional() && !argument.is_global_set() && argument.get_id() != "help")
}

fn section(name: &str, command: &Command) -> String {
    let mut heading = name.to_owned();
    for argument in own_options(command) {
        let _ = write!(heading, " [{}", forms(argument).next().unwrap_or_default());
        let _ = value(argument).map(|value| write!(heading, " {value}"));
        heading.push(']');
    }
    for argument in command.get_positionals() {
        let word = value(argument).unwrap_or_default();
        let dots = if argument.get_num_args().is_some_and(|count| count.max_values() > 1) { "..." } else { "" };
        let word = if argument.is_required_set() { word } else { format!("[{word}]") };
        let _ = write!(heading, " {word}{dots}");
    }
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    format!(".SS {}\n{}\n", roff::text(&heading), roff::sentence(&about))
}

/// `-f`, `--force`, and other names that are no secret.
fn forms(argument: &Arg) -> impl Iterator<Item = String> {
    let short = argument.get_short().map(|letter| format!("-{letter}"));
    let aliases = argument.get_visible_aliases().unwrap_or_default();
    short.into_iter().chain(argument.get_long().into_iter().chain(aliases).map(|word| format!("--{word}")))
}

/// What the user replaces, or the words to choose from where nothing explains them.
fn value(argument: &Arg) -> Option<String> {
    let choices = argument.get_possible_values();
    if argument.is_positional() && !choices.is_empty() {
        return Some(choices.iter().map(|choice| choice.get_name()).collect::<Vec<_>>().join("|"));
    }
    if !argument.get_action().takes_values() {
        return None;
    }
    let names = argument.get_value_names().unwrap_or_default();
    names.first().map(ToString::to_string)
}

fn options<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    arguments.map(option).collect()
}

fn option(argument: &Arg) -> String {
    let mut tag = forms(argument).map(|form| roff::bold(&form)).collect::<Vec<_>>().join(", ");
    let mut meaning =
        roff::sentence(&argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default());
    if let Some(value) = value(argument) {
        let _ = write!(tag, " {}", roff::italic(&value));
        if let [default] = argument.get_default_values() {
            let _ = write!(meaning, " The default is {}.", roff::bold(&default.to_string_lossy()));
        }
        let choices = argument.get_possible_values();
        let explained = choices.iter().filter_map(|choice| Some((choice.get_name(), choice.get_help()?.to_string())));
        let explained: String =
            explained.map(|(word, help)| roff::entry(&roff::bold(word), &roff::sentence(&help))).collect();
        if !explained.is_empty() {
            let _ = write!(meaning, "\n.RS\n{explained}.RE");
        }
    }
    roff::entry(&tag, &meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = include_str!("../../../docs/man/pcidom.8.in");

    /// The template without the lines that begin so.
    fn without(line: &str) -> String {
        let kept = TEMPLATE.lines().filter(|other| *other != line);
        kept.flat_map(|line| [line, "\n"]).collect()
    }

    #[test]
    fn every_command_option_key_and_exit_code_is_in_the_page() {
        let page = fill(TEMPLATE).unwrap();
        let mut root = command_line();
        root.build();
        for (name, command) in leaves(&root) {
            assert_eq!(page.matches(&format!(".SS {}", roff::text(&name))).count(), 1, "{name}");
            for form in own_options(command).flat_map(forms) {
                assert!(page.contains(&roff::bold(&form)), "{name} {form}");
            }
        }
        for (key, _) in DEVICE_KEYS {
            assert!(page.contains(&roff::bold(key)), "{key}");
        }
        assert!(page.contains("pcidom 0."), "the release");
        assert!(page.is_ascii() && !page.contains("\n@"), "a line is not filled in");
    }

    #[test]
    fn a_section_has_the_arguments_in_one_line() {
        let page = fill(TEMPLATE).unwrap();
        for heading in [
            ".SS completions bash|zsh|fish",
            // An option with two names.
            "\\fB\\-\\-persistent\\fR, \\fB\\-\\-keep\\fR",
            ".SS show [\\-\\-json] BDF",
            ".SS list [\\-\\-json] [DOMAIN]",
            ".SS assignable list [\\-\\-json] [\\-n]",
        ] {
            assert!(page.lines().any(|line| line == heading), "{heading}");
        }
    }

    #[test]
    fn a_template_that_leaves_something_out_or_asks_for_nothing_known_is_an_error() {
        for (line, want) in [
            ("@command detach", "the command detach has no section"),
            ("@options assignable add", "the options of assignable add are not described"),
            ("@exit-codes", "@exit-codes is missing"),
        ] {
            assert_eq!(fill(&without(line)).unwrap_err().to_string(), want);
        }
        for line in ["@command assign", "@command list", "@nothing"] {
            assert!(fill(&format!("{TEMPLATE}{line}\n")).is_err(), "{line}");
        }
    }
}
