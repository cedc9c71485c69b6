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
use super::spelling::Spelling;

/// The statement may make something lasting.
const COMMITS: u8 = 1;
/// The statement may end the transaction, or a part of it.
const ROLLS_BACK: u8 = 2;

/// The words, in lower case, and what they may do.
const WORDS: [&[u8]; 5] = [b"commit", b"end", b"prepare", b"rollback", b"abort"];
const MAY: [u8; WORDS.len()] = [COMMITS, COMMITS, COMMITS, ROLLS_BACK, ROLLS_BACK];

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
    BindStatement {
        to_named_portal: bool,
    },
    /// Execute: the portal's name.
    ExecutePortal,
}

/// The statements of one session, as far as words go.
#[derive(Debug, Clone)]
pub struct Statements {
    words: Words,
    reading: Reading,
    name: Name,
    /// Something under way may have made something lasting.
    risky: bool,
    /// A ROLLBACK may be under way.
    rolled_back: bool,
    /// An error came since all was answered, and what followed it may have been skipped.
    failed: bool,
    /// What the statement without a name may do.
    unnamed: u8,
    /// What those may do that it replaced since all was answered: a Parse that is skipped after an error
    /// leaves the old one.
    replaced: u8,
    /// What the portal without a name may do, and those with a name together.
    unnamed_portal: u8,
    named_portals: u8,
    /// Prepared statements with a name that may do so.
    commit_names: Names,
    rollback_names: Names,
}

impl Statements {
    pub fn new() -> Statements {
        Statements {
            words: Words::default(),
            reading: Reading::Nothing,
            name: Name::default(),
            risky: true,
            rolled_back: false,
            failed: false,
            unnamed: 0,
            replaced: 0,
            unnamed_portal: 0,
            named_portals: 0,
            commit_names: Names::default(),
            rollback_names: Names::default(),
        }
    }

    /// Something under way may have made something lasting.
    pub fn is_risky(&self) -> bool {
        self.risky
    }

    /// The client begins to send something when everything before was answered.
    pub fn first_under_way(&mut self, in_transaction: bool) {
        self.risky = !in_transaction;
        self.rolled_back = false;
    }

    /// Everything was answered.
    pub fn settled(&mut self, in_transaction: bool) {
        self.unnamed = self.unnamed();
        (self.replaced, self.failed) = (0, false);
        if !in_transaction {
            // Portals end with their transaction.
            (self.unnamed_portal, self.named_portals) = (0, 0);
        }
    }

    /// The server told that no transaction is open, and the client may have begun to send more.
    pub fn outside_transaction(&mut self) {
        self.risky = true;
    }

    /// The server sent ErrorResponse.
    pub fn failed(&mut self) {
        self.failed = true;
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

    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            match (self.reading, *byte) {
                (Reading::Nothing, _) => return,
                // What follows the text of a Parse, numbers of types, is read with it.
                (Reading::Query | Reading::ParseText, _) => return self.words.take(bytes),
                (Reading::ParseName, 0) => self.reading = Reading::ParseText,
                (Reading::BindPortal, 0) => {
                    self.reading = Reading::BindStatement { to_named_portal: self.name.is_given() };
                    self.name = Name::default();
                }
                (Reading::BindStatement { .. } | Reading::ExecutePortal, 0) => self.end(),
                (_, byte) => self.name.take(byte),
            }
            bytes = rest;
        }
    }

    /// All is read that matters in this message.
    fn end(&mut self) {
        match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Query => {
                self.words.take(&[0]);
                self.risky |= self.words.may & COMMITS != 0 || self.words.rollback == Rollback::Followed;
                self.rolled_back |= self.words.may & ROLLS_BACK != 0;
            }
            Reading::ParseText => {
                self.words.take(&[0]);
                self.prepared(self.words.may);
            }
            Reading::BindStatement { to_named_portal } => {
                let may = if self.name.is_given() { self.named(self.name.hash) } else { self.unnamed() };
                if to_named_portal {
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
        } else {
            if may & COMMITS != 0 {
                self.commit_names.add(self.name.hash);
            }
            if may & ROLLS_BACK != 0 {
                self.rollback_names.add(self.name.hash);
            }
        }
    }

    fn unnamed(&self) -> u8 {
        if self.failed { self.unnamed | self.replaced } else { self.unnamed }
    }

    /// What a statement of that name may do.
    fn named(&self, hash: u32) -> u8 {
        let commits = if self.commit_names.has(hash) { COMMITS } else { 0 };
        let rolls_back = if self.rollback_names.has(hash) { ROLLS_BACK } else { 0 };
        commits | rolls_back
    }
}

