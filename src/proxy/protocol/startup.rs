//! The plaintext beginning of PostgreSQL's protocol: what a client may say first, what a server may
//! answer first. Pure functions over bytes.

use super::words::CANNOT_CONNECT_NOW;

/// PostgreSQL's MAX_STARTUP_PACKET_LENGTH, which does not count the length word itself.
pub const STARTUP_BODY_BYTES_MAX: usize = 10_000;
/// The longest packet a client may send before authentication.
pub const STARTUP_BYTES_MAX: usize = STARTUP_BODY_BYTES_MAX + LENGTH_BYTES;
/// Protocol 3.2 allows cancel keys of up to 256 bytes.
pub const CANCEL_KEY_BYTES_MAX: usize = 256;
/// The longest ClientHello, with the headers of its records: with direct TLS nothing else comes before the
/// server's answer.
pub const CLIENT_HELLO_BYTES_MAX: usize = 64 * 1024;
/// A first server message longer than this is passed on unread.
pub const FIRST_ANSWER_BYTES_MAX: usize = 16 * 1024;

/// cannot_connect_now, admin_shutdown, crash_shutdown: of a server, and not of a client's doing.
const CLOSING: [&[u8]; 3] = [CANNOT_CONNECT_NOW.as_bytes(), b"57P01", b"57P02"];
/// Type, length 8, code 0.
const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";

const LENGTH_BYTES: usize = 4;
const HEADER_BYTES: usize = 8;
/// Length, code and process id.
const CANCEL_HEAD_BYTES: usize = 12;
const CANCEL_CODE: u32 = 80_877_102;
const SSL_CODE: u32 = 80_877_103;
const GSSENC_CODE: u32 = 80_877_104;
/// The content type of a TLS handshake record; as a startup packet's first byte it would announce 352 MB.
const TLS_HANDSHAKE: u8 = 0x16;
const TLS_HEADER_BYTES: usize = 5;
const TLS_RECORD_BYTES_MAX: usize = 1 << 14;
const CLIENT_HELLO: u8 = 1;
/// Type and length.
const HANDSHAKE_HEAD_BYTES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Ssl,
    GssEnc,
    Cancel,
    /// TLS from the first byte: the records that hold the ClientHello. What follows is opaque.
    DirectTls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// The length is impossible: garbage, another protocol, or an oversized packet.
    Length,
    /// The length does not fit the kind of request.
    Shape,
    /// A protocol other than 3.x.
    Protocol { major: u16, minor: u16 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    Incomplete,
    /// The packet is the first `length` bytes.
    Complete {
        kind: Kind,
        length: usize,
    },
    Malformed(Malformed),
}

/// Reads the first packet in `bytes`. A verdict reached on a prefix stays the verdict however many
/// bytes follow, so whole and byte by byte give the same.
pub fn parse(bytes: &[u8]) -> Parsed {
    match bytes {
        [] => return Parsed::Incomplete,
        [TLS_HANDSHAKE, ..] => return parse_client_hello(bytes),
        // Two leading zeros are all that a length of at most 10,004 allows.
        [0, 0, ..] | [0] => {}
        _ => return Parsed::Malformed(Malformed::Length),
    }
    let Some(length) = word(bytes, 0) else { return Parsed::Incomplete };
    let length = length as usize;
    if !(HEADER_BYTES..=STARTUP_BYTES_MAX).contains(&length) {
        return Parsed::Malformed(Malformed::Length);
    }
    let Some(code) = word(bytes, LENGTH_BYTES) else { return Parsed::Incomplete };
    match kind(code, length) {
        Ok(_) if bytes.len() < length => Parsed::Incomplete,
        Ok(kind) => Parsed::Complete { kind, length },
        Err(malformed) => Parsed::Malformed(malformed),
    }
}

