//! Whether a session can be idle, counted anew from all its messages each time, with none of the relay's
//! economy: a message is kept whole.

/// All that passed, in order; the bytes that do not make a message yet.
#[derive(Default)]
pub struct Log {
    messages: Vec<Entry>,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
}

struct Entry {
    of_client: bool,
    kind: u8,
    body: Vec<u8>,
}

impl Log {
    pub fn add(&mut self, of_client: bool, bytes: &[u8]) {
        let tail = if of_client { &mut self.from_client } else { &mut self.from_server };
        tail.extend(bytes);
        while let Some((kind, body)) = cut(tail) {
            self.messages.push(Entry { of_client, kind, body });
        }
    }

    /// False where the session has certainly something under way.
    pub fn may_be_idle(&self) -> bool {
        let (mut owed, mut unsynced, mut status, mut reads_copy) = (Vec::from([b'*']), false, 0, false);
        // A Sync that COPY takes away, unless it failed before.
        let (mut passed_over, mut failed) = (false, false);
        for Entry { of_client, kind, body } in &self.messages {
            match (of_client, kind) {
                (true, b'S') if reads_copy => passed_over = true,
                (true, b'Q' | b'F' | b'S') => owed.push(*kind),
                (true, b'P' | b'B' | b'E' | b'D' | b'C') => unsynced = true,
                (true, b'c' | b'f') => reads_copy = false,
                (false, b'E') => (reads_copy, failed) = (false, failed || passed_over),
                (false, b'C') => (reads_copy, passed_over) = (false, false),
                (false, b'G' | b'W') => {
                    reads_copy = true;
                    if owed.first() == Some(&b'S') {
                        owed.remove(0);
                        (unsynced, passed_over) = (true, true);
                    }
                }
                (false, b'Z') => {
                    if let Some(said) = body.first() {
                        status = *said;
                        unsynced &= !(failed && owed.is_empty());
                        (passed_over, failed) = (false, false);
                        owed = owed.split_off(owed.len().min(1));
                    }
                    reads_copy = false;
                }
                _ => {}
            }
            if *of_client && *kind == b'S' && !reads_copy {
                unsynced = false;
            }
        }
        owed.is_empty()
            && !unsynced
            && !reads_copy
            && status == b'I'
            && self.from_client.is_empty()
            && self.from_server.is_empty()
    }
}

fn cut(tail: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let length = u32::from_be_bytes(tail.get(1..5)?.try_into().ok()?) as usize;
    if length < 4 || tail.len() < length + 1 {
        return None;
    }
    let rest = tail.split_off(length + 1);
    let message = std::mem::replace(tail, rest);
    Some((message[0], message[5..].to_vec()))
}
