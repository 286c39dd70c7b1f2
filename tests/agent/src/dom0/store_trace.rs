//! Who writes what into xenstore, in order and with the time, as xenstored itself sees it.
//!
//! xenstored writes every message of every connection to its log file (C xenstored, `trace_io` in `tools/xenstore/xenstored_core.c`); its log
//! file is a pipe of ours for as long as a case wants to know. `IN 0x55d2c8 20261125 17:00:00 WRITE (PATH VALUE)`, since Xen 4.18
//! `io: IN 0x55d2c8 (d5) 20261125 …`: the number tells connections apart, and blanks stand for the zeros of the wire. Answers are `OUT`, in Xen 4.20 twice: `OUT(START)`
//! when the first byte of one is sent and `OUT(END)` after the last. Whose a connection is shows in what was asked for on it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use super::{fixture::Fixture, guests::Domain};

/// One of those who write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// The tool: nobody else in dom0 writes to the directories meanwhile.
    Tool,
    Guest,
    Stub,
}

/// A node was written, or removed (no value).
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) at: Duration,
    pub(crate) who: Who,
    pub(crate) path: String,
    pub(crate) value: Option<String>,
}

/// Where xenstored writes its log meanwhile.
const PIPE: &str = "/run/xenstored/trace";
/// What we write there ourselves when it is over.
const END: &str = "end";

/// One line, and when it came.
type Line = (Instant, String);

impl Fixture {
    /// What is written below `dirs` while `work` is done. Writes of one transaction count when it is committed.
    pub(crate) fn store_trace(
        &mut self,
        guest: &Domain,
        dirs: &[String],
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Vec<Write>> {
        let started = Instant::now();
        let stub = self.stub()?;
        let lines = self.trace(|fixture| {
            // Shows which connection is the guest's.
            fixture.in_guest(guest, "true")?;
            work(fixture)
        })?;
        let messages: Vec<Message> = lines.iter().filter_map(Message::parse).collect();
        let who = owners(&messages)?;
        let mut writes = Vec::new();
        for Done { at, connection, path, value } in committed(&messages) {
            let who = who(connection, path);
            let path = match who {
                Who::Tool => path.to_owned(),
                Who::Guest => guest.node(path),
                Who::Stub => stub.node(path),
            };
            if dirs.iter().any(|dir| path.starts_with(dir)) {
                let value = value.map(str::to_owned);
                writes.push(Write { at: at - started, who, path, value });
            }
        }
        Ok(writes)
    }

    fn trace(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<Vec<Line>> {
        if !fs::exists(PIPE)? {
            self.run("mkfifo", &[PIPE])?;
        }
        // Both ends at once, so that nobody waits for the other one to be opened.
        let pipe = OpenOptions::new().read(true).write(true).open(PIPE)?;
        let mut end = pipe.try_clone()?;
        let reader = thread::spawn(|| follow(pipe));
        self.control(["tracefile", "logfile"], PIPE)?;
        self.control(["trace", "log"], "on")?;
        let result = work(self);
        self.control(["trace", "log"], "off")?;
        self.control(["tracefile", "logfile"], "/dev/null")?;
        end.write_all(format!("{END}\n").as_bytes())?;
        let lines = reader.join().map_err(|_| anyhow!("the reader panicked"))?;
        result.map(|()| lines)
    }
}

impl Fixture {
    /// Tells xenstored something by a command that has one of these names (the first since Xen 4.18).
    fn control(&self, [name, old_name]: [&str; 2], value: &str) -> Result<()> {
        let done = self.run("xenstore-control", &[name, value]);
        done.or_else(|_| self.run("xenstore-control", &[old_name, value])).map(drop)
    }
}

/// Reads lines as fast as they come: xenstored waits for us.
fn follow(pipe: File) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let text = String::from_utf8_lossy(&line).into_owned();
        if text == END {
            break;
        }
        lines.push((Instant::now(), text));
    }
    lines
}

/// A message to or from xenstored.
struct Message<'a> {
    at: Instant,
    /// To xenstored.
    is_request: bool,
    connection: &'a str,
    kind: &'a str,
    words: &'a str,
}

impl<'a> Message<'a> {
    fn parse((at, line): &'a Line) -> Option<Self> {
        let mut rest = line.strip_prefix("io: ").unwrap_or(line);
        let mut next = || {
            let (word, more) = rest.split_once(' ')?;
            rest = more;
            Some(word)
        };
        let (direction, connection) = (next()?, next()?);
        // The domain, where that is told.
        let date = next()?;
        let date = if date.starts_with('(') { next()? } else { date };
        let (_time, kind) = (next()?, next()?);
        let is_message =
            matches!(direction, "IN" | "OUT" | "OUT(START)") && date.bytes().all(|byte| byte.is_ascii_digit());
        let words = rest.strip_prefix('(').filter(|_| is_message)?;
        Some(Self {
            at: *at,
            is_request: direction == "IN",
            connection,
            kind,
            words: words.strip_suffix(')').unwrap_or(words),
        })
    }
}

/// A change that has happened.
struct Done<'a> {
    at: Instant,
    connection: &'a str,
    path: &'a str,
    value: Option<&'a str>,
}

