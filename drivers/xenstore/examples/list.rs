//! Lists a directory of xenstore with the values, through `/dev/xen/xenbus` (dom0 or any Linux guest, as root).

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use xenstore::{Nodes as _, Store, StoreError, Transport, path};

/// The kernel takes one request at a time and answers before it takes the next.
struct Device(File);

impl Transport for Device {
    type Error = io::Error;

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    /// Waits without end: a program with deadlines polls the file first.
    fn receive(&mut self, buffer: &mut [u8], _deadline_ns: Option<u64>) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

fn list(store: &mut Store<Device>, directory: &str) -> Result<(), StoreError<io::Error>> {
    // One consistent picture, however often others write meanwhile.
    let nodes = store.transaction(|transaction| {
        let mut nodes = Vec::new();
        for name in transaction.directory(directory)?.unwrap_or_default() {
            let value = transaction.read(&path::child(directory, &name))?;
            nodes.push((name, value.unwrap_or_default()));
        }
        Ok::<_, StoreError<io::Error>>(nodes)
    })?;
    for (name, value) in nodes {
        println!("{name} = {value:?}");
    }
    Ok(())
}

fn main() -> ExitCode {
    let directory = std::env::args().nth(1).unwrap_or_else(|| path::DOMAINS.to_owned());
    let device = match File::options().read(true).write(true).open("/dev/xen/xenbus") {
        Ok(device) => device,
        Err(error) => {
            eprintln!("/dev/xen/xenbus: {error}");
            return ExitCode::FAILURE;
        }
    };
    match list(&mut Store::new(Device(device)), &directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{directory}: {error}");
            ExitCode::FAILURE
        }
    }
}
