//! Fake kernel: Linux's reactions to writes to sysfs.

use std::io;
use std::path::Path;

use fakes::{FakeKernel, ResetOutcome, World};

use crate::sysfs::Writes;

/// There is no such reset.
const ENOTTY: i32 = 25;

fn no_device() -> io::Error {
    io::Error::from_raw_os_error(19) // ENODEV
}

impl Writes for FakeKernel {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        if self.world.borrow_mut().change_fails() {
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        let attribute = path.file_name().unwrap().to_str().unwrap();
        let driver = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let link = format!("bus/pci/devices/{text}/driver");
        let bound = std::fs::read_link(self.tree.path().join(&link)).ok();
        let is_bound_here = bound.as_ref().is_some_and(|target| target.ends_with(driver));
        match attribute {
            "unbind" if is_bound_here => std::fs::remove_file(self.tree.path().join(&link)),
            "bind"
                if bound.is_none()
                    && may_have(self, text, driver)
                    && (driver != "pciback" || slots(self).iter().any(|slot| slot == text)) =>
            {
                self.tree.link(&link, &format!("../../drivers/{driver}"));
                Ok(())
            }
            "new_slot" => {
                let mut slots = slots(self);
                slots.push(text.to_owned());
                set_slots(self, slots)
            }
            "remove_slot" => {
                let mut slots = slots(self);
                slots.retain(|slot| slot != text);
                set_slots(self, slots)
            }
            // An empty line ends it.
            "driver_override" => {
                std::fs::write(path, if text.trim().is_empty() { "(null)\n".to_owned() } else { format!("{text}\n") })
            }
            // Linux restores the registers after it.
            "reset" => {
                let mut world = self.world.borrow_mut();
                if world.hanging_resets.remove(driver) {
                    world.resetting.insert(driver.to_owned());
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let config = path.with_file_name("config");
                let methods = std::fs::read_to_string(path.with_file_name("reset_method")).unwrap_or_default();
                let mut ended = Err(io::Error::from_raw_os_error(ENOTTY));
                // The next one is tried where one says that there is no such thing (`__pci_reset_function_locked`).
                for method in if methods.is_empty() { vec![""] } else { methods.split_whitespace().collect() } {
                    ended = reset_by(&mut world, driver, method, &config);
                    if ended.as_ref().err().and_then(io::Error::raw_os_error) != Some(ENOTTY) {
                        break;
                    }
                }
                ended?;
                world.resets.push(driver.to_owned());
                if world.lost_by_reset.remove(driver) {
                    std::fs::rename(&config, config.with_extension("lost"))?;
                }
                Ok(())
            }
            "reset_method" if path.exists() => std::fs::write(path, format!("{text}\n")),
            _ => Err(no_device()),
        }
    }
}

/// One method of a device's reset.
fn reset_by(world: &mut World, device: &str, method: &str, config: &Path) -> io::Result<()> {
    let silent = config.with_extension("silent");
    match world.reset_outcomes.get(&(device.to_owned(), method.to_owned())) {
        Some(ResetOutcome::Error(errno)) => return Err(io::Error::from_raw_os_error(*errno)),
        Some(ResetOutcome::Ones) => {
            if !silent.exists() {
                std::fs::copy(config, &silent)?;
            }
            return std::fs::write(config, [0xff; 4096]);
        }
        None if silent.exists() => std::fs::rename(silent, config)?,
        None => {}
    }
    if let Some(change) = world.after_reset {
        let mut bytes = std::fs::read(config)?;
        change(&mut bytes);
        std::fs::write(config, bytes)?;
    }
    Ok(())
}

/// What `driver_override` says.
fn may_have(kernel: &FakeKernel, device: &str, driver: &str) -> bool {
    let path = kernel.tree.path().join(format!("bus/pci/devices/{device}/driver_override"));
    let wanted = std::fs::read_to_string(path).unwrap_or_default();
    matches!(wanted.trim(), "" | "(null)") || wanted.trim() == driver
}

fn slots_path(kernel: &FakeKernel) -> std::path::PathBuf {
    kernel.tree.path().join("bus/pci/drivers/pciback/slots")
}

fn slots(kernel: &FakeKernel) -> Vec<String> {
    std::fs::read_to_string(slots_path(kernel)).unwrap().lines().map(str::to_owned).collect()
}

fn set_slots(kernel: &FakeKernel, mut slots: Vec<String>) -> io::Result<()> {
    slots.sort_unstable();
    std::fs::write(slots_path(kernel), slots.iter().map(|slot| format!("{slot}\n")).collect::<String>())
}
