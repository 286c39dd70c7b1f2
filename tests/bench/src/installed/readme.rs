//! The commands of the README's section for hosts.

use anyhow::{Context, Result, ensure};

/// The section's title.
const TITLE: &str = "## Use it on a Xen host";

/// The indented lines of the section that are for the host, each a command (they begin with `sudo`), without the comment behind it.
pub(super) fn host_commands(readme: &str) -> Result<Vec<String>> {
    let (_, rest) = readme.split_once(TITLE).with_context(|| format!("the README has no section {TITLE:?}"))?;
    let section = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    let commands: Vec<String> = section
        .lines()
        .filter_map(|line| {
            line.strip_prefix("    ").filter(|line| line.starts_with("sudo ") || line.contains("| sudo "))
        })
        .map(|line| line.split_once("  #").map_or(line, |(command, _)| command).trim_end().to_owned())
        .collect();
    ensure!(!commands.is_empty(), "the README's section {TITLE:?} has no commands");
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_word_for_word_from_their_section() {
        let readme = "# x\n\n    sudo other\n\n## Use it on a Xen host\n\nText.\n\n    make deb    # here\n    sudo apt install ./a_*.deb   # there\n\
                      \x20   echo 'a # b' | sudo tee -a /etc/f\n\n## Limits\n\n    sudo reboot\n";
        assert_eq!(host_commands(readme).unwrap(), ["sudo apt install ./a_*.deb", "echo 'a # b' | sudo tee -a /etc/f"]);
        assert!(host_commands("# x\n").is_err());
        assert!(host_commands("## Use it on a Xen host\n\nNothing.\n").is_err());
    }
}
