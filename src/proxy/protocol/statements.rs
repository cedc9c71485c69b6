//! What the statements under way could have done to a transaction, read from their text as it passes.
//!
//! Inside a transaction block only COMMIT, END and PREPARE TRANSACTION make anything lasting, and only
//! after a ROLLBACK or ABORT can another statement do so. CALL and DO cannot: with `IsTransactionBlock()`
//! they run as atomic (src/backend/tcop/utility.c, `isAtomicContext`), where SPI refuses to commit
//! (src/backend/executor/spi.c, `_SPI_commit`: "invalid transaction termination"); nor can a
//! FunctionCall. SQL's EXECUTE runs no transaction command (src/backend/parser/gram.y,
//! `PreparableStmt`). `COMMIT AND CHAIN` is a COMMIT.
//!
//! Words are looked for everywhere, in strings and comments, too: in doubt it is the worse case.

use super::framing::Part;

/// The statement may make something lasting.
const COMMITS: u8 = 1;
/// The statement may end the transaction, or a part of it.
const ROLLS_BACK: u8 = 2;

/// Names of prepared statements with one of the words that are told apart. A pool of one driver has two:
/// its COMMIT and its ROLLBACK.
const NAMES_MAX: usize = 4;

/// Where in a message the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Nothing,
    /// Query: its text.
    Query,
    /// Parse: the statement's name, then its text.
    ParseName,
    ParseText,
    /// Bind: the portal's name, then the statement's.
    BindPortal,
    BindStatement,
    /// Execute: the portal's name.
    ExecutePortal,
}

/// The statements of one session, as far as words go.
#[derive(Debug, Clone)]
pub struct Statements {
    words: Words,
    reading: Reading,
    name: Name,
    /// Of the Bind under way.
    to_named_portal: bool,
    /// Something under way may have made something lasting.
    risky: bool,
    /// A ROLLBACK may be under way.
    rolled_back: bool,
    /// What the statement without a name may do.
    unnamed: u8,
    /// What those may do that it replaced since all was answered: a Parse that is skipped after an error
    /// leaves the old one.
    replaced: u8,
    /// What the portal without a name may do, and those with a name together.
    unnamed_portal: u8,
    named_portals: u8,
    /// More than [`NAMES_MAX`] had one of the words.
    any_name: bool,
    named: [(u32, u8); NAMES_MAX],
}

impl Statements {
    pub fn new() -> Statements {
        Statements {
            words: Words::default(),
            reading: Reading::Nothing,
            name: Name::default(),
            to_named_portal: false,
            risky: true,
            rolled_back: false,
            unnamed: 0,
            replaced: 0,
            unnamed_portal: 0,
            named_portals: 0,
            any_name: false,
            named: [(0, 0); NAMES_MAX],
        }
    }

    /// Something under way may have made something lasting.
    pub fn is_risky(&self) -> bool {
        self.risky
    }

    /// The client sends something when everything before was answered.
    pub fn first_under_way(&mut self, in_transaction: bool) {
        self.risky = !in_transaction;
        self.rolled_back = false;
    }

    /// Everything was answered.
    pub fn settled(&mut self, in_transaction: bool) {
        self.replaced = 0;
        if !in_transaction {
            // Portals end with their transaction.
            (self.unnamed_portal, self.named_portals) = (0, 0);
        }
    }

    /// The server told of the end of a transaction while more is under way.
    pub fn outside_transaction(&mut self) {
        self.risky = true;
    }

    /// The server sent ErrorResponse.
    pub fn failed(&mut self) {
        self.unnamed |= self.replaced;
    }

    /// A part of any message of the client.
    pub fn see(&mut self, part: Part) {
        if part.begins {
            self.begin(part.kind);
        }
        if self.reading != Reading::Nothing {
            self.read(part.bytes);
            if part.is_last() {
                self.end();
            }
        }
    }

