//! PostgreSQL's protocol 3 as far as the backend and the load speak it: every byte is known to both, so that
//! the load can check what comes through.

use std::sync::LazyLock;

/// Of a query and of its answer.
pub const LENGTH: usize = 64;
/// `SSLRequest`, https://www.postgresql.org/docs/15/protocol-message-formats.html
pub const SSL_REQUEST: u32 = 80_877_103;
pub const TERMINATE: &[u8] = b"X\0\0\0\x04";
const PROTOCOL_3: u32 = 196_608;
const SELECT: &[u8] = b"SELECT ";
const DIGITS: usize = 6;
/// Where the number stands: behind type, length and `SELECT `, and in the row of the answer.
const ASKED_AT: usize = 5 + SELECT.len();
const ANSWERED_AT: usize = 38;

/// One message of the server, or of the client behind its startup.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

pub fn startup() -> Vec<u8> {
    let body = [&PROTOCOL_3.to_be_bytes()[..], b"user\0bench\0database\0bench\0application_name\0versus\0\0"].concat();
    let length = u32::try_from(body.len() + 4).expect("a short packet");
    [&length.to_be_bytes()[..], &body].concat()
}

/// What PostgreSQL 15 tells a client that needs no password.
pub fn welcome(pid: u32) -> Vec<u8> {
    let parameters = [
        ("application_name", "versus"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("default_transaction_read_only", "off"),
        ("in_hot_standby", "off"),
        ("integer_datetimes", "on"),
        ("IntervalStyle", "postgres"),
        ("is_superuser", "off"),
        ("server_encoding", "UTF8"),
        ("server_version", "15.8 (Debian 15.8-0+deb12u1)"),
        ("session_authorization", "bench"),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "Etc/UTC"),
    ];
    let mut words = message(b'R', &0u32.to_be_bytes());
    for (name, value) in parameters {
        words.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    words.extend(message(b'K', &[pid.to_be_bytes(), (!pid).to_be_bytes()].concat()));
    words.extend(message(b'Z', b"I"));
    words
}

/// The end of every welcome and of every answer.
pub const READY: &[u8] = b"Z\0\0\0\x05I";

/// A simple query that asks for this number, modulo a million.
pub fn ask(number: u32) -> [u8; LENGTH] {
    static BLANK: LazyLock<[u8; LENGTH]> = LazyLock::new(|| {
        let text = format!("SELECT {:0DIGITS$}{:1$}\0", 0, LENGTH - 6 - SELECT.len() - DIGITS);
        message(b'Q', text.as_bytes()).try_into().expect("a query of the right length")
    });
    numbered(*BLANK, ASKED_AT, number)
}

/// The answer to [`ask`]: RowDescription, DataRow, CommandComplete, ReadyForQuery.
pub fn answer(number: u32) -> [u8; LENGTH] {
    numbered(*ANSWER, ANSWERED_AT, number)
}

/// The answer with the digits of this query.
pub fn answer_to(query: &[u8]) -> [u8; LENGTH] {
    let mut answer = *ANSWER;
    answer[ANSWERED_AT..][..DIGITS].copy_from_slice(&query[ASKED_AT..][..DIGITS]);
    answer
}

static ANSWER: LazyLock<[u8; LENGTH]> =
    LazyLock::new(|| row(&"0".repeat(DIGITS)).try_into().expect("an answer of the right length"));

/// A query's answer of one row with one column of text, to its end.
pub fn row(text: &str) -> Vec<u8> {
    // One column `v`: no table, type text of any length, in text.
    let column = [&1u16.to_be_bytes()[..], b"v\0", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 25], &[0xff; 6], &[0, 0]].concat();
    let length = u32::try_from(text.len()).expect("a short text");
    let data = [&1u16.to_be_bytes()[..], &length.to_be_bytes(), text.as_bytes()].concat();
    [message(b'T', &column), message(b'D', &data), message(b'C', b"SELECT 1\0"), READY.to_vec()].concat()
}

fn numbered(mut bytes: [u8; LENGTH], at: usize, number: u32) -> [u8; LENGTH] {
    let mut rest = number;
    for digit in bytes[at..][..DIGITS].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
    }
    bytes
}

