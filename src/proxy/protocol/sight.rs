//! Where an answer ends in a server's stream of which a part passed unseen.
//!
//! **What is taken for the end.** A ReadyForQuery (`Z`, length 5, a status) directly behind one of these,
//! with nothing between them but whole ParameterStatus, NotificationResponse and NoticeResponse, all of
//! it within [`TAIL_BYTES`] (protocol 3, "Message Formats"):
//!
//! * CommandComplete, its tag of at most 63 bytes (COMPLETION_TAG_BUFSIZE) made of upper-case letters,
//!   digits, spaces and underscores, the first of them a letter;
//! * NoData, PortalSuspended or EmptyQueryResponse, which are a letter and the length 4; ParseComplete,
//!   BindComplete or CloseComplete, a digit and the length 4, where the byte before is seen and no `D`;
//! * ErrorResponse made of fields, the first of them S, and one V that is ERROR (PostgreSQL 9.6 and later).
//!
//! Or a ReadyForQuery directly behind the last bytes of a longer ErrorResponse or NoticeResponse: a NUL, the
//! field R with a routine's name of 4 to 63 bytes, and the two NULs that end the field and the message.
//! PostgreSQL writes R last (src/backend/utils/error/elog.c, `send_message_to_frontend`).
//!
//! **Why rows of text are never taken for it.** Values in text format hold no NUL. A DataRow is `D`, four
//! bytes of length, two that count the columns, then for each column four bytes of length (all of them
//! 0xff for a null value) and the value; CopyData is `d`, four bytes of length and text. So every NUL is in
//! a length or a count. PostgreSQL builds no message of 1 GiB (MaxAllocSize) and no row of more than 1664
//! columns (MaxTupleAttributeNumber): the first byte of a length is below 0x40 or begins a null value, and
//! that of a count is below 7.
//!
//! Each message of the list but a long error's rest begins with a type and a length below 1024, hence with
//! two NULs behind its type, three where it is no ErrorResponse. Where could the type stand in rows?
//!
//! * Before the length of a value (it ends the value before, or the count of columns): the message, which
//!   counts the length itself, ends four bytes before the value does, and so holds no NUL of its own. But
//!   a CommandComplete ends with one. The short ones are of length 4, and in a value of four bytes there
//!   would be what follows them, a type and the NUL that begins its length.
//! * In a length of a value: as its first byte it is a digit, for nothing else is below 0x40, and behind
//!   the three NULs the value begins, where again a type and a NUL would have to be. As any later one there
//!   are fewer than three bytes of length left, and a NUL would be in the value.
//! * In a count: as its first byte it is too much, as its second one see above.
//! * In the length of a row: as its first byte it is a digit behind the `D`, which is refused. As the second
//!   one, three NULs reach to the first byte of the count, its second one is the end of the message's length,
//!   and the first byte of the first value's length is the tag's first letter or the next message's type,
//!   all of which are above 0x40. As the third or fourth one, the count would be 0, and a row without
//!   columns is of length 6. In the length of CopyData NULs would be in the text.
//!
//! An ErrorResponse holds `\0VERROR\0`. Where is its V in rows? First in a value: then the length before
//! ends with NUL, so that the value has 256 bytes or more, and no NUL after six. In a value's length it is
//! the last byte of it or a higher one, the value has 0x56 bytes or more, and again. In a count: as its last
//! byte, for E would be the first one of a length. In a row's length E or R would be in the count.
//!
//! The rest of a long error ends with two NULs before the Z, which must then be the second byte of a count
//! (90 columns): behind anything else four NULs in a row, or a NUL in a value. So one NUL ends the length
//! of the row, the name's last four bytes are `D` and the length's other three, and what goes before, up to
//! 59 bytes, ends the message before. Where is its R, behind a NUL? First in a value: it has 256 bytes
//! or more. In a value's length: it has 82 or more. In a count: there are 82 columns or, where it ends
//! the row's length, 257, of four bytes or more each. And other messages than rows end with bytes that no name
//! can go on from: NUL, or one that is behind a NUL and no R.
//!
//! Of what else is sent among rows, messages of text have their NULs between texts, one or two of them in a
//! row; and in a RowDescription the number of a column or a format code is where a tag's first letter or the
//! next message's length would have to be.
//!
//! So what is found is a message that the server sent, and from there on all is framed. Rows in binary
//! formats may hold anything, a recording of this very protocol, too. Then a session may be taken for idle
//! while its client still reads, and a planned drain would end it.
//!
//! **What is not found.** An answer that ends otherwise: behind a description, behind an error without R or
//! a notification that is longer than what was seen of it; and an end that passed unseen because more than
//! [`TAIL_BYTES`] of notices followed it at once. Then one ReadyForQuery too many is waited for as long as
//! the session lives, and it is never idle again. That is the worse case and not the wrong one. Nothing
//! that comes later proves that the end was missed: a client that sends its next statement may do so
//! without waiting, and the next end that is found may be the first one's or the second one's.

