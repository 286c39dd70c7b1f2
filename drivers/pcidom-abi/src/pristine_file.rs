//! A function's saved configuration as its file has it, for those who write it.

use core::fmt;

use crate::{Identity, Payload, Pristine, SavedRegister};

impl fmt::Display for Pristine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { ids, class } = self.identity;
        writeln!(f, "identity:{ids:x}:{class:x}")?;
        if let Some(Payload { at, port, port_at }) = self.payload {
            let port = u32::from(port.segment()) << 16 | u32::from(port.bus()) << 8 | u32::from(port.devfn());
            writeln!(f, "payload:{at:x}:{port:x}:{port_at:x}")?;
        }
        for SavedRegister { kind, offset, width, mask, value } in &self.registers {
            writeln!(f, "{}:{offset:x}:{:x}:{mask:x}:{value:x}", kind.name(), *width as u8)?;
        }
        Ok(())
    }
}
