//! A client that says anything at any time to a modelled server, whose answers come late: what a session is
//! said to be must be true of the server, also when it reads all that was sent to it. With an orderly
//! client an idle session is also recognized as one.
//!
//! The first byte of the input says whether the client is orderly. The lower six bits of each other one are
//! a message, a step of the server or the delivery of one answer; the upper two let the server run and
//! deliver all answers after that.
//!
//! While rows come the conversation may look away. Then either rows alone pass unseen, as they do where the
//! end of what a server sends is always seen, and the end must be found. Or everything does, and what it
//! is said to be must be true all the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvane_fuzz::pieces;
use pgvane_fuzz::protocol::conversation::{Conversation, Standing};
use pgvane_fuzz::server::{Said, Server, Sql};

/// What a byte says beside its message.
const SERVER_RUNS: u8 = 0x40;
const ALL_DELIVERED: u8 = 0x80;
/// The first byte behind the messages.
const COPY_BY_BATCH: u8 = 45;
const ROWS_UNSEEN: u8 = 46;
const ALL_UNSEEN: u8 = 47;
const SEEN_AGAIN: u8 = 48;
const ROWS: u8 = 49;
const ROWS_BY_BATCH: u8 = 50;
const ROWS_THEN_FAILS: u8 = 51;

/// Which answers pass without the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unseen {
    Nothing,
    Rows,
    All,
}

#[derive(Debug)]
enum Step {
    Said(Said),
    Answered(Vec<u8>),
    Unseen(Vec<u8>),
    LookedAway,
}

struct Session {
    server: Server,
    conversation: Conversation,
    /// Lasting changes that the last ReadyForQuery told the client of.
    known: usize,
    script: Vec<Step>,
    orderly: bool,
    /// A batch is open.
    unsynced: bool,
    /// A COPY was asked for and its end was not sent.
    copying: bool,
    /// Of the COPY: it is by a batch.
    by_batch: bool,
    unseen: Unseen,
    /// Something else than rows passed unseen.
    missed: bool,
}

fn said(byte: u8) -> Option<Said> {
    use Sql::*;
    Some(match byte {
        0 => Said::Query(vec![Select]),
        1 => Said::Query(vec![Insert]),
        2 => Said::Query(vec![Begin]),
        3 => Said::Query(vec![Commit]),
        4 => Said::Query(vec![Rollback]),
        5 => Said::Query(vec![CommitAndChain]),
        6 => Said::Query(vec![PrepareTransaction]),
        7 => Said::Query(vec![RollbackTo]),
        8 => Said::Query(vec![Fails]),
        9 => Said::Query(vec![Insert, Rollback, Insert]),
        10 => Said::Query(vec![Begin, Insert, Commit]),
        11 => Said::Query(vec![]),
        12 => Said::Query(vec![CopyIn]),
        13 => Said::Query(vec![CopyIn, CopyIn]),
        14 => Said::Query(vec![CopyInFails]),
        15 => Said::Parse("", Insert),
        16 => Said::Parse("", Commit),
        17 => Said::Parse("", Begin),
        18 => Said::Parse("", Rollback),
        19 => Said::Parse("", CopyIn),
        20 => Said::Parse("", CopyInFails),
        21 => Said::Parse("a", Insert),
        22 => Said::Parse("b", Commit),
        23 => Said::Parse("c", Rollback),
        24 => Said::Parse("d", Begin),
        25 => Said::Bind("", ""),
        26 => Said::Bind("", "a"),
        27 => Said::Bind("", "b"),
        28 => Said::Bind("", "c"),
        29 => Said::Bind("", "d"),
        30 => Said::Bind("p", ""),
        31 => Said::Bind("p", "b"),
        32 => Said::Bind("q", "c"),
        33 => Said::Execute(""),
        34 => Said::Execute("p"),
        35 => Said::Execute("q"),
        36 => Said::Describe(""),
        37 => Said::Describe("nobody"),
        38 => Said::Call,
        39 => Said::Sync,
        40 => Said::Flush,
        41 => Said::CopyData { good: true },
        42 => Said::CopyData { good: false },
        43 => Said::CopyDone,
        44 => Said::CopyFail,
        ROWS => Said::Query(vec![Rows]),
        ROWS_BY_BATCH => Said::Parse("", Rows),
        ROWS_THEN_FAILS => Said::Query(vec![Rows, Fails]),
        _ => return None,
    })
}

impl Session {
    fn act(&mut self, byte: u8) {
        match said(byte & 0x3f) {
            Some(said) if self.orderly => self.say_in_order(said),
            Some(said) => self.say(said),
            None if self.orderly && byte & 0x3f == COPY_BY_BATCH => self.copy_by_batch(),
            None if byte & 0x3f == ROWS_UNSEEN => self.look_away(Unseen::Rows),
            None if byte & 0x3f == ALL_UNSEEN => self.look_away(Unseen::All),
            None if byte & 0x3f == SEEN_AGAIN => self.unseen = Unseen::Nothing,
            None if byte & 1 == 0 => {
                self.server.step();
            }
            None => {
                self.deliver();
            }
        }
        self.check();
        while byte & SERVER_RUNS != 0 && self.server.step() {
            self.check();
        }
        while byte & ALL_DELIVERED != 0 && self.deliver() {
            self.check();
        }
    }