/// A server answers a ClientHello only when it has the whole of it, and a client may spread it over
/// records (RFC 8446, section 5.1).
fn parse_client_hello(bytes: &[u8]) -> Parsed {
    let (mut at, mut read) = (0, 0);
    let mut head = [0; HANDSHAKE_HEAD_BYTES];
    loop {
        let record = &bytes[at..];
        let Some([kind, _, _, high, low]) = record.first_chunk::<TLS_HEADER_BYTES>() else { return Parsed::Incomplete };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind != TLS_HANDSHAKE {
            return Parsed::Malformed(Malformed::Shape);
        }
        at += TLS_HEADER_BYTES + length;
        if !(1..=TLS_RECORD_BYTES_MAX).contains(&length) || at > CLIENT_HELLO_BYTES_MAX {
            return Parsed::Malformed(Malformed::Length);
        }
        let content = &record[TLS_HEADER_BYTES..record.len().min(TLS_HEADER_BYTES + length)];
        for (byte, place) in content.iter().zip(head.iter_mut().skip(read)) {
            *place = *byte;
        }
        read += content.len();
        if read > 0 && head[0] != CLIENT_HELLO {
            return Parsed::Malformed(Malformed::Shape);
        }
        let [_, high, middle, low] = head.map(usize::from);
        let whole = HANDSHAKE_HEAD_BYTES + (high << 16 | middle << 8 | low);
        if read >= HANDSHAKE_HEAD_BYTES && whole > CLIENT_HELLO_BYTES_MAX {
            return Parsed::Malformed(Malformed::Length);
        }
        if content.len() < length {
            return Parsed::Incomplete;
        }
        if read >= HANDSHAKE_HEAD_BYTES && read >= whole {
            return Parsed::Complete { kind: Kind::DirectTls, length: at };
        }
    }
}

fn kind(code: u32, length: usize) -> Result<Kind, Malformed> {
    let fits = |kind, fits: bool| if fits { Ok(kind) } else { Err(Malformed::Shape) };
    match code {
        SSL_CODE => fits(Kind::Ssl, length == HEADER_BYTES),
        GSSENC_CODE => fits(Kind::GssEnc, length == HEADER_BYTES),
        CANCEL_CODE => {
            let key = length.saturating_sub(CANCEL_HEAD_BYTES);
            fits(Kind::Cancel, (1..=CANCEL_KEY_BYTES_MAX).contains(&key))
        }
        _ if code >> 16 == 3 => Ok(Kind::Startup),
        _ => Err(Malformed::Protocol { major: (code >> 16) as u16, minor: (code & 0xFFFF) as u16 }),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))
}

/// What a server's first message to a StartupMessage means for routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstAnswer {
    Incomplete,
    /// FATAL 57P03, or 57P01 and 57P02 from one that closes this moment: it takes nobody now.
    CannotConnectNow,
    /// The client's own business.
    Other,
}

/// Looks at the first message of a server, past a NegotiateProtocolVersion, which PostgreSQL sends
/// before it looks whether it takes connections at all, and past an AuthenticationOk.
pub fn first_answer(bytes: &[u8]) -> FirstAnswer {
    let Some((kind, length)) = message(bytes) else { return FirstAnswer::Incomplete };
    if length > FIRST_ANSWER_BYTES_MAX {
        return FirstAnswer::Other;
    }
    match kind {
        b'v' => match bytes.get(length..) {
            Some(rest) => first_answer(rest),
            None => FirstAnswer::Incomplete,
        },
        // PostgreSQL sends AuthenticationOk together with what follows it, and a client has nothing
        // to say in between.
        b'R' if length == AUTHENTICATION_OK.len() => match bytes.strip_prefix(AUTHENTICATION_OK) {
            Some(rest) => first_answer(rest),
            None if bytes.len() < length => FirstAnswer::Incomplete,
            None => FirstAnswer::Other,
        },
        b'E' => match bytes.get(5..length) {
            Some(fields) if error_code(fields).is_some_and(|code| CLOSING.contains(&code)) => {
                FirstAnswer::CannotConnectNow
            }
            Some(_) => FirstAnswer::Other,
            // Before 9.x a postmaster that could not fork wrote bare text, whose "length" is letters.
            None => FirstAnswer::Incomplete,
        },
        _ => FirstAnswer::Other,
    }
}

