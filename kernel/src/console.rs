//! The console as the sink of `log`: the PV ring (`xen/include/public/io/console.h`), or `CONSOLEIO_write` for the initial domain.
//!
//! Logging never waits: a line that does not fit into the ring is dropped and counted, and the next line that fits says how many
//! were lost. Only a panic waits for the ring to drain ([`flush`]).

use crate::hypercall::{hypercall5, number};
use crate::ring::ByteRing;
use crate::{clock, events, memory, start_info};
use core::fmt::{self, Write};
use core::ptr::NonNull;
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;
use xen_types::Port;

/// Longest line, time and level included; the rest is cut.
const LINE: usize = 240;

enum Output {
    /// Before [`init`].
    Nothing,
    Ring {
        ring: ByteRing,
        port: Port,
    },
    Hypervisor,
}

struct Console {
    output: Output,
    lost_lines: u32,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console { output: Output::Nothing, lost_lines: 0 });

/// A line being put together, cut at its end.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; LINE], len: 0 }
    }

    fn finish(&mut self) -> &[u8] {
        // Two bytes are kept free for this by `write_str`.
        for byte in *b"\r\n" {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..LINE - 2).unwrap_or_default();
        for (place, byte) in room.iter_mut().zip(text.bytes()) {
            // Control characters would let the text's source (a guest's key, a device) write lines of its own.
            *place = if byte.is_ascii_control() { b'?' } else { byte };
            self.len += 1;
        }
        Ok(())
    }
}

impl Console {
    fn write_line(&mut self, line: &mut Line) {
        if self.lost_lines > 0 {
            let mut note = Line::new();
            let _ = write!(note, "[{} lines lost: console ring was full]", self.lost_lines);
            if !self.output.write_whole(note.finish()) {
                self.lost_lines = self.lost_lines.saturating_add(1);
                return;
            }
            self.lost_lines = 0;
        }
        if !self.output.write_whole(line.finish()) {
            self.lost_lines = self.lost_lines.saturating_add(1);
        }
    }
}

impl Output {
    /// Writes all of `bytes` or nothing.
    fn write_whole(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Nothing => true,
            Self::Ring { ring, port } => {
                let fits = ring.space() >= bytes.len();
                if fits {
                    ring.write(bytes);
                    // A port that dom0 closed only means that it is not read.
                    let _ = events::notify(*port);
                }
                fits
            }
            Self::Hypervisor => {
                let (len, pointer) = (bytes.len() as u64, bytes.as_ptr() as u64);
                // SAFETY: Xen reads `len` bytes at `pointer` (CONSOLEIO_write, xen.h).
                let _ =
                    unsafe { hypercall5(number::CONSOLE_IO, u64::from(xen_sys::CONSOLEIO_write), len, pointer, 0, 0) };
                true
            }
        }
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let time_us = clock::now_ns() / 1000;
        let level = match record.level() {
            Level::Error => "ERROR",
            Level::Warn => "WARN ",
            Level::Info => "INFO ",
            Level::Debug => "DEBUG",
            Level::Trace => "TRACE",
        };
        let mut line = Line::new();
        let _ = write!(line, "[{:5}.{:06}] {level} {}", time_us / 1_000_000, time_us % 1_000_000, record.args());
        // A panic while the lock is held must not hang in its own crash dump.
        if let Some(mut console) = CONSOLE.try_lock() {
            console.write_line(&mut line);
        }
    }

    fn flush(&self) {}
}

/// Finds the console and makes it the sink of `log`, at level Info.
pub(crate) fn init() {
    let info = start_info::get();
    let output = match info.console {
        _ if info.is_initial_domain => Output::Hypervisor,
        None => Output::Nothing,
        Some((mfn, port)) => match memory::address_of_own_mfn(mfn).and_then(|address| NonNull::new(address as *mut u8))
        {
            // SAFETY: the builder's console page, in the linear mapping for ever, below the heap; offsets of io/console.h:
            // in[1024], out[2048], in_cons 3072, in_prod 3076, out_cons 3080, out_prod 3084.
            Some(page) => Output::Ring { ring: unsafe { ByteRing::new(page, 1024, 2048, 3080, 3084) }, port },
            None => Output::Nothing,
        },
    };
    CONSOLE.lock().output = output;
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Waits until the other end has taken everything, at most `patience_ns`. For crash dumps.
pub fn flush(patience_ns: u64) {
    const STEP_NS: u64 = 1_000_000;
    let end = clock::now_ns() + patience_ns;
    while clock::now_ns() < end {
        let Some(console) = CONSOLE.try_lock() else { return };
        match &console.output {
            Output::Ring { ring, .. } if !ring.is_empty() => {}
            _ => return,
        }
        drop(console);
        let _ = events::wait(&[], Some(clock::now_ns() + STEP_NS));
    }
}

/// Takes the lock from its holder: the panic handler runs on the same CPU, so the holder will never go on.
#[cfg(not(test))]
pub(crate) fn break_lock() {
    if CONSOLE.is_locked() {
        // SAFETY: one vCPU, and the code that holds the lock never resumes (a panic ends in SCHEDOP_shutdown).
        unsafe { CONSOLE.force_unlock() };
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn lines_are_cut_and_cannot_forge_other_lines() {
        let mut line = Line::new();
        write!(line, "a\r\n[    0.000001] ERROR forged\u{7}").unwrap();
        assert_eq!(line.finish(), b"a??[    0.000001] ERROR forged?\r\n");
        let mut line = Line::new();
        write!(line, "{}", "x".repeat(1000)).unwrap();
        assert_eq!(line.finish().len(), LINE);
        assert!(line.bytes.ends_with(b"x\r\n"));
    }
}