/// All writes and removals, those of transactions when they ended well.
fn committed<'a>(messages: &[Message<'a>]) -> Vec<Done<'a>> {
    let mut done = Vec::new();
    let mut open: BTreeMap<&str, Vec<Done<'a>>> = BTreeMap::new();
    for message in messages {
        let Message { at, is_request, connection, kind, words } = *message;
        let change = match (is_request, kind) {
            (true, "WRITE") => words.split_once(' ').map(|(path, value)| (path, Some(value))),
            (true, "RM") => Some((words.trim_end(), None)),
            _ => None,
        };
        if let Some((path, value)) = change {
            let change = Done { at, connection, path, value };
            open.get_mut(connection).unwrap_or(&mut done).push(change);
        }
        match (is_request, kind) {
            (true, "TRANSACTION_START") => drop(open.insert(connection, Vec::new())),
            (true, "TRANSACTION_END") if words.starts_with('F') => drop(open.remove(connection)),
            // The answer tells whether it happened: nothing else is answered to a connection in between that could be an error.
            (false, "TRANSACTION_END") => {
                let changes = open.remove(connection).unwrap_or_default();
                done.extend(changes.into_iter().map(|change| Done { at, ..change }));
            }
            (false, "ERROR") if words.starts_with("EAGAIN") => drop(open.remove(connection)),
            _ => {}
        }
    }
    done
}

/// Tells who has written a path on a connection. Guests and stub say paths from their own directories on, and the guest has just answered
/// a request; dom0 says whole ones.
fn owners<'a>(messages: &[Message<'a>]) -> Result<impl Fn(&str, &str) -> Who + use<'a>> {
    let answered = |message: &&Message<'a>| message.kind == "WRITE" && message.words.starts_with("data/bench/done ");
    let guest = messages.iter().find(answered).context("the guest has written nothing")?.connection;
    Ok(move |connection: &str, path: &str| match path.starts_with('/') {
        true => Who::Tool,
        false if connection == guest => Who::Guest,
        false => Who::Stub,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_each_release_writes_them() {
        for line in ["IN 0x2 20261125 17:00:00 WRITE (a (b) c)", "io: IN 0x2 (d5) 20261125 17:00:00 WRITE (a (b) c)"] {
            let line = (Instant::now(), line.to_owned());
            let message = Message::parse(&line).expect(&line.1);
            assert!(message.is_request);
            assert_eq!((message.connection, message.kind, message.words), ("0x2", "WRITE", "a (b) c"));
        }
        for line in [
            "OUT 0x2 20261125 17:00:00 TRANSACTION_END (OK )",
            "io: OUT 0x2 (d0) 20261125 17:00:00 TRANSACTION_END (OK )",
            "io: OUT(START) 0x2 (d0) 20261125 17:00:00 TRANSACTION_END (OK )",
        ] {
            let line = (Instant::now(), line.to_owned());
            let message = Message::parse(&line).expect(&line.1);
            assert!(!message.is_request);
            assert_eq!((message.connection, message.kind, message.words), ("0x2", "TRANSACTION_END", "OK "));
        }
        for line in [
            "CREATE connection 0x2",
            "obj: CREATE connection 0x2",
            "wrl: dom 1 (d1) 1 2 3 4 5",
            "",
            "io: OUT(END) 0x2 (d0) 20261125 17:00:00 TRANSACTION_END (OK )",
        ] {
            assert!(Message::parse(&(Instant::now(), line.to_owned())).is_none(), "{line}");
        }
    }

    #[test]
    fn writes_of_a_transaction_that_failed_have_not_happened() {
        let lines = [
            "IN 0x2 20261125 17:00:00 WRITE (data/bench/done 1 0 0)",
            "IN 0x3 20261125 17:00:00 TRANSACTION_START ( )",
            "OUT 0x3 20261125 17:00:00 TRANSACTION_START (17 )",
            "IN 0x3 20261125 17:00:00 WRITE (a 1)",
            "OUT 0x3 20261125 17:00:00 WRITE (OK )",
            "IN 0x2 20261125 17:00:00 WRITE (b 2)",
            "IN 0x3 20261125 17:00:00 TRANSACTION_END (T )",
            "OUT 0x3 20261125 17:00:00 ERROR (EAGAIN )",
            "IN 0x3 20261125 17:00:00 TRANSACTION_START ( )",
            "OUT 0x3 20261125 17:00:00 TRANSACTION_START (18 )",
            "IN 0x3 20261125 17:00:00 WRITE (a 1)",
            "IN 0x1 20261125 17:00:00 RM (/c )",
            "IN 0x3 20261125 17:00:00 TRANSACTION_END (T )",
            "OUT 0x3 20261125 17:00:00 TRANSACTION_END (OK )",
        ];
        let lines: Vec<Line> = lines.iter().map(|line| (Instant::now(), (*line).to_owned())).collect();
        let messages: Vec<Message> = lines.iter().filter_map(Message::parse).collect();
        let who = owners(&messages).expect("the guest is known");
        let done: Vec<_> = committed(&messages)
            .iter()
            .map(|done| (who(done.connection, done.path), done.path, done.value))
            .filter(|(_, path, _)| path.len() <= 2)
            .collect();
        assert_eq!(done, [(Who::Guest, "b", Some("2")), (Who::Tool, "/c", None), (Who::Stub, "a", Some("1"))]);
    }
}
