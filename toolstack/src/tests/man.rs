//! The configuration's manual page describes what there is. `toolstack/manual` has the tests of the command's.

const CONFIGURATION: &str = include_str!("../../../docs/man/pcidom.cfg.5");

/// The text as a reader sees it, roughly.
fn plain(page: &str) -> String {
    let mut text = page.replace("\\-", "-");
    for font in ["\\fB", "\\fI", "\\fR"] {
        text = text.replace(font, "");
    }
    text
}

#[test]
fn the_page_is_of_this_release() {
    assert!(CONFIGURATION.lines().next().unwrap().contains(&format!("pcidom {}", env!("CARGO_PKG_VERSION"))));
}

/// `boot/src/options.rs` knows these words.
#[test]
fn every_word_of_the_stub_is_described() {
    let source = include_str!("../../../boot/src/options.rs");
    let page = plain(CONFIGURATION);
    for word in ["export", "config", "log", "restart"] {
        assert!(source.contains(&format!("strip_prefix(\"{word}=\")")) && page.contains(&format!("{word}=")), "{word}");
    }
    assert_eq!(source.matches("strip_prefix(").count(), 4, "and no other");
    for word in ["limited", "always", "never"] {
        assert!(source.contains(&format!("\"{word}\"")) && page.contains(word), "{word}");
    }
    for mode in ["vpci", "slot", "passthrough"] {
        assert!(mode.parse::<pcidom_abi::ExportMode>().is_ok() && page.contains(&format!("export={mode}")), "{mode}");
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

#[test]
fn every_exit_cause_is_in_the_manual() {
    use crate::error::ExitCause::{BrokerRuns, Failed, GuestSilent, NotPermitted, Usage};
    let codes: Vec<u8> = crate::manual::EXIT_CODES.iter().map(|(code, _)| *code).collect();
    let causes = [Failed, Usage, GuestSilent, NotPermitted, BrokerRuns].map(|cause| cause as u8);
    assert_eq!(codes, [&[0], &causes[..]].concat());
}