/// The answer to `COPY ... TO STDOUT`, byte by byte, without having it in memory: a head, the same block of
/// rows again and again, a tail.
#[derive(Debug)]
pub struct CopyOut {
    head: Vec<u8>,
    block: &'static [u8],
    blocks: u64,
    tail: Vec<u8>,
}

/// Small enough for a core's cache, so that the backend's copy costs as little as can be.
const BLOCK_BYTES: usize = 256 * 1024;
/// From 60 to 139 bytes a row, about 100 in the mean.
const ROW_BYTES: std::ops::Range<u64> = 60..140;

/// Whole CopyData messages of one row each, no two of them alike.
static BLOCK: LazyLock<(Vec<u8>, u64)> = LazyLock::new(|| {
    let (mut block, mut rows, mut dice) = (Vec::new(), 0, 1u64);
    loop {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length =
            usize::try_from(ROW_BYTES.start + (dice >> 33) % (ROW_BYTES.end - ROW_BYTES.start)).expect("small");
        let mut text = format!("{rows}\t{dice:x}\t");
        while text.len() < length - 6 {
            text.push(char::from(b'a' + u8::try_from(text.len() % 26).expect("a letter")));
        }
        text.push('\n');
        let row = message(b'd', text.as_bytes());
        if block.len() + row.len() > BLOCK_BYTES {
            return (block, rows);
        }
        block.extend(row);
        rows += 1;
    }
});

impl CopyOut {
    pub fn of_blocks(blocks: u64) -> CopyOut {
        let (block, rows) = &*BLOCK;
        let tag = format!("COPY {}\0", rows * blocks);
        let tail = [message(b'c', b""), message(b'C', tag.as_bytes()), READY.to_vec()].concat();
        // Text, of three columns in text.
        let head = message(b'H', &[0, 0, 3, 0, 0, 0, 0, 0, 0]);
        CopyOut { head, block, blocks, tail }
    }

    /// About as many bytes as asked for.
    pub fn of_bytes(bytes: u64) -> CopyOut {
        CopyOut::of_blocks((bytes / BLOCK.0.len() as u64).max(1))
    }

    pub fn query(&self) -> Vec<u8> {
        message(b'Q', format!("COPY (SELECT * FROM block LIMIT {}) TO STDOUT\0", self.blocks).as_bytes())
    }

    /// What such a query asks for.
    pub fn asked_by(query: &[u8]) -> Option<CopyOut> {
        let text = std::str::from_utf8(query).ok()?.strip_prefix("COPY (SELECT * FROM block LIMIT ")?;
        text.split(')').next()?.parse().ok().map(CopyOut::of_blocks)
    }

    pub fn total(&self) -> u64 {
        self.head.len() as u64 + self.block.len() as u64 * self.blocks + self.tail.len() as u64
    }

    /// The longest piece in memory that begins at this byte of the answer; empty at its end.
    pub fn from(&self, at: u64) -> &[u8] {
        let head = self.head.len() as u64;
        let rows = self.block.len() as u64 * self.blocks;
        let within = |at: u64| usize::try_from(at).expect("less than a block");
        match at {
            at if at < head => &self.head[within(at)..],
            at if at < head + rows => &self.block[within((at - head) % self.block.len() as u64)..],
            at => self.tail.get(within(at - head - rows)..).unwrap_or_default(),
        }
    }

    /// Whether these are the bytes at this place: all of them, or only the first and last few.
    pub fn matches(&self, at: u64, bytes: &[u8], all: bool) -> bool {
        const LOOK: usize = 32;
        if !all && bytes.len() > 2 * LOOK {
            let last = bytes.len() - LOOK;
            return self.matches(at, &bytes[..LOOK], true) && self.matches(at + last as u64, &bytes[last..], true);
        }
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let wanted = self.from(at);
            let length = wanted.len().min(rest.len());
            if length == 0 || wanted[..length] != rest[..length] {
                return false;
            }
            (at, rest) = (at + length as u64, &rest[length..]);
        }
        true
    }
}
