//! The wire format, implemented independently of the `xenstore` crate from `xs_wire.h`, so that a mistake in either shows.

/// `XENSTORE_PAYLOAD_MAX`.
pub(super) const PAYLOAD_MAX: usize = 4096;

/// `enum xsd_sockmsg_type`.
pub(super) mod kind {
    pub(crate) const DIRECTORY: u32 = 1;
    pub(crate) const READ: u32 = 2;
    pub(crate) const GET_PERMS: u32 = 3;
    pub(crate) const WATCH: u32 = 4;
    pub(crate) const UNWATCH: u32 = 5;
    pub(crate) const TRANSACTION_START: u32 = 6;
    pub(crate) const TRANSACTION_END: u32 = 7;
    pub(crate) const GET_DOMAIN_PATH: u32 = 10;
    pub(crate) const WRITE: u32 = 11;
    pub(crate) const MKDIR: u32 = 12;
    pub(crate) const RM: u32 = 13;
    pub(crate) const SET_PERMS: u32 = 14;
    pub(crate) const WATCH_EVENT: u32 = 15;
    pub(crate) const ERROR: u32 = 16;
    pub(crate) const RESET_WATCHES: u32 = 21;
    pub(crate) const DIRECTORY_PART: u32 = 22;
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) kind: u32,
    pub(super) req_id: u32,
    pub(super) tx_id: u32,
}

/// Takes a whole message from the front of `input`, if there is one.
pub(super) fn take(input: &mut Vec<u8>) -> Option<(Header, Vec<u8>)> {
    let word = |index: usize| {
        let bytes = input.get(index * 4..index * 4 + 4)?;
        bytes.try_into().ok().map(u32::from_le_bytes)
    };
    let header = Header { kind: word(0)?, req_id: word(1)?, tx_id: word(2)? };
    let length = usize::try_from(word(3)?).ok()?;
    assert!(length <= PAYLOAD_MAX, "a request of {length} bytes");
    if input.len() < 16 + length {
        return None;
    }
    let payload = input[16..16 + length].to_vec();
    input.drain(..16 + length);
    Some((header, payload))
}

pub(super) fn encode(kind: u32, req_id: u32, tx_id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("payloads are short");
    let mut bytes = Vec::with_capacity(16 + payload.len());
    for word in [kind, req_id, tx_id, length] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn event(path: &str, token: &str) -> Vec<u8> {
    encode(kind::WATCH_EVENT, 0, 0, format!("{path}\0{token}\0").as_bytes())
}

/// The strings of a payload, each ended by a NUL (the last perhaps not).
pub(super) fn strings(payload: &[u8]) -> Vec<&str> {
    let payload = payload.strip_suffix(&[0]).unwrap_or(payload);
    payload.split(|byte| *byte == 0).map(|part| std::str::from_utf8(part).unwrap_or_default()).collect()
}

pub(super) fn behind_first_nul(payload: &[u8]) -> &[u8] {
    let nul = payload.iter().position(|byte| *byte == 0);
    nul.and_then(|nul| payload.get(nul + 1..)).unwrap_or_default()
}

pub(super) fn is_valid_path(path: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
    path.len() <= 3072
        && path.bytes().all(good)
        && !path.contains("//")
        && (path == "/" || !path.ends_with('/'))
        && path.starts_with(['/', '@'])
}
