//! The units that are shipped agree with the command that they start.

use clap::Parser as _;

use crate::cli::arguments::{Cli, Command, Reclaiming};
use crate::error::{Error, HostError};
use crate::host::lock;

const BROKER: &str = include_str!("../../../dist/pcidom.service");
const BACKEND: &str = include_str!("../../../dist/pcidom-backend.service");
const GUESTS: &str = include_str!("../../../dist/pcidom-guests.service");
const TRIGGER: &str = include_str!("../../../dist/pcidom-reclaim.path");
const RECLAIM: &str = include_str!("../../../dist/pcidom-reclaim.service");

/// The last value of a setting.
fn setting<'a>(unit: &'a str, name: &str) -> &'a str {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.next_back().unwrap_or_else(|| panic!("there is no {name}="))
}

fn started(unit: &str) -> Command {
    Cli::parse_from(setting(unit, "ExecStart").split(' ')).command
}

#[test]
fn each_unit_starts_its_command() {
    assert!(matches!(started(BROKER), Command::Serve { reclaim: Reclaiming::Trigger, .. }));
    assert!(matches!(started(RECLAIM), Command::Reclaim { dry_run: false, .. }));
    let Command::Backend(backend) = started(BACKEND) else { panic!("not the driver domain") };
    assert_eq!((backend.config.to_str(), backend.release), (Some("/etc/xen/pcidom.cfg"), false));
    let Command::Autostart { folder, .. } = started(GUESTS) else { panic!("not the guests") };
    assert_eq!(folder.to_str(), Some(setting(GUESTS, "ConditionDirectoryNotEmpty")));
}

#[test]
fn guests_start_after_the_driver_domain_and_before_those_of_xl() {
    for unit in [BACKEND, GUESTS] {
        assert_eq!(setting(unit, "Before"), "xendomains.service");
    }
    assert!(setting(BACKEND, "After").split(' ').any(|unit| unit == "pcidom.service"));
    for unit in ["pcidom-backend.service", "network-online.target", "remote-fs.target"] {
        assert!(setting(GUESTS, "After").split(' ').any(|other| other == unit), "{unit}");
    }
    assert_eq!((setting(BACKEND, "Type"), setting(BACKEND, "Restart")), ("notify", "on-failure"));
    assert_eq!(setting(BACKEND, "StartLimitIntervalSec"), "0", "it never gives up");
}

#[test]
fn a_second_broker_is_not_started_again_and_again() {
    let code = Error::BrokerRuns(None).cause() as u8;
    assert_eq!(setting(BROKER, "RestartPreventExitStatus"), code.to_string());
    assert_ne!(code, Error::from(HostError::NoHost(String::new())).cause() as u8, "what is not there yet may come");
    assert_eq!(Error::BrokerRuns(Some(7)).to_string(), "another broker is running (process 7)");
}

#[test]
fn what_is_asked_for_is_taken_up_and_ended() {
    let request = lock::reclaim_request();
    assert_eq!(request.to_str(), Some(setting(TRIGGER, "PathExists")));
    assert_eq!(setting(RECLAIM, "ExecStopPost"), format!("/bin/rm -f {}", request.display()));
    assert_eq!(setting(BROKER, "RuntimeDirectory"), "pcidom");
    assert_eq!(setting(BROKER, "Wants"), "pcidom-reclaim.path");
}

#[test]
fn the_broker_may_use_the_socket_of_xenstored() {
    assert!(setting(BROKER, "RestrictAddressFamilies").split(' ').any(|family| family == "AF_UNIX"));
}