/// Of what a server sends before a pause, what must be seen for its end to be found.
pub const TAIL_BYTES: usize = 1024;

/// A ReadyForQuery but for its status.
const READY: &[u8; 5] = b"Z\0\0\0\x05";
const READY_BYTES: usize = READY.len() + 1;
const HEADER_BYTES: usize = 5;
/// COMPLETION_TAG_BUFSIZE in src/include/tcop/cmdtag.h, without the NUL.
const TAG_BYTES_MAX: usize = 63;
/// Of a routine in which an error arose. Shorter ones could be read from the lengths of rows.
const ROUTINE_BYTES: std::ops::RangeInclusive<usize> = 4..=63;
const PROCESS_ID_BYTES: usize = 4;

/// Looks for the end of an answer in what is seen again.
#[derive(Debug, Default)]
pub struct Search {
    /// The last of it, less than [`TAIL_BYTES`].
    kept: Vec<u8>,
}

/// The end was found; what it ends with is to be framed.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The server's stream from some message's first byte on: what came in earlier pieces, and then the rest.
    pub earlier: Vec<u8>,
    pub rest: &'a [u8],
    /// That message is the ReadyForQuery, and before it came the end of an error or a notice.
    pub behind_error: bool,
}

/// Where framing may begin, and the same of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    at: usize,
    behind_error: bool,
}

impl Search {
    /// The next bytes do not follow the ones before.
    pub fn forget(&mut self) {
        self.kept.clear();
    }

    /// What came last may be a part of the end: if anything passed unseen now, it would be torn apart.
    pub fn is_amid_end(&self) -> bool {
        (0..self.kept.len()).any(|at| may_begin_end(&self.kept[at..])) || may_begin_routine(&self.kept)
    }

    /// Takes in the next bytes of the server.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Option<Found<'a>> {
        let fresh = self.kept.len();
        let (head, rest) = bytes.split_at(bytes.len().min(TAIL_BYTES));
        self.kept.extend_from_slice(head);
        if let Some(place) = first_end(&self.kept, fresh) {
            let earlier = self.kept.split_off(place.at);
            return Some(Found { earlier, rest, behind_error: place.behind_error });
        }
        if rest.is_empty() {
            self.kept.drain(..self.kept.len().saturating_sub(TAIL_BYTES - 1));
            return None;
        }
        if let Some(place) = first_end(bytes, head.len()) {
            return Some(Found { earlier: Vec::new(), rest: &bytes[place.at..], behind_error: place.behind_error });
        }
        self.kept.clear();
        self.kept.extend_from_slice(&bytes[bytes.len() - (TAIL_BYTES - 1)..]);
        None
    }
}

