//! What a session is doing, read from the bytes that pass: whether it is idle, in a transaction, or
//! could have committed something that nobody has confirmed.
//!
//! **In doubt it is the worse case.** Whatever is not understood (a deep pipeline, a COPY at an odd
//! place) reads as "unknown", never as idle and never as rolled back.

use super::framing::{Framer, Part};
use super::notices::Notice;
use super::owed::Owed;
use super::sight::{Found, Search};
use super::startup::CANCEL_KEY_BYTES_MAX;
use super::statements::Statements;

/// The statuses in a ReadyForQuery.
const IDLE: u8 = b'I';
const IN_TRANSACTION: u8 = b'T';
const IN_FAILED_TRANSACTION: u8 = b'E';
/// Ours: there was none yet.
const BEFORE_READY: u8 = 0;
const PROCESS_ID_BYTES: usize = 4;
const AUTHENTICATION_CODE_BYTES: u32 = 4;

/// A key for cancels: process id and secret, as in BackendKeyData without its header. Up to 4 + 256
/// bytes (protocol 3.2).
pub type CancelKey = Box<[u8]>;

/// What would be lost if the session ended now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Before the first ReadyForQuery: nothing was run.
    Startup,
    /// No transaction is open and nothing is under way.
    Idle,
    /// A transaction is open and no COMMIT or PREPARE can be under way: it is rolled back for certain.
    /// `busy`: a statement is under way.
    InTransaction { busy: bool },
    /// Something under way may have been committed.
    Unknown,
}

/// Whether the client can be told something now, between two messages of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    Open,
    /// Encrypted from end to end.
    Encrypted,
    /// In the middle of a message, or it is not known where one ends: in what passes unseen, or behind it.
    Torn,
    /// Its server has told it the end already (an error with severity FATAL or PANIC, or a notice of
    /// class 57P: PostgreSQL's backends send a WARNING 57P02 when another one crashed).
    Told,
    /// It said goodbye (Terminate).
    Leaving,
}

/// Both directions of one session. Small: one lives in every session.
#[derive(Debug)]
pub struct Conversation {
    encrypted: bool,
    /// The status in the last ReadyForQuery; 0 before the first.
    status: u8,
    authentication: Authentication,
    /// The last word of the server was that it ends the connection.
    told: bool,
    leaving: bool,
    key_whole: bool,
    to_server: Framer,
    to_client: Framer,
    owed: Owed,
    notice: Notice,
    statements: Statements,
    key: Option<CancelKey>,
    /// Something of the server passed unseen, and where its answer ends was not found since.
    search: Option<Box<Search>>,
}

impl Conversation {
    /// A session whose StartupMessage was sent to its server and not answered yet.
    pub fn plaintext() -> Conversation {
        Conversation {
            encrypted: false,
            status: 0,
            authentication: Authentication::Asked,
            told: false,
            leaving: false,
            key_whole: false,
            to_server: Framer::default(),
            to_client: Framer::default(),
            owed: Owed::startup(),
            notice: Notice::default(),
            statements: Statements::new(),
            key: None,
            search: None,
        }
    }

    /// One whose bytes cannot be read.
    pub fn encrypted() -> Conversation {
        Conversation { encrypted: true, ..Conversation::plaintext() }
    }

    /// These bytes of the client were given to the server's socket.
    pub fn sent_to_server(&mut self, bytes: &[u8]) {
        if self.encrypted {
            return;
        }
        let mut framer = self.to_server.clone();
        framer.advance(bytes, |part| self.see_client(part));
        self.to_server = framer;
    }

    /// These bytes of the server were given to the client's socket. After [`Conversation::look_away`] they are
    /// searched for the end of the answer, and framed again from there on.
    pub fn sent_to_client(&mut self, bytes: &[u8]) {
        if self.encrypted {
            return;
        }
        let Some(search) = &mut self.search else { return self.frame(bytes) };
        if let Some(Found { earlier, rest, behind_error }) = search.take(bytes) {
            (self.search, self.to_client) = (None, Framer::default());
            if behind_error {
                self.begin_server(b'E');
            }
            self.frame(&earlier);
            self.frame(rest);
        }
    }

