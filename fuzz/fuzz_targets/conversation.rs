//! Anything that two sides can say: in any pieces it reads as it does whole, and it is never idle where a
//! count of all messages says otherwise.
//!
//! The input is a list of steps. One byte names the side (its lowest bit) and a message of the table below;
//! past the table, a byte of length and so many bytes follow, which are said as they are. Two more bytes are
//! for looking away; a count of all messages says nothing of what is found after that.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvane_fuzz::count::Log;
use pgvane_fuzz::protocol::conversation::Conversation;
use pgvane_fuzz::{message, pieces};

const CLIENT: [(u8, &[u8]); 24] = [
    (b'Q', b"SELECT 1\0"),
    (b'Q', b"BEGIN\0"),
    (b'Q', b"COMMIT\0"),
    (b'Q', b"INSERT INTO t VALUES (1); ROLLBACK; SELECT 1\0"),
    (b'Q', b"ROLLBACK\0"),
    (b'P', b"\0SELECT 1\0\0\0"),
    (b'P', b"\0COMMIT\0\0\0"),
    (b'P', b"s\0END\0\0\0"),
    (b'B', b"\0\0\0\0\0\0\0\0"),
    (b'B', b"p\0s\0\0\0\0\0\0\0"),
    (b'D', b"S\0"),
    (b'E', b"\0\0\0\0\0"),
    (b'E', b"p\0\0\0\0\0"),
    (b'C', b"Ss\0"),
    (b'S', b""),
    (b'H', b""),
    (b'F', b"\0\0\0\0"),
    (b'd', b"1\n"),
    (b'c', b""),
    (b'f', b"no\0"),
    (b'p', b"secret\0"),
    (b'X', b""),
    (b'Q', b""),
    (b'Q', b"/* commit\0"),
];
const SERVER: [(u8, &[u8]); 24] = [
    (b'R', b"\0\0\0\0"),
    (b'R', b"\0\0\0\x03"),
    (b'K', b"\0\0\0\x01abcd"),
    (b'S', b"a\0b\0"),
    (b'Z', b"I"),
    (b'Z', b"T"),
    (b'Z', b"E"),
    (b'1', b""),
    (b'2', b""),
    (b'T', b"\0\0"),
    (b'D', b"\0\0"),
    (b'C', b"SELECT 1\0"),
    (b'E', b"SERROR\0VERROR\0C42601\0\0"),
    (b'E', b"SFATAL\0VFATAL\0C57P01\0\0"),
    (b'N', b"SWARNING\0VWARNING\0C57P02\0\0"),
    (b'N', b"SNOTICE\0VNOTICE\0C00000\0\0"),
    (b'A', b"\0\0\0\x01a\0b\0"),
    (b'G', b"\0\0\0"),
    (b'H', b"\0\0\0"),
    (b'W', b"\0\0\0"),
    (b'd', b"1\n"),
    (b'c', b""),
    (b'I', b""),
    (b's', b""),
];

/// The bytes with which the conversation looks away: where it may, and wherever it is.
const MAY_LOOK_AWAY: u8 = 0x80;
const LOOK_AWAY: u8 = 0x82;

/// The next step of an input: the side, and what it says.
fn step(input: &mut &[u8]) -> Option<(bool, Vec<u8>)> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    let of_client = first & 1 == 1;
    let table = if of_client { &CLIENT } else { &SERVER };
    if let Some((kind, body)) = table.get(usize::from(first >> 1)) {
        return Some((of_client, message(*kind, body)));
    }
    let (length, rest) = input.split_first()?;
    let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*length)));
    *input = rest;
    Some((of_client, bytes.to_vec()))
}

fn say(conversation: &mut Conversation, of_client: bool, bytes: &[u8]) {
    if of_client {
        conversation.sent_to_server(bytes);
    } else {
        conversation.sent_to_client(bytes);
    }
}

fuzz_target!(|input: &[u8]| {
    let (mut left, seed) = (input, input.len() as u32);
    let (mut whole, mut split, mut log) = (Conversation::plaintext(), Conversation::plaintext(), Log::default());
    let mut looked_away = false;
    loop {
        if let Some((byte @ (&MAY_LOOK_AWAY | &LOOK_AWAY), rest)) = left.split_first() {
            left = rest;
            if *byte == LOOK_AWAY || whole.may_look_away() {
                whole.look_away();
                split.look_away();
                looked_away = true;
                assert!(!whole.is_idle());
            }
        }
        let Some((of_client, bytes)) = step(&mut left) else { return };
        if !of_client {
            let end = whole.after_authentication(&bytes);
            assert_eq!(end, split.after_authentication(&bytes));
            assert!(end.is_none_or(|end| (1..=bytes.len()).contains(&end)));
        }
        say(&mut whole, of_client, &bytes);
        for piece in pieces(&bytes, seed.wrapping_add(left.len() as u32), 7) {
            say(&mut split, of_client, piece);
        }
        log.add(of_client, &bytes);
        assert_eq!(whole.standing(), split.standing());
        assert_eq!(whole.hearing(), split.hearing());
        assert_eq!(whole.is_idle(), split.is_idle());
        assert_eq!(whole.take_key(), split.take_key());
        assert_eq!(whole.may_look_away(), split.may_look_away());
        assert!(looked_away || log.may_be_idle() || !whole.is_idle(), "idle, and something is under way");
    }
});
