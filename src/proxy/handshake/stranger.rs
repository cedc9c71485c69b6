//! Who speaks something else than PostgreSQL's startup protocol: what it was, for whoever looks into the log,
//! and what it is told.

use crate::model::Reason;
use crate::proxy::client::NoRequest;
use crate::proxy::protocol::startup::{Malformed, STARTUP_BYTES_MAX};
use crate::proxy::protocol::words;

use super::Handshake;

/// Of what it sent, in the log.
const SHOWN_BYTES: usize = 32;

/// How well-known protocols begin, with what to do about it.
const BEGINNINGS: [(&[u8], &str); 13] = [
    (b"GET ", "HTTP"),
    (b"HEAD ", "HTTP"),
    (b"POST ", "HTTP"),
    (b"PUT ", "HTTP"),
    (b"OPTIONS ", "HTTP"),
    (b"CONNECT ", "HTTP"),
    (b"PRI * HTTP/2", "HTTP/2"),
    (b"PROXY ", "the PROXY protocol, which this router does not take; switch it off where the client sends it"),
    (b"\r\n\r\n\0\r\nQUIT\n", "the PROXY protocol, which this router does not take; switch it off where it is sent"),
    (b"SSH-", "SSH"),
    (b"*1\r\n", "Redis"),
    (b"X\0\0\0\x04", "a Terminate before any StartupMessage"),
    (b"Q\0", "a Query before any StartupMessage"),
];

/// Why there is no packet to act upon.
pub(super) enum Unheard {
    None(NoRequest),
    Ended(Reason),
}

impl From<NoRequest> for Unheard {
    fn from(none: NoRequest) -> Unheard {
        Unheard::None(none)
    }
}

impl From<Reason> for Unheard {
    fn from(reason: Reason) -> Unheard {
        Unheard::Ended(reason)
    }
}

impl Handshake<'_> {
    /// A client that did not say what it wants. One that speaks something else is let down gently: what it
    /// sent is read, so that it sees the end of the stream and not a reset.
    pub(super) async fn turn_away(&mut self, unheard: Unheard) -> Reason {
        let (why, malformed) = match unheard {
            Unheard::Ended(why) => (why, None),
            Unheard::None(NoRequest::Malformed(malformed)) => (Reason::StartupMalformed, Some(malformed)),
            Unheard::None(none) => (none.reason(), None),
        };
        if let Some(malformed) = malformed {
            let (service, client) = (&*self.service.name, self.record.peer());
            let what = describe(malformed, &self.client.early);
            tracing::debug!(target: "pgvane::session", service, %client, what, "a client does not speak PostgreSQL's startup protocol");
            if matches!(malformed, Malformed::Protocol { .. }) {
                self.service.counters.told.add(words::FEATURE_NOT_SUPPORTED);
            }
            self.was_told = true;
            self.client.tell_and_wait(&last_words(malformed)).await;
        }
        why
    }
}

/// In words, with how it began.
fn describe(malformed: Malformed, bytes: &[u8]) -> String {
    let known = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|(_, name)| *name);
    let what = match (known, malformed) {
        (Some(known), _) => known.to_owned(),
        (None, Malformed::Length) => {
            let length = bytes.first_chunk().map_or(0, |word| u32::from_be_bytes(*word));
            format!("a packet that begins with the length {length}, of {STARTUP_BYTES_MAX} at most")
        }
        (None, Malformed::Shape) => "a request whose length does not fit its kind".to_owned(),
        (None, Malformed::Protocol { major, minor }) => format!("protocol {major}.{minor}"),
    };
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    format!("{what}: {}{}", shown.escape_ascii(), if shown.len() < bytes.len() { "..." } else { "" })
}

/// Whoever speaks another version of the protocol understands an error; for the others there are no words.
fn last_words(malformed: Malformed) -> Vec<u8> {
    let Malformed::Protocol { major, minor } = malformed else { return Vec::new() };
    let message = format!("unsupported frontend protocol {major}.{minor}");
    words::fatal(words::FEATURE_NOT_SUPPORTED, &message, "", "This router speaks protocol 3.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::protocol::startup::{Parsed, parse};

    fn described(bytes: &[u8]) -> String {
        match parse(bytes) {
            Parsed::Malformed(malformed) => describe(malformed, bytes),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stranger_is_named_by_how_it_begins() {
        let http = described(b"GET / HTTP/1.1\r\nHost: pg-test\r\nUser-Agent: x\r\n\r\n");
        assert_eq!(http, "HTTP: GET / HTTP/1.1\\r\\nHost: pg-test\\r\\nU...");
        assert!(described(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n").starts_with("the PROXY protocol"));
        assert_eq!(described(b"X\0\0\0\x04"), "a Terminate before any StartupMessage: X\\x00\\x00\\x00\\x04");
        let oversize = described(&[0, 0, 0x27, 0x15]);
        assert_eq!(oversize, "a packet that begins with the length 10005, of 10004 at most: \\x00\\x00\\'\\x15");
        assert_eq!(described(&[0, 0, 0, 9, 0, 2, 0, 0, 0]).split(':').next(), Some("protocol 2.0"));
        assert!(described(&[0, 0, 0, 9, 0x04, 0xd2, 0x16, 0x2f, 0]).starts_with("a request whose length"));
    }
}
