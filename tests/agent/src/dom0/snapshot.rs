//! The state of Xen and xenstore, to be compared with what it was before.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::{devices::ALL, fixture::Fixture, guests::Domain};

/// State that must be the same after a domain has come and gone.
pub(crate) struct Snapshot {
    /// One line per fact: a xenstore node with its value, a grant, an event channel, a right, a device's driver.
    lines: BTreeSet<String>,
}

impl Snapshot {
    /// Looks at everything. The grants and event channels are those of `stub`, the rights those of all domains.
    pub(crate) fn take(fixture: &Fixture, stub: &Domain) -> Result<Self> {
        let mut lines = BTreeSet::new();
        // -f: whole paths; -p: permissions.
        let nodes = fixture.run("xenstore-ls", &["-f", "-p"])?;
        // Not what the cases themselves say to guests.
        lines.extend(nodes.lines().filter(|line| !line.contains("/data/bench/")).map(str::to_owned));
        let channels = fixture.run("lsevtchn", &[&stub.id.to_string()])?;
        lines.extend(channels.lines().map(|line| format!("event channel of the stub: {}", line.trim())));
        lines.extend(debug_key(fixture, "g")?.into_iter().filter_map(|line| grant(&line)));
        lines.extend(rights(&debug_key(fixture, "q")?));
        for device in ALL {
            let driver = std::fs::read_link(format!("/sys/bus/pci/devices/{device}/driver")).unwrap_or_default();
            lines.insert(format!("{device} is with {}", driver.display()));
        }
        Ok(Self { lines })
    }

    /// Fails with what is different in `later`.
    pub(crate) fn compare(&self, later: &Self) -> Result<()> {
        self.compare_but(later, &[])
    }

    /// As [`Snapshot::compare`], but for facts with one of these words in them.
    pub(crate) fn compare_but(&self, later: &Self, changing: &[&str]) -> Result<()> {
        let gone = self.lines.difference(&later.lines).map(|fact| format!("no longer: {fact}"));
        let new = later.lines.difference(&self.lines).map(|fact| format!("new: {fact}"));
        let counts = |fact: &String| !changing.iter().any(|word| fact.contains(word));
        let all: Vec<String> = gone.chain(new).filter(counts).collect();
        if !all.is_empty() {
            bail!("{}", all.join("; "));
        }
        Ok(())
    }
}

/// What Xen prints for a debug key.
pub(crate) fn debug_key(fixture: &Fixture, key: &str) -> Result<Vec<String>> {
    fixture.xl(&["dmesg", "-c"])?;
    fixture.xl(&["debug-keys", key])?;
    let text = fixture.xl(&["dmesg"])?;
    Ok(text.lines().map(|line| line.trim_start_matches("(XEN)").trim().to_owned()).collect())
}

/// An active entry of a grant table, for the key `g`; headings and counters do not count.
fn grant(line: &str) -> Option<String> {
    // [ref] localdom mfn pin … as numbers.
    line.starts_with('[').then(|| format!("grant: {line}"))
}

/// The rights of all domains, from the "Rangesets belonging to domain N" parts of the key `q`.
pub(crate) fn rights(lines: &[String]) -> Vec<String> {
    let mut owner = None;
    let mut rights = Vec::new();
    for line in lines {
        if let Some(domain) = line.strip_prefix("Rangesets belonging to ") {
            owner = Some(domain.trim_end_matches(':'));
        } else if let Some(owner) = owner.filter(|_| line.contains('{')) {
            rights.push(format!("rights of {owner}: {line}"));
        } else {
            owner = None;
        }
    }
    rights
}
