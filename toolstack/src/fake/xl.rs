//! A strict `xl`: it makes domains of sound configurations only, and only from such as name no device.

use std::cell::RefCell;
use std::path::Path;
use std::process::Child;
use std::rc::Rc;

use xen_types::DomId;

use super::World;
use crate::create::config::Config;
use crate::error::Error;
use crate::host::xl::Toolstack;

pub(crate) struct FakeXl(pub(crate) Rc<RefCell<World>>);

/// The id that the first guest without one of its own gets.
pub(crate) const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn refuse(what: &'static str, said: &str) -> Result<(), Error> {
    Err(Error::Xl { what, said: said.to_owned() })
}

/// `device_add`: QEMU looks for a device where the stub domain sees it, and needs all rights.
fn add(
    world: &mut World,
    (guest, stub_domain): (DomId, DomId),
    address: &str,
    (driver, id): (&str, String),
) -> Result<(), String> {
    let device: xen_types::Sbdf = address.parse().unwrap();
    let is_theirs = pcidom_abi::PoolState::Assigned(stub_domain).text();
    let is_there = world.value(&pcidom_abi::paths::pool_state_node(super::STUB, device)) == Some(&is_theirs)
        && world.value(&xenstore::path::child(&xenstore::path::frontend_dir(stub_domain), "state")) == Some("4");
    let has_rights = [guest, stub_domain].iter().all(|domain| {
        world.iomem.iter().any(|(other, _)| other == domain) && world.irqs.iter().any(|(other, _)| other == domain)
    });
    if !is_there || !has_rights || world.owners.get(&device) != Some(&guest) {
        return Err("Could not open the device".to_owned());
    }
    if driver != "xen-pci-passthrough" || !world.plugged.insert((guest, id.clone())) {
        world.violations.push(format!("device_add of {id} by {driver}"));
    }
    Ok(())
}

/// `device_del`.
fn remove(world: &mut World, guest: DomId, id: String) -> Result<(), String> {
    if !world.plugged.contains(&(guest, id.clone())) {
        return Err(format!("Device '{id}' not found"));
    }
    if !world.device_model.asked.insert((guest, id.clone())) {
        return Err(format!("Device {id} is already in the process of unplug"));
    }
    if !world.guest.keeps {
        world.device_model.asked.remove(&(guest, id.clone()));
        world.plugged.remove(&(guest, id));
        // As QEMU does, which knows the device's interrupt; here it is that of the last one.
        if !world.plugged.iter().any(|(other, _)| *other == guest) {
            world.pirqs.retain(|(domain, _)| *domain != guest);
        }
    }
    Ok(())
}

impl Toolstack for FakeXl {
    fn new_uuid(&self) -> Result<String, Error> {
        let guests = self.0.borrow().paths().filter(|path| path.ends_with("/vm")).count();
        Ok(format!("{guests}{}", UUID.trim_start_matches('0')))
    }

    fn create_paused(&self, config: &[u8], uuid: &str, source: &str, options: &[&str]) -> Result<(), Error> {
        let config = Config::parse(config.to_vec()).unwrap();
        assert_eq!(config.list("pci").unwrap(), [], "{source}");
        assert_eq!(config.text("uuid").unwrap().unwrap().to_ascii_lowercase(), uuid);
        let name = config.text("name").unwrap().unwrap();
        let meanwhile = self.0.borrow_mut().during_create.take();
        if let Some(meanwhile) = meanwhile {
            meanwhile(uuid);
        }
        let mut world = self.0.borrow_mut();
        world.xl_calls.push(format!("create {}", options.join(" ")));
        if world.change_fails() {
            return refuse("create", "failed (injected)");
        }
        if world.store.nodes().any(|(path, node)| path.ends_with("/name") && node.text() == Some(&name)) {
            return refuse("create", "Domain with name already exists");
        }
        let id = DomId(world.domains.keys().map(|id| id.0).max().unwrap() + 1);
        world.add_domain(id, &name);
        world.write(&format!("/local/domain/{id}/vm"), &format!("/vm/{uuid}"));
        world.domains.get_mut(&id).unwrap().paused = true;
        if config.text("passthrough").unwrap().as_deref() != Some("enabled") {
            world.passthrough.remove(&id);
        }
        if config.text("type").unwrap().as_deref() == Some("hvm") {
            assert!(config.flag("device_model_stubdomain_override").unwrap(), "{source}");
            world.add_stub_domain(id);
        }
        Ok(())
    }