/// A message's type and its whole length, type byte included. An impossible length reads as a huge
/// one. Without all of a header only a message that cannot matter is told.
fn message(bytes: &[u8]) -> Option<(u8, usize)> {
    let kind = *bytes.first()?;
    if !matches!(kind, b'v' | b'E' | b'R') {
        return Some((kind, 0));
    }
    let length = word(bytes, 1)? as usize;
    Some((kind, if length < LENGTH_BYTES { usize::MAX } else { length + 1 }))
}

fn error_code(fields: &[u8]) -> Option<&[u8]> {
    fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"))
}

#[cfg(test)]
mod tests {
    use super::super::words::fatal;
    use super::*;
    use proptest::prelude::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER_BYTES + body.len()) as u32).to_be_bytes().to_vec();
        bytes.extend(code.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn complete(kind: Kind, length: usize) -> Parsed {
        Parsed::Complete { kind, length }
    }

    #[test]
    fn every_first_packet_is_known() {
        assert_eq!(parse(&packet(0x30000, b"user\0a\0\0")), complete(Kind::Startup, 16));
        assert_eq!(parse(&packet(0x30002, b"user\0a\0\0")), complete(Kind::Startup, 16));
        assert_eq!(parse(&packet(SSL_CODE, b"")), complete(Kind::Ssl, 8));
        assert_eq!(parse(&packet(GSSENC_CODE, b"")), complete(Kind::GssEnc, 8));
        assert_eq!(parse(&packet(CANCEL_CODE, &[7; 8])), complete(Kind::Cancel, 16));
        assert_eq!(parse(&packet(CANCEL_CODE, &[7; 4 + 256])), complete(Kind::Cancel, 268));
        let mut two = packet(SSL_CODE, b"");
        two.extend(packet(0x30000, b"\0"));
        assert_eq!(parse(&two), complete(Kind::Ssl, 8));
    }

    /// A ClientHello of so many bytes in records of so many.
    fn client_hello(length: usize, record: usize) -> Vec<u8> {
        let mut hello = vec![CLIENT_HELLO];
        hello.extend(&(length as u32).to_be_bytes()[1..]);
        hello.resize(HANDSHAKE_HEAD_BYTES + length, 7);
        let framed = |part: &[u8]| [&[0x16, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
        hello.chunks(record).flat_map(framed).collect()
    }

    #[test]
    fn a_client_hello_is_whole_with_its_last_record() {
        for (length, record) in [(3, 100), (300, 50), (300, 1), (20_000, 1 << 14), (40_000, 1 << 14)] {
            let hello = client_hello(length, record);
            assert_eq!(parse(&hello[..hello.len() - 1]), Parsed::Incomplete, "{length} by {record}");
            let more = [&hello[..], b"early data"].concat();
            assert_eq!(parse(&more), complete(Kind::DirectTls, hello.len()), "{length} by {record}");
        }
        let too_long = client_hello(CLIENT_HELLO_BYTES_MAX, 1 << 14);
        assert_eq!(parse(&too_long[..9]), Parsed::Malformed(Malformed::Length));
        assert_eq!(parse(&client_hello(60_000, 1)), Parsed::Malformed(Malformed::Length), "mostly headers");
        let server_hello = [0x16, 3, 1, 0, 2, 2, 0];
        assert_eq!(parse(&server_hello), Parsed::Malformed(Malformed::Shape));
        let mut torn = client_hello(300, 50);
        torn[55] = 0x17;
        assert_eq!(parse(&torn), Parsed::Malformed(Malformed::Shape));
    }

    #[test]
    fn what_is_not_postgres_is_malformed_at_once() {
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"G",
            &[0, 1],
            &[0, 0, 0x27, 0x15],
            &[0, 0, 0, 7],
            &[0xFF],
            &[0x16, 3, 1, 0, 0],
        ] {
            assert_eq!(parse(garbage), Parsed::Malformed(Malformed::Length), "{garbage:?}");
        }
        assert_eq!(parse(&[0, 0, 0x27, 0x14]), Parsed::Incomplete);
        let shape = Parsed::Malformed(Malformed::Shape);
        assert_eq!(parse(&packet(SSL_CODE, b"x")), shape);
        assert_eq!(parse(&packet(CANCEL_CODE, &[0; 4])), shape);
        assert_eq!(parse(&packet(CANCEL_CODE, &[0; 4 + 257])), shape);
        let protocol = Malformed::Protocol { major: 2, minor: 0 };
        assert_eq!(parse(&packet(0x20000, b"x")), Parsed::Malformed(protocol));
    }

    #[test]
    fn only_a_server_that_closes_or_starts_sends_a_client_back() {
        let rejected = fatal(CANNOT_CONNECT_NOW, "the database system is starting up", "", "");
        assert_eq!(first_answer(&rejected), FirstAnswer::CannotConnectNow);
        assert_eq!(first_answer(&fatal("28P01", "57P03", "C57P03", "")), FirstAnswer::Other);
        let admitted = |rest: &[u8]| first_answer(&[AUTHENTICATION_OK, rest].concat());
        assert_eq!(admitted(b""), FirstAnswer::Incomplete);
        assert_eq!(admitted(b"S"), FirstAnswer::Other);
        for code in ["57P01", "57P02", "57P03"] {
            assert_eq!(admitted(&fatal(code, "", "", "")), FirstAnswer::CannotConnectNow);
        }
        assert_eq!(admitted(&fatal("42501", "", "", "")), FirstAnswer::Other);
        assert_eq!(first_answer(b"R\0\0\0\x08\0\0\0\x03"), FirstAnswer::Other);
        assert_eq!(first_answer(b"R\0\0\0\x0c\0\0\0\x05salt"), FirstAnswer::Other);
        assert_eq!(first_answer(b"Ecould not fork new process\n\0"), FirstAnswer::Other);
        let mut negotiated = b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0".to_vec();
        assert_eq!(first_answer(&negotiated), FirstAnswer::Incomplete);
        negotiated.extend(&rejected);
        assert_eq!(first_answer(&negotiated), FirstAnswer::CannotConnectNow);
        for cut in 0..negotiated.len() {
            assert_eq!(first_answer(&negotiated[..cut]), FirstAnswer::Incomplete, "{cut}");
        }
    }

    fn anything() -> impl Strategy<Value = Vec<u8>> {
        let codes = prop_oneof![
            Just(0x30000u32),
            Just(0x30002),
            Just(SSL_CODE),
            Just(GSSENC_CODE),
            Just(CANCEL_CODE),
            any::<u32>()
        ];
        let built = (codes, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(code, body)| packet(code, &body));
        let tls = (0..40u8, prop::collection::vec(any::<u8>(), 0..64))
            .prop_map(|(length, body)| [&[TLS_HANDSHAKE, 3, 1, 0, length][..], &body].concat());
        let hello = (0..200usize, 1..80usize, 0..300usize).prop_map(|(length, record, cut)| {
            let hello = client_hello(length, record);
            hello[..hello.len().min(cut)].to_vec()
        });
        prop_oneof![built, tls, hello, prop::collection::vec(any::<u8>(), 0..64)]
    }

    proptest! {
        #[test]
        fn byte_by_byte_gives_what_the_whole_gives(bytes in anything()) {
            let whole = parse(&bytes);
            let verdict = (1..=bytes.len()).map(|n| parse(&bytes[..n])).find(|p| *p != Parsed::Incomplete);
            prop_assert_eq!(verdict.unwrap_or(Parsed::Incomplete), whole);
        }

        #[test]
        fn a_complete_packet_is_within_its_bytes(bytes in anything()) {
            if let Parsed::Complete { length, .. } = parse(&bytes) {
                prop_assert!(length <= bytes.len() && length > 0);
            }
        }

        #[test]
        fn a_first_answer_never_changes_its_mind(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let whole = first_answer(&bytes);
            for n in 0..bytes.len() {
                let part = first_answer(&bytes[..n]);
                prop_assert!(part == FirstAnswer::Incomplete || part == whole);
            }
        }
    }
}