    /// Whether bytes of the server may pass unseen: it sends rows or the data of a COPY, and owes the end of
    /// one answer, so that there is one end to find afterwards. No is for now: what was seen last may be a
    /// part of that end.
    pub fn may_look_away(&self) -> bool {
        let in_data = match &self.search {
            Some(search) => !search.is_amid_end(),
            None => self.is_in_data(),
        };
        self.encrypted || (in_data && self.owes_one_end())
    }

    /// From here on bytes of the server pass unseen, up to the next [`Conversation::sent_to_client`]. Of what
    /// passes before the server pauses, the last [`super::sight::TAIL_BYTES`] must be seen: a session whose
    /// answer ended unseen is not idle again. Nor is one that looks away where it may not.
    pub fn look_away(&mut self) {
        if self.encrypted {
            return;
        }
        if !self.owes_one_end() || (self.search.is_none() && !self.is_in_data()) {
            self.owed.lose();
        }
        self.told = false;
        self.search.get_or_insert_default().forget();
    }

    fn is_in_data(&self) -> bool {
        matches!(self.to_client.kind(), b'D' | b'd')
    }

    fn owes_one_end(&self) -> bool {
        let lost = self.to_server.is_lost() || self.to_client.is_lost();
        !lost && self.status != BEFORE_READY && self.owed.is_one_answer()
    }

    fn frame(&mut self, bytes: &[u8]) {
        let mut framer = self.to_client.clone();
        framer.advance(bytes, |part| self.see_server(part));
        self.to_client = framer;
    }

    /// Whether the session may be closed without losing more than the connection: it is
    /// [`Standing::Idle`], can be told so, and its client is not in the middle of a message.
    pub fn is_idle(&self) -> bool {
        self.standing() == Standing::Idle && self.hearing() == Hearing::Open && self.to_server.is_at_boundary()
    }

    /// Unreadable sessions are [`Standing::Unknown`].
    pub fn standing(&self) -> Standing {
        if self.encrypted || self.to_server.is_lost() || self.to_client.is_lost() {
            return Standing::Unknown;
        }
        match (self.owed.is_settled(), self.status) {
            (false, BEFORE_READY) if self.owed.is_startup_alone() => Standing::Startup,
            (true, IDLE) => Standing::Idle,
            (true, IN_TRANSACTION | IN_FAILED_TRANSACTION) => Standing::InTransaction { busy: false },
            (false, IN_TRANSACTION | IN_FAILED_TRANSACTION) if !self.statements.is_risky() => {
                Standing::InTransaction { busy: true }
            }
            _ => Standing::Unknown,
        }
    }

    /// Whether a server that gets Terminate now ends at once: it has nothing else to do, and no message of the client
    /// is under way.
    pub fn server_waits(&self) -> bool {
        let waits = matches!(self.standing(), Standing::Idle | Standing::InTransaction { busy: false });
        waits && self.to_server.is_at_boundary()
    }

