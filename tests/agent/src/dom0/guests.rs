//! Linux guests: creating them, and having them do things.

use std::{fmt::Write, fs, time::Instant};

use anyhow::{Context, Result, bail, ensure};

pub(crate) use super::domain::Domain;
use super::{devices::component, fixture::Fixture};

/// Options of a guest. The defaults are those of a guest that pcidom can serve.
#[derive(Clone, Copy)]
pub(crate) struct GuestOptions {
    /// Prepared for devices by `passthrough=`.
    pub(crate) passthrough: bool,
    /// Modules that it loads first.
    pub(crate) modules: &'static str,
    /// Its `on_reboot=`.
    pub(crate) on_reboot: &'static str,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self { passthrough: true, modules: "xen-pcifront", on_reboot: "destroy" }
    }
}

/// Has Linux boot in half the time under emulation: no return thunks to patch in, no page tables to search for writable code, no
/// self-tests of ciphers, and 16 MiB for bounce buffers instead of 64.
const SOONER: &str = "mitigations=off rodata=off cryptomgr.notests swiotlb=8192";

/// Memory of a guest in MiB: what it needs, and no more, because Xen, the domain builder and an audit go through every page of it.
const GUEST_MIB: u32 = 192;

/// The command line of a guest's kernel, for an agent that loads these modules first.
pub(crate) fn command_line(modules: &str) -> String {
    format!("console=hvc0 iommu=soft quiet loglevel=5 {SOONER} bench.load={modules}")
}

/// The example that users start from, without the settings that begin with one of these.
pub(crate) fn example_without(settings: &[&str]) -> Result<String> {
    let example = fs::read_to_string("/etc/xen/guest.cfg")?;
    let kept = example.lines().filter(|line| !settings.iter().any(|setting| line.starts_with(setting)));
    Ok(kept.flat_map(|line| [line, "\n"]).collect())
}

/// A command that a guest is doing. A guest does one at a time.
pub(crate) struct Request {
    guest: Domain,
    number: String,
    command: String,
}

impl Request {
    /// Who does it.
    pub(crate) fn guest(&self) -> &Domain {
        &self.guest
    }
}

impl Fixture {
    /// Creates a guest and leaves it paused.
    pub(crate) fn create_guest(&mut self, name: &str, options: GuestOptions) -> Result<Domain> {
        let without: &[&str] = if options.passthrough { &[] } else { &["passthrough"] };
        let mut config = example_without(without)?;
        // What comes later counts.
        write!(
            config,
            "memory = {GUEST_MIB}\nname = \"{name}\"\nextra = \"{}\"\n\
             on_reboot = \"{}\"\non_crash = \"destroy\"\n",
            command_line(options.modules),
            options.on_reboot
        )?;
        self.create_paused(name, &config)
    }

    /// Creates a domain from the text of its configuration and leaves it paused. One of this name that an earlier case left is ended.
    pub(crate) fn create_paused(&mut self, name: &str, config: &str) -> Result<Domain> {
        if let Some(earlier) = self.domains.iter().find(|domain| domain.name == name).cloned() {
            self.destroy(&earlier)?;
            self.pcidom(&["reclaim"])?;
        }
        let file = format!("/tmp/{name}.cfg");
        fs::write(&file, config)?;
        self.xl(&["create", "-p", &file])?;
        self.adopt(name)
    }

    /// The domain of this name, which was made just now.
    pub(crate) fn adopt(&mut self, name: &str) -> Result<Domain> {
        let domain = self.find(name)?.with_context(|| format!("{name} was created and is not there"))?;
        self.domains.push(domain.clone());
        Ok(domain)
    }

    /// The domain of this name, if there is one; the youngest, where one of the same name is going.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Domain>> {
        let mut found: Option<Domain> = None;
        for id in self.store.children("/local/domain")? {
            let domain = Domain { name: name.to_owned(), id: id.parse()? };
            let is_younger = found.as_ref().is_none_or(|found| found.id < domain.id);
            if is_younger && self.store.text(&domain.node("name"))?.as_deref() == Some(name) {
                found = Some(domain);
            }
        }
        Ok(found)
    }

    /// Lets a guest run and waits until it takes commands.
    pub(crate) fn unpause(&mut self, guest: &Domain) -> Result<()> {
        self.xl(&["unpause", &guest.name])?;
        let deadline = self.deadline;
        let started = Instant::now();
        self.store.wait_for(&guest.node("data/bench/ready"), deadline, |value| value.is_some())?;
        println!("agent: {} took {} ms to boot", guest.name, started.elapsed().as_millis());
        Ok(())
    }

    /// Has a guest start a command, and does not wait for it.
    pub(crate) fn ask(&mut self, guest: &Domain, command: &str) -> Result<Request> {
        self.requests += 1;
        let number = self.requests.to_string();
        let node = guest.node("data/bench/request");
        self.store.write(&node, format!("{number} {command}").as_bytes())?;
        Ok(Request { guest: guest.clone(), number, command: command.to_owned() })
    }

    /// Whether a guest has not ended a command yet.
    pub(crate) fn is_at_work(&mut self, request: &Request) -> Result<bool> {
        let done = self.store.text(&request.guest.node("data/bench/done"))?.unwrap_or_default();
        Ok(done.split(' ').next() != Some(&request.number))
    }

    /// Waits for the end of a command and returns its exit code and output.
    pub(crate) fn answer(&mut self, request: &Request) -> Result<(i32, Vec<u8>)> {
        let Request { guest, number, command } = request;
        let dir = guest.node("data/bench");
        let deadline = self.deadline;
        let ours = |value: Option<&str>| value.and_then(|value| value.split(' ').next()) == Some(number);
        let done = self.store.wait_for(&format!("{dir}/done"), deadline, ours);
        let done = done.with_context(|| format!("{} did not answer {command:?}", guest.name))?.unwrap_or_default();
        let words: Vec<&str> = done.split(' ').collect();
        let [_, code, pieces] = words[..] else { bail!("{} answered {done:?}", guest.name) };
        let mut output = Vec::new();
        for piece in 0..pieces.parse()? {
            output.extend(self.store.bytes(&format!("{dir}/output/{piece}"))?.context("a piece of output is missing")?);
        }
        self.store.remove(&format!("{dir}/output"))?;
        Ok((code.parse()?, output))
    }

    /// Waits for the end of a command, which must succeed, and returns its output.
    pub(crate) fn answer_well(&mut self, request: &Request) -> Result<Vec<u8>> {
        let (code, output) = self.answer(request)?;
        let Request { guest, command, .. } = request;
        ensure!(code == 0, "{command:?} in {} ended with {code}: {}", guest.name, String::from_utf8_lossy(&output));
        Ok(output)
    }

    /// Runs a command in a guest, which must succeed, and returns its output.
    pub(crate) fn in_guest(&mut self, guest: &Domain, command: &str) -> Result<Vec<u8>> {
        let request = self.ask(guest, command)?;
        self.answer_well(&request)
    }

    /// Ends the guest that has a device, if one has it.
    pub(crate) fn free(&mut self, device: &str) -> Result<()> {
        let owner = self.store.text(&format!("/tool/pcidom/device/{}/frontend", component(device)))?;
        let guest = self.domains.iter().find(|domain| owner.as_deref() == Some(&domain.id.to_string())).cloned();
        if let Some(guest) = guest {
            self.destroy(&guest)?;
            self.pcidom(&["reclaim"])?;
        }
        Ok(())
    }
}
