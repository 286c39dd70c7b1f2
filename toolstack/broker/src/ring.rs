//! One stub's page and port.

use std::time::Duration;

use pcidom_abi::{BrokerCommand, PartVersion, paths};
use pciif::{BackendPage, ErrorCode, Reply};
use xen_types::{DomId, GrantRef, Port};

use super::execute::{self, KnownDevices, execute};
use super::failure::Failure;
use super::log::Log;
use dom0::Dom0;
use dom0::Error;
use dom0::xen::{HypercallError, Physdev, Rings};

/// Worth a line: a stub waits for a second and a half.
const LONG: Duration = Duration::from_millis(500);

/// A stub's announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    grant: GrantRef,
    port: Port,
}

impl Announced {
    /// Reads a stub's announcement; `None` when there is none, or none that makes sense: the stub may write anything. The version comes last.
    pub(crate) fn read(host: &Dom0, stub: DomId) -> Result<Option<(Self, PartVersion)>, Error> {
        let nodes = [paths::ring_ref_node(stub), paths::ring_port_node(stub), paths::version_node(stub)];
        let [grant, port, version] = host.read_many(nodes.each_ref().map(String::as_str))?;
        let number = |text: Option<String>| text?.parse().ok();
        let (Some(grant), Some(port), Some(version)) = (number(grant), number(port), version) else { return Ok(None) };
        Ok(Some((Self { grant: GrantRef(grant), port: Port(port) }, PartVersion::parse(&version))))
    }
}

/// A connection to a stub.
pub(crate) struct Ring<P> {
    stub: DomId,
    pub(crate) announced: Announced,
    pub(crate) port: Port,
    page: BackendPage<P>,
    /// There may be a request.
    pub(crate) look: bool,
    /// What is known of its devices.
    pub(crate) devices: KnownDevices,
}

impl<P: pciif::SharedPage> Ring<P> {
    /// Maps and binds what the stub announced, and tells it that we are here.
    pub(crate) fn connect<R: Rings<Page = P>>(
        rings: &R,
        stub: DomId,
        announced: Announced,
    ) -> Result<Self, HypercallError> {
        let page = BackendPage::new(rings.map(stub, announced.grant)?);
        let port = rings.bind(stub, announced.port)?;
        if let Err(error) = rings.notify(port) {
            rings.unbind(port)?;
            return Err(error);
        }
        Ok(Self { stub, announced, port, page, look: true, devices: KnownDevices::new() })
    }

    /// Answers the request that waits, if one does. Another one that comes meanwhile waits for the next turn: stubs take turns.
    pub(crate) fn serve<R: Rings<Page = P>>(&mut self, host: &Dom0, rings: &R, physdev: &dyn Physdev, log: &mut Log) {
        let Some(request) = self.page.take_request() else {
            self.look = false;
            return;
        };
        let entries = self.page.take_entries(&request);
        let begun = host.elapsed();
        let outcome = execute(host, physdev, self.stub, &request, entries.as_ref(), (&mut self.devices, begun));
        let took = host.elapsed() - begun;
        let device = execute::address(&request);
        // A stub that waits no longer may have published something else, which must not get this answer.
        if self.page.still_carries(&request) {
            match &outcome {
                Ok(answer) => {
                    let reply = Reply { err: ErrorCode::Success, value: answer.value, vectors: &answer.vectors };
                    self.page.reply_with_info(&request, reply, answer.info);
                }
                Err(failure) => {
                    let (code, errno) = execute::failed(failure);
                    self.page.reply_with_info(&request, Reply::error(code, 0), errno);
                }
            }
            if let Err(error) = rings.notify(self.port) {
                log.tell(host, self.stub, None, "cannot be told", Some(&error.to_string()));
            }
        }
        // Whoever reads the log does not wait for the answer.
        match &outcome {
            Ok(_) if request.cmd == BrokerCommand::EnableMsix.raw() => {
                log.tell(host, self.stub, device, "got MSI-X", None)
            }
            Ok(_) if request.cmd == BrokerCommand::EnableMsi.raw() => {
                log.tell(host, self.stub, device, "got MSI", None)
            }
            Ok(_) => {}
            // Of devices that are not its own it may name any number.
            Err(Failure::NotYours) => log.tell(host, self.stub, None, Failure::NotYours.reason(), None),
            Err(failure) => log.tell(host, self.stub, device, failure.reason(), failure.detail().as_deref()),
        }
        if took > LONG {
            let detail = format!("{request} took {} ms", took.as_millis());
            log.tell(host, self.stub, None, "had to wait", Some(&detail));
        }
        self.look = self.page.is_active();
    }
}