    fn say(&mut self, said: Said) {
        self.conversation.sent_to_server(&said.bytes());
        self.server.hear(said.clone());
        self.script.push(Step::Said(said));
    }

    fn deliver(&mut self) -> bool {
        let Some(answer) = self.server.answers.pop_front() else { return false };
        if answer.kind == b'Z' {
            self.known = answer.lasting;
        }
        let is_row = answer.kind == b'D';
        if self.unseen == Unseen::All || (self.unseen == Unseen::Rows && is_row) {
            self.missed |= !is_row;
            self.script.push(Step::Unseen(answer.bytes));
            return true;
        }
        self.unseen = Unseen::Nothing;
        for piece in pieces(&answer.bytes, self.script.len() as u32, 9) {
            self.conversation.sent_to_client(piece);
        }
        self.script.push(Step::Answered(answer.bytes));
        true
    }

    fn look_away(&mut self, unseen: Unseen) {
        if self.conversation.may_look_away() {
            self.conversation.look_away();
            self.script.push(Step::LookedAway);
            self.unseen = unseen;
        }
    }

    /// What drivers do: no Query in an open batch, nothing but COPY's own messages while a COPY was asked
    /// for, its end only when the server has announced it, and no COPY that fails.
    fn is_in_order(&self, said: &Said) -> bool {
        match said {
            Said::Flush => true,
            Said::CopyData { good } => *good && self.copying,
            Said::CopyDone => self.copying && self.server.waits_for_copy(),
            Said::CopyFail => false,
            _ if self.copying => false,
            Said::Query(list) if *list == [Sql::CopyIn] => !self.unsynced && self.server.ran_on().block() != b'E',
            Said::Query(list) => !self.unsynced && !list.iter().any(|sql| sql.copies()),
            Said::Call => !self.unsynced,
            Said::Parse(_, sql) => !sql.copies(),
            Said::Bind(_, name) => !self.server.ran_on().would_copy(name),
            Said::Execute(_) | Said::Describe(_) | Said::Sync => true,
        }
    }

    fn say_in_order(&mut self, said: Said) {
        if !self.is_in_order(&said) {
            return;
        }
        match &said {
            Said::Query(list) => (self.copying, self.by_batch) = (*list == [Sql::CopyIn], false),
            Said::Parse(..) | Said::Bind(..) | Said::Execute(_) | Said::Describe(_) => self.unsynced = true,
            Said::Sync => self.unsynced = false,
            _ => {}
        }
        let ends_copy = said == Said::CopyDone;
        self.say(said);
        if ends_copy {
            self.copying = false;
            if self.by_batch {
                self.say(Said::Sync);
            }
        }
    }

    /// As libpq and tokio-postgres do: the first Sync is passed over.
    fn copy_by_batch(&mut self) {
        if !self.unsynced && !self.copying && self.server.ran_on().block() != b'E' {
            (self.copying, self.by_batch) = (true, true);
            for said in [Said::Parse("", Sql::CopyIn), Said::Bind("", ""), Said::Execute(""), Said::Sync] {
                self.say(said);
            }
        }
    }

    fn check(&self) {
        let standing = self.conversation.standing();
        if standing != Standing::Unknown {
            let lost = self.server.ran_on().lasting != self.known;
            assert!(!lost, "{standing:?}, and something lasts that nobody was told of:\n{}", self.page());
        }
        if self.conversation.is_idle() {
            let silent = self.server.answers.is_empty();
            assert!(silent && self.server.is_at_rest(), "idle, and the server is not:\n{}", self.page());
        }
    }

    /// What happened, one message a line.
    fn page(&self) -> String {
        let line = |step: &Step| match step {
            Step::Said(said) => format!("> {said:?}"),
            Step::Answered(bytes) => format!("< {}", bytes.escape_ascii()),
            Step::Unseen(bytes) => format!("(< {})", bytes.escape_ascii()),
            Step::LookedAway => "looked away".to_owned(),
        };
        self.script.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Lets everything end, and asks whether that was seen.
    fn settle(mut self) {
        while self.server.step() {}
        while self.deliver() {}
        self.check();
        if self.orderly && !self.missed && !self.unsynced && !self.copying && !self.server.is_gone {
            let expected = match self.server.block() {
                b'I' => Standing::Idle,
                _ => Standing::InTransaction { busy: false },
            };
            assert_eq!(self.conversation.standing(), expected, "at the end of:\n{}", self.page());
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let mut session = Session {
        server: Server::default(),
        conversation: Conversation::plaintext(),
        known: 0,
        script: Vec::new(),
        orderly: first & 1 == 1,
        unsynced: false,
        copying: false,
        by_batch: false,
        unseen: Unseen::Nothing,
        missed: false,
    };
    for byte in rest {
        session.act(*byte);
    }
    session.settle();
});
