//! `pcidom completions`: scripts that complete the command's words in a shell.

use std::io::Write as _;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::arguments::Cli;

/// Prints the script. It needs no host.
pub(crate) fn print(shell: Shell) {
    // A pipe that nobody reads to its end is no error.
    let _ = std::io::stdout().write_all(&script(shell));
}

fn script(shell: Shell) -> Vec<u8> {
    let mut command = Cli::command();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "pcidom", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_every_command_and_option() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell)).unwrap();
            for word in [
                "attach",
                "detach",
                "create",
                "assignable",
                "doctor",
                "show",
                "status",
                "completions",
                "backend",
                "repair",
                "restart",
                "upgrade",
                "force",
            ] {
                assert!(script.contains(word), "{shell}: no {word}");
            }
        }
    }
}
