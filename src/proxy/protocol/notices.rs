//! What an ErrorResponse or a NoticeResponse says of the connection's end, read as it passes (protocol 3,
//! "Error and Notice Message Fields").

use super::framing::Part;
use super::spelling::Spelling;

const SEVERE: [&[u8]; 2] = [b"FATAL", b"PANIC"];
/// Operator intervention of the kinds that end a session: shutdown, crash, dropped database.
const CLOSING: [&[u8]; 1] = [b"57P"];

/// The fields that matter, of one message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notice {
    /// The type of the field under way; 0 between fields.
    field: u8,
    value: Spelling,
    /// By the field V, which is never translated, if there was one: PostgreSQL has it from 9.6 on.
    severe: Option<bool>,
    /// By the field S.
    severe_translated: bool,
    closing: bool,
}

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
        let ends = if part.kind == b'E' { self.severe.unwrap_or(self.severe_translated) } else { self.closing };
        ends && part.is_last()
    }

    fn take_byte(&mut self, byte: u8) {
        match (self.field, byte) {
            (0, field) => self.field = field,
            (_, 0) => {
                match self.field {
                    b'V' => self.severe = Some(self.value.word(&SEVERE).is_some()),
                    b'S' => self.severe_translated = self.value.word(&SEVERE).is_some(),
                    b'C' => self.closing = self.value.word(&CLOSING).is_some(),
                    _ => {}
                }
                (self.field, self.value) = (0, Spelling::default());
            }
            (b'V' | b'S', byte) => self.value.take(byte, &SEVERE),
            // The class is enough.
            (b'C', byte) if self.value.word(&CLOSING).is_none() => self.value.take(byte, &CLOSING),
            _ => {}
        }
    }
}