/// Of the ends that are whole only with the bytes from `fresh` on, the first one.
fn first_end(bytes: &[u8], fresh: usize) -> Option<Place> {
    let mut from = (fresh + 1).saturating_sub(READY_BYTES);
    while let Some(ready) = next_ready(bytes, from) {
        let seen_from = (ready + READY_BYTES).saturating_sub(TAIL_BYTES);
        let before = &bytes[seen_from..ready];
        if let Some(at) = last_of_answer(before) {
            return Some(Place { at: seen_from + at, behind_error: false });
        }
        if ends_long_error(before) {
            return Some(Place { at: ready, behind_error: true });
        }
        from = ready + 1;
    }
    None
}

/// Bytes that are compared at once, by the vector instructions that the compiler finds for it.
const BLOCK_BYTES: usize = 128;

/// The first ReadyForQuery at `from` or later, by its bytes alone.
fn next_ready(bytes: &[u8], mut from: usize) -> Option<usize> {
    let is_ready = |window: &[u8]| window.starts_with(READY) && matches!(window[READY.len()], b'I' | b'T' | b'E');
    while let Some(block) = bytes.get(from..from + BLOCK_BYTES + READY_BYTES - 1) {
        if may_hold_ready(block)
            && let Some(at) = block.windows(READY_BYTES).position(is_ready)
        {
            return Some(from + at);
        }
        from += BLOCK_BYTES;
    }
    bytes.get(from..)?.windows(READY_BYTES).position(is_ready).map(|at| from + at)
}

/// Whether a Z is in the block with a NUL behind it and a 5 where the length would end.
fn may_hold_ready(block: &[u8]) -> bool {
    let (kinds, nuls, lengths) = (&block[..BLOCK_BYTES], &block[1..=BLOCK_BYTES], &block[4..BLOCK_BYTES + 4]);
    let mut least = u8::MAX;
    for index in 0..BLOCK_BYTES {
        least = least.min((kinds[index] ^ READY[0]) | nuls[index] | (lengths[index] ^ READY[4]));
    }
    least == 0
}

/// Where in these bytes, which a ReadyForQuery follows, the last message begins that is of its answer and
/// not one that may come at any time.
fn last_of_answer(mut before: &[u8]) -> Option<usize> {
    loop {
        match before {
            [.., b'D', b'1' | b'2' | b'3', 0, 0, 0, 4] => return None,
            [.., b'n' | b's' | b'I', 0, 0, 0, 4] | [.., _, b'1' | b'2' | b'3', 0, 0, 0, 4] => {
                return Some(before.len() - HEADER_BYTES);
            }
            [.., 0] => {}
            _ => return None,
        }
        let at = last_message(before)?;
        if matches!(before[at], b'C' | b'E') {
            return Some(at);
        }
        before = &before[..at];
    }
}

/// Where the nearest message begins that ends with these bytes and may stand between an answer's data and
/// its ReadyForQuery.
fn last_message(before: &[u8]) -> Option<usize> {
    let mut end = (before.len() + 1).saturating_sub(HEADER_BYTES);
    while end > 0 {
        let from = end.saturating_sub(BLOCK_BYTES);
        if may_hold_header(&before[from..end + HEADER_BYTES - 1], before.len() - from)
            && let Some(at) = (from..end).rev().find(|at| is_one_message(&before[*at..]))
        {
            return Some(at);
        }
        end = from;
    }
    None
}

/// Whether there is a length in the block, of less than 64 KiB, that fits its place: `reach` is from the
/// first byte to the end of the message, and only the last byte of it is compared.
fn may_hold_header(block: &[u8], reach: usize) -> bool {
    let places = block.len() + 1 - HEADER_BYTES;
    let (highest, second, lowest) = (&block[1..=places], &block[2..places + 2], &block[4..places + 4]);
    let mut least = u8::MAX;
    for index in 0..places {
        let length = (reach as u8).wrapping_sub(index as u8 + 1);
        least = least.min(highest[index] | second[index] | (lowest[index] ^ length));
    }
    least == 0
}