    /// The client has said Terminate.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    pub fn hearing(&self) -> Hearing {
        if self.encrypted {
            Hearing::Encrypted
        } else if self.leaving {
            Hearing::Leaving
        } else if self.told {
            Hearing::Told
        } else if self.search.is_some() || !self.to_client.is_at_boundary() {
            Hearing::Torn
        } else {
            Hearing::Open
        }
    }

    /// The server's key for cancels, once, when it has passed.
    pub fn take_key(&mut self) -> Option<CancelKey> {
        if self.key_whole && self.search.is_none() { self.key.take() } else { None }
    }

    /// How many of these bytes, which the server sends next, end with its AuthenticationOk; from there on
    /// every driver takes a notice. None: it is not among them.
    pub fn after_authentication(&self, next_to_client: &[u8]) -> Option<usize> {
        if self.encrypted || self.search.is_some() || self.authentication == Authentication::Over {
            return None;
        }
        let (mut authentication, mut found) = (self.authentication, None);
        self.to_client.clone().advance(next_to_client, |part| {
            authentication = authentication.after(part);
            if found.is_none() && authentication == Authentication::Over {
                found = Some(part.bytes.as_ptr_range().end.addr() - next_to_client.as_ptr().addr());
            }
        });
        found
    }

    fn in_transaction(&self) -> bool {
        matches!(self.status, IN_TRANSACTION | IN_FAILED_TRANSACTION)
    }

    fn see_client(&mut self, part: Part) {
        let begins_statement =
            part.begins && matches!(part.kind, b'Q' | b'F' | b'P' | b'B' | b'E' | b'D' | b'C' | b'S');
        if begins_statement && self.owed.is_settled() {
            self.statements.first_under_way(self.in_transaction());
        }
        if begins_statement && self.search.is_some() {
            // An error may have passed unseen, and what is sent now may be skipped for it.
            self.statements.failed();
        }
        self.statements.see(part);
        // A server obeys whole messages alone.
        if part.is_last() {
            self.client_said(part.kind);
        }
    }

    fn client_said(&mut self, kind: u8) {
        match kind {
            b'Q' | b'F' => self.owed.sent_query(),
            b'P' | b'B' | b'E' | b'D' | b'C' => self.owed.sent_to_batch(),
            b'S' => self.owed.sent_sync(),
            b'c' | b'f' => self.owed.sent_end_of_copy(),
            b'X' => self.leaving = true,
            // Flush; CopyData, which a server outside of COPY ignores; answers to its questions at the start.
            b'H' | b'd' | b'p' => {}
            _ => self.owed.lose(),
        }
    }

    fn see_server(&mut self, part: Part) {
        if part.begins {
            self.begin_server(part.kind);
        }
        match part.kind {
            b'Z' => {
                if let [status, ..] = part.bytes
                    && part.offset == 0
                {
                    self.ready(*status);
                }
            }
            b'E' | b'N' => self.told = self.notice.take(part),
            b'R' => self.authentication = self.authentication.after(part),
            b'K' if self.status == BEFORE_READY => self.see_key(part),
            _ => {}
        }
    }

    fn begin_server(&mut self, kind: u8) {
        self.told = false;
        match kind {
            b'G' | b'W' => self.owed.copy_begins(),
            b'C' => self.owed.completed(),
            b'E' => {
                self.owed.failed();
                self.statements.failed();
            }
            // They come at any time (protocol 3, "Asynchronous Operations"); ReadyForQuery with its status.
            b'Z' | b'N' | b'A' | b'S' => {}
            _ => self.owed.answered(),
        }
    }

    fn ready(&mut self, status: u8) {
        self.status = status;
        self.owed.ready();
        if self.owed.is_settled() {
            self.statements.settled(self.in_transaction());
        }
        if !self.in_transaction() {
            self.statements.outside_transaction();
        }
    }

    fn see_key(&mut self, part: Part) {
        let secret = (part.body_len as usize).saturating_sub(PROCESS_ID_BYTES);
        if part.begins {
            self.key_whole = false;
            let readable = (1..=CANCEL_KEY_BYTES_MAX).contains(&secret);
            self.key = readable.then(|| vec![0; PROCESS_ID_BYTES + secret].into());
        }
        let at = part.offset as usize;
        if let Some(place) = self.key.as_mut().and_then(|key| key.get_mut(at..at + part.bytes.len())) {
            place.copy_from_slice(part.bytes);
            self.key_whole = part.is_last();
        }
    }
}

/// How far the server's "Authentication" messages have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Authentication {
    Asked,
    /// One is under way that is an AuthenticationOk so far.
    Perhaps,
    Over,
}

impl Authentication {
    fn after(self, part: Part) -> Authentication {
        if self == Authentication::Over || part.kind != b'R' {
            return self;
        }
        let so_far = part.begins || self == Authentication::Perhaps;
        let ok = part.body_len == AUTHENTICATION_CODE_BYTES && part.bytes.iter().all(|byte| *byte == 0);
        match so_far && ok {
            true if part.is_last() => Authentication::Over,
            true => Authentication::Perhaps,
            false => Authentication::Asked,
        }
    }
}

#[cfg(test)]
mod tests;
