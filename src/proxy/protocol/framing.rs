//! Where one direction of a plaintext session stands between messages (protocol 3, "Message Formats":
//! one byte of type, then a length of four bytes that counts itself and not the type).

/// Type and length.
const HEADER_BYTES: usize = 5;
/// The length counts itself.
const LENGTH_BYTES: u32 = 4;
/// PostgreSQL reads lengths as signed (src/backend/libpq/pqcomm.c, `pq_getmessage`).
const BODY_BYTES_MAX: u32 = i32::MAX as u32 - LENGTH_BYTES;

/// Follows the messages of one direction, whatever the pieces in which they come.
#[derive(Debug, Clone, Default)]
pub struct Framer {
    /// Of the message under way.
    header: [u8; HEADER_BYTES],
    /// Bytes of `header` that have come; 0 between messages.
    header_have: u8,
    /// A length was impossible: nothing after it can be told apart.
    lost: bool,
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
            let begins = usize::from(self.header_have) < HEADER_BYTES;
            if begins {
                bytes = self.take_header(bytes);
                if usize::from(self.header_have) < HEADER_BYTES || self.lost {
                    return;
                }
            }
            let here = bytes.len().min(self.body_left as usize);
            let (body, rest) = bytes.split_at(here);
            let body_len = self.body_len();
            see(Part { kind: self.header[0], begins, body_len, offset: body_len - self.body_left, bytes: body });
            self.body_left -= here as u32;
            if self.body_left == 0 {
                self.header_have = 0;
            }
            bytes = rest;
        }
    }

    fn take_header<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let have = usize::from(self.header_have);
        let (head, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES - have));
        self.header[have..have + head.len()].copy_from_slice(head);
        self.header_have += head.len() as u8;
        if usize::from(self.header_have) == HEADER_BYTES {
            self.body_left = self.body_len();
            self.lost = self.length() < LENGTH_BYTES || self.body_left > BODY_BYTES_MAX;
        }
        rest
    }

    fn length(&self) -> u32 {
        let [_, length @ ..] = self.header;
        u32::from_be_bytes(length)
    }

    fn body_len(&self) -> u32 {
        self.length().saturating_sub(LENGTH_BYTES)
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
}
