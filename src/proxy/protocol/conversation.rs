//! What a session is doing, read from the bytes that pass: whether it is idle, in a transaction, or
//! could have committed something that nobody has confirmed.
//!
//! **In doubt it is the worse case.** Whatever is not understood (a deep pipeline, a COPY at an odd
//! place) reads as "unknown", never as idle and never as rolled back.

use super::framing::Framer;

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
    /// In the middle of a message, or it is not known where one ends.
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
    to_server: Framer,
    to_client: Framer,
}

impl Conversation {
    /// A session whose StartupMessage was sent to its server and not answered yet.
    pub fn plaintext() -> Conversation {
        Conversation { encrypted: false, to_server: Framer::default(), to_client: Framer::default() }
    }

    /// One whose bytes cannot be read.
    pub fn encrypted() -> Conversation {
        Conversation { encrypted: true, ..Conversation::plaintext() }
    }

    /// These bytes of the client were given to the server's socket.
    pub fn sent_to_server(&mut self, bytes: &[u8]) {
        self.to_server.advance(bytes, |_| {});
    }

    /// These bytes of the server were given to the client's socket.
    pub fn sent_to_client(&mut self, bytes: &[u8]) {
        self.to_client.advance(bytes, |_| {});
    }

    /// Whether the session may be closed without losing more than the connection: it is
    /// [`Standing::Idle`], can be told so, and its client is not in the middle of a message.
    pub fn is_idle(&self) -> bool {
        self.standing() == Standing::Idle && self.hearing() == Hearing::Open && self.to_server.is_at_boundary()
    }

    /// Unreadable sessions are [`Standing::Unknown`].
    pub fn standing(&self) -> Standing {
        Standing::Unknown
    }

    pub fn hearing(&self) -> Hearing {
        if self.encrypted { Hearing::Encrypted } else { Hearing::Torn }
    }

    /// The server's key for cancels, once, when it has passed.
    pub fn take_key(&mut self) -> Option<CancelKey> {
        None
    }

    /// How many of these bytes, which the server sends next, end with its AuthenticationOk; from there on
    /// every driver takes a notice. None: it is not among them.
    pub fn after_authentication(&self, next_to_client: &[u8]) -> Option<usize> {
        let _ = next_to_client;
        None
    }
}
