//! Where one direction of a plaintext session stands between messages (protocol 3, "Message Formats":
//! one byte of type, then a length of four bytes that counts itself and not the type).

/// Type and length.
const HEADER_BYTES: u8 = 5;
/// The length counts itself.
const LENGTH_BYTES: u32 = 4;
/// PostgreSQL reads lengths as signed (src/backend/libpq/pqcomm.c, `pq_getmessage`).
const BODY_BYTES_MAX: u32 = i32::MAX as u32 - LENGTH_BYTES;

/// Follows the messages of one direction, whatever the pieces in which they come.
#[derive(Debug, Clone, Default)]
pub struct Framer {
    /// Of the message under way.
    kind: u8,
    /// Bytes of its header that have come; 0 between messages.
    header_have: u8,
    /// A length was impossible: nothing after it can be told apart.
    lost: bool,
    /// As far as its bytes have come.
    length: u32,
    /// Bytes of the body that are still to come, once the header is whole.
    body_left: u32,
}

/// A part of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    pub kind: u8,
    /// The first part: one per message, with at least its header.
    pub begins: bool,
    /// Bytes of the whole body, without type and length.
    pub body_len: u32,
    /// Where in the body `bytes` begin.
    pub offset: u32,
    /// Empty when there is no body, or nothing of it yet.
    pub bytes: &'a [u8],
}

impl Part<'_> {
    /// The message ends with this part.
    pub fn is_last(&self) -> bool {
        self.offset as usize + self.bytes.len() == self.body_len as usize
    }
}

impl Framer {
    /// Takes in the next bytes and shows each message's parts in order: the first as soon as its header
    /// is whole (with what is there of the body), then one per further piece of the body.
    pub fn advance<'a>(&mut self, mut bytes: &'a [u8], mut see: impl FnMut(Part<'a>)) {
        while !bytes.is_empty() && !self.lost {
            let begins = self.header_have < HEADER_BYTES;
            if begins {
                bytes = self.take_header(bytes);
                if self.header_have < HEADER_BYTES || self.lost {
                    return;
                }
            }
            let here = bytes.len().min(self.body_left as usize);
            let (body, rest) = bytes.split_at(here);
            let body_len = self.length.saturating_sub(LENGTH_BYTES);
            see(Part { kind: self.kind, begins, body_len, offset: body_len - self.body_left, bytes: body });
            self.body_left -= here as u32;
            if self.body_left == 0 {
                self.header_have = 0;
            }
            bytes = rest;
        }
    }

    fn take_header<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        if let (0, [kind, a, b, c, d, rest @ ..]) = (self.header_have, bytes) {
            (self.kind, self.length, self.header_have) = (*kind, u32::from_be_bytes([*a, *b, *c, *d]), HEADER_BYTES);
            bytes = rest;
        }
        while let (0..HEADER_BYTES, [byte, rest @ ..]) = (self.header_have, bytes) {
            if self.header_have == 0 {
                (self.kind, self.length) = (*byte, 0);
            } else {
                self.length = self.length << 8 | u32::from(*byte);
            }
            self.header_have += 1;
            bytes = rest;
        }
        if self.header_have == HEADER_BYTES {
            self.body_left = self.length.saturating_sub(LENGTH_BYTES);
            self.lost = self.length < LENGTH_BYTES || self.body_left > BODY_BYTES_MAX;
        }
        bytes
    }

    /// The type of the message under way, or of the last one between messages; 0 before the first.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// What comes next is a message's first byte.
    pub fn is_at_boundary(&self) -> bool {
        !self.lost && self.header_have == 0
    }

    /// Nothing can be told any more.
    pub fn is_lost(&self) -> bool {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(pieces: &[&[u8]]) -> (Vec<(u8, Vec<u8>)>, Framer) {
        let (mut messages, mut framer) = (Vec::<(u8, Vec<u8>)>::new(), Framer::default());
        for piece in pieces {
            framer.advance(piece, |part| {
                if part.begins {
                    messages.push((part.kind, Vec::new()));
                }
                if let Some((_, body)) = messages.last_mut() {
                    body.extend(part.bytes);
                }
            });
        }
        (messages, framer)
    }

    #[test]
    fn messages_are_told_apart() {
        let (messages, framer) = seen(&[b"Z\0\0\0\x05IS\0\0\0\x04D\0\0\0\x07abc"]);
        assert_eq!(messages, [(b'Z', b"I".to_vec()), (b'S', Vec::new()), (b'D', b"abc".to_vec())]);
        assert!(framer.is_at_boundary());
    }

    #[test]
    fn an_impossible_length_is_the_end_of_knowing() {
        for bytes in [&b"Z\0\0\0\x03"[..], b"Z\xff\xff\xff\xff"] {
            let (messages, framer) = seen(&[bytes, b"Z\0\0\0\x05I"]);
            assert!(messages.is_empty() && framer.is_lost() && !framer.is_at_boundary());
        }
    }

    #[test]
    fn parts_tell_where_they_are() {
        let (mut framer, mut parts) = (Framer::default(), Vec::new());
        for piece in [&b"D\0\0\0"[..], b"\x07", b"a", b"bcS\0\0\0\x04Z"] {
            framer.advance(piece, |part| parts.push((part.kind, part.begins, part.offset, part.bytes, part.is_last())));
        }
        let expected: [(u8, bool, u32, &[u8], bool); 4] = [
            (b'D', true, 0, b"", false),
            (b'D', false, 0, b"a", false),
            (b'D', false, 1, b"bc", true),
            (b'S', true, 0, b"", true),
        ];
        assert_eq!(parts, expected);
        assert!(!framer.is_at_boundary() && !framer.is_lost());
    }

    #[test]
    fn the_longest_message_is_one() {
        let (messages, framer) = seen(&[b"D\x7f\xff\xff\xff", b"a"]);
        assert_eq!(messages, [(b'D', b"a".to_vec())]);
        assert!(!framer.is_at_boundary() && !framer.is_lost());
    }

    fn anything() -> impl Strategy<Value = Vec<u8>> {
        let message = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, body)| {
            let length = (body.len() as u32 + LENGTH_BYTES).to_be_bytes();
            [&[kind][..], &length, &body].concat()
        });
        let tail = prop::collection::vec(any::<u8>(), 0..8);
        (prop::collection::vec(message, 0..8), tail).prop_map(|(messages, tail)| [messages.concat(), tail].concat())
    }

    proptest! {
        #[test]
        fn any_pieces_give_what_the_whole_gives(bytes in anything(), sizes in prop::collection::vec(1..7_usize, 1..9)) {
            let (mut pieces, mut left, mut sizes) = (Vec::new(), &bytes[..], sizes.iter().cycle());
            while let Some(size) = sizes.next().filter(|_| !left.is_empty()) {
                let (piece, rest) = left.split_at(left.len().min(*size));
                pieces.push(piece);
                left = rest;
            }
            let (messages, framer) = seen(&pieces);
            let (expected, whole) = seen(&[&bytes]);
            prop_assert_eq!(messages, expected);
            prop_assert_eq!(framer.is_at_boundary(), whole.is_at_boundary());
            prop_assert_eq!(framer.is_lost(), whole.is_lost());
        }
    }
}
