//! QMP, by which a device model is asked: JSON, a message a line (QEMU, `docs/interop/qmp-spec.txt`).

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// How long a device model may take for one command. One in a stub domain answers through a channel that its own start takes seconds to open.
const PATIENCE: Duration = Duration::from_secs(20);
/// Messages before an answer: events. More are no answer.
const MESSAGES: usize = 1000;
/// The longest message.
const LINE_BYTES: u64 = 1 << 20;

/// Carries out one command on a connection of its own. What it returned, or what was said instead.
pub(super) fn execute(socket: &Path, command: &Value) -> Result<Value, String> {
    execute_within(PATIENCE, socket, command)
}

fn execute_within(patience: Duration, socket: &Path, command: &Value) -> Result<Value, String> {
    let (socket, command) = (socket.to_owned(), command.clone());
    // The other side is a stub domain: no connection, no byte for long, and a byte now and then are all the same after this time.
    let (sender, receiver) = mpsc::channel();
    let (connected, connection) = mpsc::channel();
    thread::spawn(move || sender.send(talk(&socket, &command, &connected)));
    receiver.recv_timeout(patience).unwrap_or_else(|_| {
        // The next question would wait behind this one.
        if let Ok(stream) = connection.try_recv() {
            let _ = stream.shutdown(Shutdown::Both); // it may have ended just now
        }
        Err(format!("no answer for {} s", patience.as_secs()))
    })
}

/// `connected` gets the connection as soon as there is one.
fn talk(socket: &Path, command: &Value, connected: &mpsc::Sender<UnixStream>) -> Result<Value, String> {
    let stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
    let other = stream.try_clone().map_err(|error| error.to_string())?;
    connected.send(other).map_err(|error| error.to_string())?;
    let limit = |stream: &UnixStream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))
    };
    limit(&stream).map_err(|error| error.to_string())?;
    let mut reader = BufReader::new(&stream);
    converse(&mut reader, &mut &stream, command)
}

/// The conversation: a greeting, the agreement on no capabilities, the command.
fn converse(reader: &mut impl BufRead, writer: &mut impl Write, command: &Value) -> Result<Value, String> {
    await_message(reader, |message| message.get("QMP").is_some().then_some(Ok(Value::Null)))?;
    for command in [&json!({ "execute": "qmp_capabilities" }), command] {
        writer.write_all(format!("{command}\r\n").as_bytes()).map_err(|error| error.to_string())?;
        let answer = await_message(reader, |message| {
            if let Some(error) = message.get("error") {
                let said = error.get("desc").and_then(Value::as_str).unwrap_or("an error without words");
                return Some(Err(said.to_owned()));
            }
            message.get("return").cloned().map(Ok)
        })?;
        if command.get("execute").and_then(Value::as_str) != Some("qmp_capabilities") {
            return Ok(answer);
        }
    }
    Err("nothing was asked".to_owned())
}

/// Reads messages until one is what is waited for. Others are events.
fn await_message(
    reader: &mut impl BufRead,
    is_it: impl Fn(&Value) -> Option<Result<Value, String>>,
) -> Result<Value, String> {
    for _ in 0..MESSAGES {
        let mut line = Vec::new();
        let read = io::Read::take(&mut *reader, LINE_BYTES).read_until(b'\n', &mut line);
        match read.map_err(|error| format!("no answer: {error}"))? {
            0 => return Err("it closed the connection".to_owned()),
            _ if line.iter().all(u8::is_ascii_whitespace) => continue,
            _ => {}
        }
        let message: Value =
            serde_json::from_slice(&line).map_err(|error| format!("its answer is no JSON: {error}"))?;
        if let Some(answer) = is_it(&message) {
            return answer;
        }
    }
    Err("it said much, and nothing of that was an answer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n{\"return\": {}}\r\n";

    fn ask(said: &str) -> (Result<Value, String>, String) {
        let mut written = Vec::new();
        let answer = converse(&mut said.as_bytes(), &mut written, &json!({ "execute": "query-pci" }));
        (answer, String::from_utf8(written).unwrap())
    }

    #[test]
    fn a_command_is_answered_between_events() {
        let (answer, written) = ask(&format!("{GREETING}\r\n{{\"event\": \"RESUME\"}}\r\n{{\"return\": [1]}}\r\n"));
        assert_eq!(answer, Ok(json!([1])));
        assert_eq!(written, "{\"execute\":\"qmp_capabilities\"}\r\n{\"execute\":\"query-pci\"}\r\n");
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for (said, want) in [
            ("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such device\"}}\n", "no such device"),
            ("{\"error\": 5}\n", "without words"),
            ("", "closed"),
            ("nonsense\n", "no JSON"),
            ("[]\n", "closed"),
        ] {
            let (answer, _) = ask(&format!("{GREETING}{said}"));
            assert!(answer.as_ref().unwrap_err().contains(want), "{said}: {answer:?}");
        }
        assert!(ask("").0.is_err());
        assert!(ask(&"{\"event\": 1}\n".repeat(2000)).0.unwrap_err().contains("much"));
    }

    #[test]
    fn one_that_says_a_byte_now_and_then_is_not_waited_for() {
        let socket = std::env::temp_dir().join(format!("pcidom-qmp-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let (ended, is_ended) = mpsc::channel();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
            ended.send(()).unwrap();
        });
        let error = execute_within(Duration::from_millis(200), &socket, &json!({})).unwrap_err();
        std::fs::remove_file(&socket).unwrap();
        assert!(error.starts_with("no answer"), "{error}");
        // The connection is closed: the next question does not wait behind it.
        is_ended.recv_timeout(Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_device_model_that_is_not_there_is_told_with_its_socket() {
        let error = execute(Path::new("/nonexistent/qmp-libxl-5"), &json!({})).unwrap_err();
        assert!(error.starts_with("/nonexistent/qmp-libxl-5: "), "{error}");
    }
}