/// Names of a session's whole life, whatever else they are given to later: a Bloom filter of 64 bits, two
/// of them for each name. Drivers give a name to their COMMIT when it has come a few times; what else is
/// prepared must not look like it.
#[derive(Debug, Clone, Copy, Default)]
struct Names(u64);

impl Names {
    fn add(&mut self, hash: u32) {
        self.0 |= Names::bits(hash);
    }

    fn has(self, hash: u32) -> bool {
        self.0 & Names::bits(hash) == Names::bits(hash)
    }

    fn bits(hash: u32) -> u64 {
        (1 << (hash % u64::BITS)) | (1 << ((hash >> 16) % u64::BITS))
    }
}

/// A name as it passes: its hash, which is [`NO_NAME`] for the empty one alone.
#[derive(Debug, Clone, Copy)]
struct Name {
    hash: u32,
}

/// FNV-1a, 32 bits.
const NO_NAME: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

impl Default for Name {
    fn default() -> Name {
        Name { hash: NO_NAME }
    }
}

impl Name {
    fn take(&mut self, byte: u8) {
        self.hash = (self.hash ^ u32::from(byte)).wrapping_mul(PRIME);
        self.hash ^= u32::from(self.hash == NO_NAME);
    }

    fn is_given(self) -> bool {
        self.hash != NO_NAME
    }
}

/// SQL text as it passes: which words were in it.
#[derive(Debug, Clone, Copy, Default)]
struct Words {
    word: Spelling,
    may: u8,
    rollback: Rollback,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Rollback {
    #[default]
    None,
    /// Its word was there.
    Said,
    /// A semicolon came after it.
    Ended,
    /// And another statement after that.
    Followed,
}

/// The bytes of an identifier in src/backend/parser/scan.l.
const IN_WORD: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < table.len() {
        let ascii = byte as u8;
        table[byte] = ascii.is_ascii_alphanumeric() || ascii >= 0x80 || ascii == b'_' || ascii == b'$';
        byte += 1;
    }
    table
};

impl Words {
    fn take(&mut self, mut text: &[u8]) {
        while let Some((byte, rest)) = text.split_first() {
            text = rest;
            if !IN_WORD[usize::from(*byte)] {
                if !self.word.is_fresh() {
                    self.word_ends();
                }
                self.follow(*byte);
                continue;
            }
            self.follow(*byte);
            self.word.take(byte.to_ascii_lowercase(), &WORDS);
            if self.word.is_none_of_them() {
                let end = text.iter().position(|byte| !IN_WORD[usize::from(*byte)]);
                text = end.map_or(&[], |end| &text[end..]);
            }
        }
    }

    fn word_ends(&mut self) {
        let may = self.word.word(&WORDS).and_then(|index| MAY.get(index)).map_or(0, |may| *may);
        self.may |= may;
        if may & ROLLS_BACK != 0 && self.rollback == Rollback::None {
            self.rollback = Rollback::Said;
        }
        self.word = Spelling::default();
    }

    fn follow(&mut self, byte: u8) {
        self.rollback = match (self.rollback, byte) {
            (Rollback::Said, b';') => Rollback::Ended,
            (Rollback::Ended, 0 | b';' | b' ' | b'\t'..=b'\r') => Rollback::Ended,
            (Rollback::Ended, _) => Rollback::Followed,
            (as_it_was, _) => as_it_was,
        };
    }
}

#[cfg(test)]
mod tests;
