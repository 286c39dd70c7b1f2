//! TCP echo that compares each byte.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{pattern::Pattern, process::wait_readable};

/// Where dom0 listens.
pub(crate) const PORT: u16 = 7777;
/// A connection on which nothing moves for so long is dead.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes a call.
const CHUNK: usize = 64 << 10;

/// `transfer ADDRESS SEED MIB`, in a guest: sends so much to dom0 and gets as much back.
pub(crate) fn from_guest(address: &str, seed: &str, mib: &str) -> Result<Vec<u8>> {
    let (seed, mib): (u64, u64) = (seed.parse()?, mib.parse()?);
    let started = Instant::now();
    let mut stream = prepared(TcpStream::connect((address, PORT))?)?;
    stream.write_all(&seed.to_le_bytes())?;
    stream.write_all(&mib.to_le_bytes())?;
    send(&mut stream, seed, mib)?;
    let sent = started.elapsed();
    receive(&mut stream, !seed, mib, |_| {})?;
    Ok(format!(
        "{mib} MiB sent in {:.1} s, received in {:.1} s",
        sent.as_secs_f64(),
        (started.elapsed() - sent).as_secs_f64()
    )
    .into())
}

/// The other end, in dom0, in a thread that ends with the connection.
pub(crate) struct Peer {
    thread: JoinHandle<Result<()>>,
    received: Arc<AtomicU64>,
}

impl Peer {
    /// Listens for one connection.
    pub(crate) fn listen() -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], PORT))).context("listening")?;
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        let thread = thread::spawn(move || {
            // A guest that never comes must not keep the port.
            ensure!(wait_readable(&listener, Instant::now() + 2 * PATIENCE)?, "nobody connected");
            let (stream, _) = listener.accept()?;
            serve(stream, &counter)
        });
        Ok(Self { thread, received })
    }

    /// Bytes that have arrived so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits for the end of a connection that was made.
    pub(crate) fn finish(self) -> Result<()> {
        self.thread.join().map_err(|_| anyhow!("the thread panicked"))?
    }
}

fn serve(stream: TcpStream, received: &AtomicU64) -> Result<()> {
    let mut stream = prepared(stream)?;
    let mut number = || -> Result<u64> {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    };
    let (seed, mib) = (number()?, number()?);
    receive(&mut stream, seed, mib, |count| {
        received.fetch_add(count, Ordering::Relaxed);
    })?;
    send(&mut stream, !seed, mib)
}

fn prepared(stream: TcpStream) -> Result<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send(stream: &mut TcpStream, seed: u64, mib: u64) -> Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut chunk = vec![0; CHUNK];
    for _ in 0..chunks(mib) {
        pattern.fill(&mut chunk);
        stream.write_all(&chunk).context("sending")?;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, seed: u64, mib: u64, arrived: impl Fn(u64)) -> Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut chunk = vec![0; CHUNK];
    for _ in 0..chunks(mib) {
        stream.read_exact(&mut chunk).context("receiving")?;
        pattern.check(&chunk)?;
        arrived(CHUNK as u64);
    }
    Ok(())
}

fn chunks(mib: u64) -> u64 {
    (mib << 20) / CHUNK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_compared() {
        let peer = Peer::listen().expect("a listener");
        let said = from_guest("127.0.0.1", "5", "1").expect("a transfer");
        assert!(said.starts_with(b"1 MiB sent"));
        assert_eq!(peer.received(), 1 << 20);
        peer.finish().expect("the same data");
    }
}
