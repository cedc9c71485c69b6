//! Messages of the protocol as bytes, and which bytes of a server differ from one session to the next.

use std::fmt;

/// Type, length and body.
pub fn message(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    [&[kind], &length(body.len())[..], &body].concat()
}

fn length(body: usize) -> [u8; 4] {
    u32::try_from(body + 4).expect("a message's length").to_be_bytes()
}

/// `version=3.2` and parameters by name.
pub fn startup(words: &str) -> Vec<u8> {
    let mut version = (3_u16, 0_u16);
    let mut parameters = vec![("user", "corpus"), ("database", "corpus")];
    for word in words.split_whitespace() {
        let (name, value) = word.split_once('=').expect("name=value");
        let known = parameters.iter_mut().find(|(known, _)| *known == name);
        match (name, known) {
            ("version", _) => {
                let (major, minor) = value.split_once('.').expect("major.minor");
                version = (major.parse().expect("a number"), minor.parse().expect("a number"));
            }
            (_, Some(known)) => known.1 = value,
            _ => parameters.push((name, value)),
        }
    }
    let mut body = [version.0.to_be_bytes(), version.1.to_be_bytes()].concat();
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    [&length(body.len())[..], &body].concat()
}

/// SSLRequest and GSSENCRequest, which have 1234 in the place of a major version.
pub fn request(minor: u16) -> Vec<u8> {
    [&length(4)[..], &1234_u16.to_be_bytes(), &minor.to_be_bytes()].concat()
}

pub fn cancel(key: &[u8]) -> Vec<u8> {
    [&length(4 + key.len())[..], &1234_u16.to_be_bytes(), &5678_u16.to_be_bytes(), key].concat()
}

/// With all parameters as text, and all results in one format.
pub fn bind(portal: &str, statement: &str, values: &[Option<Vec<u8>>], results: u16) -> Vec<u8> {
    let head = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0", b"\0\0"].concat();
    message(b'B', &[&head, &arguments(values), &1_u16.to_be_bytes(), &results.to_be_bytes()])
}

/// FunctionCall, with text in and out.
pub fn call(oid: u32, values: &[Option<Vec<u8>>]) -> Vec<u8> {
    message(b'F', &[&oid.to_be_bytes(), b"\0\0", &arguments(values), b"\0\0"])
}

fn arguments(values: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut out = u16::try_from(values.len()).expect("few arguments").to_be_bytes().to_vec();
    for value in values {
        match value {
            Some(bytes) => out.extend([&u32::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat()),
            None => out.extend((-1_i32).to_be_bytes()),
        }
    }
    out
}

/// One message of a server. An answer of one byte has no body, and bytes that are no message have type 0.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// The first message of these bytes, and its length in all.
    pub fn read(bytes: &[u8]) -> Option<(Message, usize)> {
        let length = u32::from_be_bytes(bytes.get(1..5)?.try_into().ok()?) as usize;
        let body = bytes.get(5..length + 1)?.to_vec();
        Some((Message { kind: bytes[0], body }, length + 1))
    }

    pub fn holds(&self, text: &str) -> bool {
        text.is_empty() || self.body.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// With zeros where two sessions differ for no reason of the router's:
    ///
    /// * BackendKeyData; the salt of MD5; the server's half of SCRAM's nonce;
    /// * the pid in a NotificationResponse;
    /// * the OID of a table that was made in the conversation, in a RowDescription;
    /// * in a stream of WAL its end and the time;
    /// * where the conversation says so, values that are positions in the WAL.
    pub fn masked(mut self, masks_lsn: bool) -> Message {
        match self.kind {
            b'K' => self.body.fill(0),
            b'R' if self.body.starts_with(&[0, 0, 0, 5]) => self.body[4..].fill(0),
            b'R' if self.body.starts_with(&[0, 0, 0, 11]) => {
                let nonce_end = self.body.iter().position(|byte| *byte == b',').unwrap_or(4);
                self.body[4..nonce_end].fill(0);
            }
            b'A' => self.body[..4].fill(0),
            b'T' => mask_tables(&mut self.body),
            b'd' if self.body.first() == Some(&b'w') => self.body[9..25].fill(0),
            b'D' if masks_lsn => self.body = mask_lsn(&self.body),
            _ => {}
        }
        self
    }
}

/// The first OID that is not the system's own (src/include/access/transam.h, `FirstNormalObjectId`).
const FIRST_NORMAL_OID: u32 = 16384;

fn mask_tables(body: &mut [u8]) {
    let mut at = 2;
    while let Some(name) = body[at..].iter().position(|byte| *byte == 0) {
        let oid = at + name + 1;
        let number = u32::from_be_bytes(body[oid..oid + 4].try_into().expect("four bytes"));
        if number >= FIRST_NORMAL_OID {
            body[oid..oid + 4].fill(0);
        }
        at = oid + 18;
    }
}

fn mask_lsn(body: &[u8]) -> Vec<u8> {
    let mut out = body[..2].to_vec();
    let mut rest = &body[2..];
    while let Some((length, after)) = rest.split_at_checked(4) {
        let length = i32::from_be_bytes(length.try_into().expect("four bytes"));
        let (value, after) = after.split_at(usize::try_from(length).unwrap_or(0));
        let halves = std::str::from_utf8(value).ok().and_then(|text| text.split_once('/'));
        let is_hex = |half: &str| !half.is_empty() && half.bytes().all(|byte| byte.is_ascii_hexdigit());
        if halves.is_some_and(|(high, low)| is_hex(high) && is_hex(low)) {
            out.extend(b"lsn");
        } else {
            out.extend([&length.to_be_bytes()[..], value].concat());
        }
        rest = after;
    }
    out
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(300)];
        write!(f, "{} ({} bytes) {}", char::from(self.kind), self.body.len(), shown.escape_ascii())
    }
}
