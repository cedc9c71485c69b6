//! What an ErrorResponse or a NoticeResponse says of the connection's end, read as it passes (protocol 3,
//! "Error and Notice Message Fields").

use super::framing::Part;

/// The fields that matter, of one message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notice {
    /// The last eight bytes of the field under way.
    value: u64,
    /// Its bytes, as far as they matter.
    length: u8,
    /// Its type; 0 between fields.
    field: u8,
    /// By the field V, which is never translated, and by S, which older servers have alone.
    severe: Option<bool>,
    severe_by_old: bool,
    closing: bool,
}

const fn text(bytes: &[u8]) -> u64 {
    let (mut text, mut at) = (0, 0);
    while at < bytes.len() {
        text = text << 8 | bytes[at] as u64;
        at += 1;
    }
    text
}

const FATAL: u64 = text(b"FATAL");
const PANIC: u64 = text(b"PANIC");
/// Class 57, operator intervention, of the kinds that end a session: shutdown, crash, dropped database.
const CLOSING: u64 = text(b"57P");
const SQLSTATE_BYTES: u8 = 5;

impl Notice {
    /// Takes in a part of an ErrorResponse or NoticeResponse; true once it is whole and says that the
    /// connection ends.
    pub fn take(&mut self, part: Part) -> bool {
        if part.begins {
            *self = Notice::default();
        }
        for byte in part.bytes {
            self.take_byte(*byte);
        }
        part.is_last() && if part.kind == b'E' { self.severe.unwrap_or(self.severe_by_old) } else { self.closing }
    }

    fn take_byte(&mut self, byte: u8) {
        match (self.field, byte) {
            (0, field) => self.field = field,
            (_, 0) => self.field_ends(),
            (b'S' | b'V' | b'C', byte) => {
                self.value = self.value << 8 | u64::from(byte);
                self.length = self.length.saturating_add(1);
            }
            _ => {}
        }
    }

    fn field_ends(&mut self) {
        let severe = self.length == 5 && matches!(self.value, FATAL | PANIC);
        match self.field {
            b'V' => self.severe = Some(severe),
            b'S' => self.severe_by_old = severe,
            b'C' => self.closing = self.length == SQLSTATE_BYTES && self.value >> 16 == CLOSING,
            _ => {}
        }
        (self.field, self.value, self.length) = (0, 0, 0);
    }
}