/// A CommandComplete or an ErrorResponse, or a message that may come at any time, and nothing more.
fn is_one_message(bytes: &[u8]) -> bool {
    let [kind @ (b'C' | b'E' | b'S' | b'A' | b'N'), a, b, c, d, body @ ..] = bytes else { return false };
    u32::from_be_bytes([*a, *b, *c, *d]) as usize == bytes.len() - 1
        && match kind {
            b'C' => is_tag(body),
            b'E' => is_error(body),
            b'S' => are_two_texts(body),
            b'A' => body.get(PROCESS_ID_BYTES..).is_some_and(are_two_texts),
            _ => read_fields(body, |_, _| {}),
        }
}

fn is_tag(body: &[u8]) -> bool {
    let [tag @ .., 0] = body else { return false };
    let in_tag = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b' ' | b'_');
    tag.len() <= TAG_BYTES_MAX && tag.first().is_some_and(u8::is_ascii_uppercase) && tag.iter().all(in_tag)
}

fn is_error(body: &[u8]) -> bool {
    let mut verbatim = false;
    body.first() == Some(&b'S')
        && read_fields(body, |field, text| verbatim |= field == b'V' && text == b"ERROR")
        && verbatim
}

fn are_two_texts(body: &[u8]) -> bool {
    body.ends_with(&[0]) && body.iter().filter(|byte| **byte == 0).count() == 2
}

/// Shows each field of an error or a notice; false where the body is not made of them.
fn read_fields(mut body: &[u8], mut see: impl FnMut(u8, &[u8])) -> bool {
    while let [field, rest @ ..] = body
        && *field != 0
    {
        let Some(end) = rest.iter().position(|byte| *byte == 0) else { return false };
        see(*field, &rest[..end]);
        body = &rest[end + 1..];
    }
    body == [0]
}

/// The last field is R, and with it the message ends.
fn ends_long_error(before: &[u8]) -> bool {
    let [fields @ .., 0, 0] = before else { return false };
    let near = &fields[fields.len().saturating_sub(ROUTINE_BYTES.end() + 2)..];
    let Some(nul) = near.iter().rposition(|byte| *byte == 0) else { return false };
    matches!(&near[nul + 1..], [b'R', routine @ ..] if ROUTINE_BYTES.contains(&routine.len()))
}

/// Whether an answer may end with these bytes and more.
fn may_begin_end(bytes: &[u8]) -> bool {
    let mut left = skip_message(bytes, b"CE123nsI");
    while let Some(bytes) = left {
        if READY.starts_with(&bytes[..bytes.len().min(READY.len())]) {
            return true;
        }
        left = skip_message(bytes, b"SAN");
    }
    false
}

/// What is left behind a message of one of these types, nothing if it goes on; None: there is none, or a
/// longer one than is looked for.
fn skip_message<'a>(bytes: &'a [u8], kinds: &[u8]) -> Option<&'a [u8]> {
    let (kind, rest) = bytes.split_first()?;
    if rest.first().is_some_and(|byte| *byte != 0) || !kinds.contains(kind) {
        return None;
    }
    let [a, b, c, d, ..] = rest else { return Some(&[]) };
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    let fits = if matches!(kind, b'C' | b'E' | b'S' | b'A' | b'N') { length > 4 } else { length == 4 };
    (fits && length < TAIL_BYTES).then(|| rest.get(length..).unwrap_or_default())
}

/// Whether a long error or notice may end with these bytes and more.
fn may_begin_routine(bytes: &[u8]) -> bool {
    let near = &bytes[bytes.len().saturating_sub(ROUTINE_BYTES.end() + 2)..];
    let field = near.iter().rposition(|byte| *byte == 0).map(|nul| &near[nul + 1..]);
    bytes.ends_with(b"\0\0Z") || bytes.ends_with(READY) || matches!(field, Some([] | [b'R', ..]))
}

#[cfg(test)]
mod tests;