    fn create_from(&self, file: &Path) -> Result<(), Error> {
        let config = Config::parse(std::fs::read(file).unwrap()).unwrap();
        let name = config.text("name").unwrap().unwrap();
        let mut world = self.0.borrow_mut();
        if world.change_fails() {
            return refuse("create", "failed (injected)");
        }
        let id = DomId(world.domains.keys().map(|id| id.0).max().unwrap() + 1);
        world.add_domain(id, &name);
        // A stub says so within milliseconds.
        world.write(&pcidom_abi::paths::version_node(id), pcidom_abi::ANNOUNCEMENT);
        Ok(())
    }

    fn is_creating(&self, _uuid: &str) -> bool {
        false
    }

    fn unpause(&self, domain: DomId) -> Result<(), Error> {
        let mut world = self.0.borrow_mut();
        if world.change_fails() {
            return refuse("unpause", "failed (injected)");
        }
        match world.domains.get_mut(&domain) {
            Some(info) => info.paused = false,
            None => world.violations.push(format!("unpause of {domain}")),
        }
        Ok(())
    }

    fn console(&self, domain: DomId) -> Result<Option<Child>, Error> {
        let mut world = self.0.borrow_mut();
        let is_paused = world.domains.get(&domain).is_some_and(|info| info.paused);
        world.xl_calls.push(format!("console of {domain}, which {}", if is_paused { "waits" } else { "runs" }));
        Ok(None)
    }

    fn device_model(&self, guest: DomId, command: &serde_json::Value) -> Result<serde_json::Value, String> {
        let mut world = self.0.borrow_mut();
        let Some(stub_domain) = world.stub_domains.get(&guest).copied() else { return Err("no socket".to_owned()) };
        if world.device_model.silent || !world.domains.contains_key(&stub_domain) {
            return Err("no answer for 20 s".to_owned());
        }
        let text = |key: &str| command["arguments"][key].as_str().unwrap_or_default().to_owned();
        let (id, name) = (text("id"), command["execute"].as_str().unwrap());
        if name != "query-pci" && world.change_fails() {
            return Err("failed (injected)".to_owned());
        }
        match name {
            "device_add" => add(&mut world, (guest, stub_domain), &text("hostaddr"), (&text("driver"), id))?,
            "device_del" => remove(&mut world, guest, id)?,
            "query-pci" => {
                let ids = world.plugged.iter().filter(|(other, _)| *other == guest).map(|(_, id)| id);
                let devices: Vec<_> = ids.map(|id| serde_json::json!({ "slot": 3, "qdev_id": id })).collect();
                return Ok(serde_json::json!([{ "bus": 0, "devices": devices }]));
            }
            _ => world.violations.push(format!("{command}")),
        }
        if let Some(act) = world.after_device_model.take() {
            act(&mut world);
        }
        match std::mem::take(&mut world.device_model.loses_answer) {
            true => Err("no answer for 20 s".to_owned()),
            false => Ok(serde_json::json!({})),
        }
    }

    fn configuration(&self, domain: DomId) -> Option<serde_json::Value> {
        const ALL: &str =
            r#"{ "kernel": "/boot/vmlinuz", "cmdline": "iommu=soft", "type.pv": { "e820_host": "True" } }"#;
        let world = self.0.borrow();
        let passthrough = if world.passthrough.contains(&domain) { "sync_pt" } else { "disabled" };
        let build_info: serde_json::Value = serde_json::from_str(world.build_info.unwrap_or(ALL)).unwrap();
        Some(serde_json::json!([{ "config": { "c_info": { "passthrough": passthrough }, "b_info": build_info } }]))
    }

    fn messages(&self) -> Option<String> {
        let own = self.0.borrow().xen_messages.clone();
        Some(own.unwrap_or_else(|| {
            "(XEN) PCI: Using MCFG for segment 0000 bus 00-ff\n(XEN) I/O virtualisation enabled\n(XEN) Interrupt remapping enabled\n"
                .to_owned()
        }))
    }

    fn store_limits(&self) -> Option<String> {
        self.0.borrow().store_limits.clone()
    }

    fn command_line(&self) -> Option<String> {
        Some(self.0.borrow().xen_command_line.clone().unwrap_or_else(|| "dom0_mem=1G".to_owned()))
    }

    fn destroy(&self, domain: DomId) -> Result<(), Error> {
        let mut world = self.0.borrow_mut();
        if world.change_fails() {
            return refuse("destroy", "failed (injected)");
        }
        for domain in world.stub_domains.remove(&domain).into_iter().chain([domain]) {
            world.destroy(domain);
            world.passthrough.remove(&domain);
        }
        world.plugged.retain(|(guest, _)| *guest != domain);
        Ok(())
    }
}