    fn begin(&mut self, kind: u8) {
        self.reading = match kind {
            b'Q' => {
                self.risky |= self.rolled_back;
                if self.risky { Reading::Nothing } else { Reading::Query }
            }
            b'P' => Reading::ParseName,
            b'B' => Reading::BindPortal,
            b'E' => Reading::ExecutePortal,
            b'F' => {
                self.risky |= self.rolled_back;
                Reading::Nothing
            }
            _ => Reading::Nothing,
        };
        self.words = Words::default();
        self.name = Name::default();
    }

    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (self.reading, *byte) {
                (Reading::Nothing, _) => return,
                (Reading::Query | Reading::ParseText, 0) => self.end(),
                (Reading::Query | Reading::ParseText, byte) => self.words.take(byte),
                (Reading::ParseName, 0) => self.reading = Reading::ParseText,
                (Reading::BindPortal, 0) => {
                    self.to_named_portal = self.name.is_given();
                    self.name = Name::default();
                    self.reading = Reading::BindStatement;
                }
                (Reading::BindStatement | Reading::ExecutePortal, 0) => self.end(),
                (_, byte) => self.name.take(byte),
            }
        }
    }

    /// All is read that matters in this message.
    fn end(&mut self) {
        match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Query => {
                self.words.take(0);
                self.risky |= self.words.may & COMMITS != 0 || self.words.more_after_rollback;
                self.rolled_back |= self.words.may & ROLLS_BACK != 0;
            }
            Reading::ParseText => {
                self.words.take(0);
                self.prepared(self.words.may);
            }
            Reading::BindStatement => {
                let may = if self.name.is_given() { self.named(self.name.hash) } else { self.unnamed };
                if self.to_named_portal {
                    self.named_portals |= may;
                } else {
                    self.unnamed_portal = may;
                }
            }
            Reading::ExecutePortal => {
                let may = if self.name.is_given() { self.named_portals } else { self.unnamed_portal };
                self.risky |= self.rolled_back || may & COMMITS != 0;
                self.rolled_back |= may & ROLLS_BACK != 0;
            }
            Reading::Nothing | Reading::ParseName | Reading::BindPortal => {}
        }
    }

    fn prepared(&mut self, may: u8) {
        if !self.name.is_given() {
            self.replaced |= self.unnamed;
            self.unnamed = may;
        } else if may != 0 {
            let hash = self.name.hash;
            match self.named.iter_mut().find(|(known, had)| *had == 0 || *known == hash) {
                Some(place) => *place = (hash, place.1 | may),
                None => self.any_name = true,
            }
        }
    }

    /// What a statement of that name may do. A name counts as long as the session lives, whatever else it
    /// is given to later.
    fn named(&self, hash: u32) -> u8 {
        if self.any_name {
            return COMMITS | ROLLS_BACK;
        }
        self.named.iter().filter(|(known, _)| *known == hash).fold(0, |may, (_, had)| may | had)
    }
}

/// A name as it passes. Two names with one hash are taken for one, which is the worse case for both.
#[derive(Debug, Clone, Copy)]
struct Name {
    hash: u32,
    given: bool,
}

impl Default for Name {
    fn default() -> Name {
        Name { hash: 0x811c_9dc5, given: false }
    }
}

impl Name {
    /// FNV-1a.
    fn take(&mut self, byte: u8) {
        self.hash = (self.hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        self.given = true;
    }

    fn is_given(&self) -> bool {
        self.given
    }
}

/// SQL text as it passes: which words were in it.
#[derive(Debug, Clone, Copy, Default)]
struct Words {
    /// The last eight letters of the word under way, in lower case.
    word: u64,
    /// Its bytes, as far as they matter.
    length: u8,
    may: u8,
    /// A statement's end was seen behind a ROLLBACK.
    end_after_rollback: bool,
    /// And something behind that.
    more_after_rollback: bool,
}

const fn letters(word: &[u8]) -> u64 {
    let (mut letters, mut at) = (0, 0);
    while at < word.len() {
        letters = letters << 8 | word[at] as u64;
        at += 1;
    }
    letters
}

const COMMIT: u64 = letters(b"commit");
const END: u64 = letters(b"end");
const PREPARE: u64 = letters(b"prepare");
const ROLLBACK: u64 = letters(b"rollback");
const ABORT: u64 = letters(b"abort");

impl Words {
    fn take(&mut self, byte: u8) {
        // An identifier's bytes in src/backend/parser/scan.l.
        if byte.is_ascii_alphanumeric() || byte >= 0x80 || byte == b'_' || byte == b'$' {
            self.word = self.word << 8 | u64::from(byte.to_ascii_lowercase());
            self.length = self.length.saturating_add(1);
            self.more_after_rollback |= self.end_after_rollback;
            return;
        }
        if self.length > 0 {
            self.word_ends();
        }
        match byte {
            b';' => self.end_after_rollback |= self.may & ROLLS_BACK != 0,
            0 | b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {}
            _ => self.more_after_rollback |= self.end_after_rollback,
        }
    }

    fn word_ends(&mut self) {
        self.may |= match (self.length, self.word) {
            (6, COMMIT) | (3, END) | (7, PREPARE) => COMMITS,
            (8, ROLLBACK) | (5, ABORT) => ROLLS_BACK,
            _ => 0,
        };
        (self.word, self.length) = (0, 0);
    }
}
