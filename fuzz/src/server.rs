//! A PostgreSQL backend as far as transactions and the protocol's order go, written after `PostgresMain`
//! (src/backend/tcop/postgres.c) and as plainly as it can be: what it was sent and what it answers are
//! lists, and each lasting change counts.

use std::collections::{BTreeMap, VecDeque};

use crate::message;

/// A statement, with the text it is sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sql {
    Select,
    /// Answers with rows.
    Rows,
    Insert,
    Fails,
    Begin,
    Commit,
    CommitAndChain,
    PrepareTransaction,
    Rollback,
    RollbackTo,
    CopyIn,
    /// Announces that it reads and fails before it does, as a trigger before the statement does.
    CopyInFails,
}

impl Sql {
    pub fn text(self) -> &'static str {
        match self {
            Sql::Select => "SELECT 1",
            Sql::Rows => "SELECT * FROM t",
            Sql::Insert => "INSERT INTO t VALUES (1)",
            Sql::Fails => "SELECT 1/0",
            Sql::Begin => "BEGIN",
            Sql::Commit => "/* done */ Commit",
            Sql::CommitAndChain => "COMMIT AND CHAIN",
            Sql::PrepareTransaction => "prepare transaction 't'",
            Sql::Rollback => "ROLLBACK",
            Sql::RollbackTo => "ROLLBACK TO s",
            Sql::CopyIn | Sql::CopyInFails => "COPY t FROM STDIN",
        }
    }

    pub fn copies(self) -> bool {
        matches!(self, Sql::CopyIn | Sql::CopyInFails)
    }

    fn ends_transaction(self) -> bool {
        matches!(self, Sql::Commit | Sql::CommitAndChain | Sql::PrepareTransaction | Sql::Rollback | Sql::RollbackTo)
    }
}

/// A message of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Query(Vec<Sql>),
    Parse(&'static str, Sql),
    Bind(&'static str, &'static str),
    Execute(&'static str),
    Describe(&'static str),
    Call,
    Sync,
    Flush,
    CopyData { good: bool },
    CopyDone,
    CopyFail,
}

impl Said {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Said::Query(list) => {
                let texts: Vec<&str> = list.iter().map(|sql| sql.text()).collect();
                message(b'Q', format!("{}\0", texts.join(";")).as_bytes())
            }
            Said::Parse(name, sql) => message(b'P', format!("{name}\0{}\0\0\0", sql.text()).as_bytes()),
            Said::Bind(portal, name) => message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes()),
            Said::Execute(portal) => message(b'E', format!("{portal}\0\0\0\0\0").as_bytes()),
            Said::Describe(name) => message(b'D', format!("S{name}\0").as_bytes()),
            Said::Call => message(b'F', &[0; 10]),
            Said::Sync => message(b'S', b""),
            Said::Flush => message(b'H', b""),
            Said::CopyData { good } => message(b'd', if *good { b"1\n" } else { b"x\n" }),
            Said::CopyDone => message(b'c', b""),
            Said::CopyFail => message(b'f', b"no\0"),
        }
    }

    /// A server outside of COPY does nothing with it.
    fn is_idle_talk(&self) -> bool {
        matches!(self, Said::Flush | Said::CopyData { .. } | Said::CopyDone | Said::CopyFail)
    }
}

/// A message of the server, and how many lasting changes there were when it was sent.
#[derive(Debug, Clone)]
pub struct Answer {
    pub kind: u8,
    pub bytes: Vec<u8>,
    pub lasting: usize,
}

/// Of one answer.
const ROWS: usize = 3;

struct Failed;

/// What goes on when a COPY has been read.
#[derive(Debug, Clone)]
enum Copy {
    OfQuery { rest: Vec<Sql> },
    OfBatch,
}

#[derive(Debug, Clone)]
pub struct Server {
    inbox: VecDeque<Said>,
    pub answers: VecDeque<Answer>,
    /// Changes that last.
    pub lasting: usize,
    /// Changes that would go with the transaction.
    changed: bool,
    /// I, T or E.
    block: u8,
    skips_to_sync: bool,
    copy: Option<Copy>,
    pub is_gone: bool,
    statements: BTreeMap<&'static str, Sql>,
    portals: BTreeMap<&'static str, Sql>,
}

impl Default for Server {
    fn default() -> Server {
        let mut server = Server {
            inbox: VecDeque::new(),
            answers: VecDeque::new(),
            lasting: 0,
            changed: false,
            block: b'I',
            skips_to_sync: false,
            copy: None,
            is_gone: false,
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
        };
        server.answer(b'R', &[0; 4]);
        server.answer(b'K', b"\0\0\0\x01abcd");
        server.ready();
        server
    }
}

impl Server {
    pub fn hear(&mut self, said: Said) {
        self.inbox.push_back(said);
    }

    /// As if all that was sent to it were read.
    pub fn ran_on(&self) -> Server {
        let mut server = self.clone();
        while server.step() {}
        server
    }

    /// It waits for a client that owes it nothing either, outside of a transaction.
    pub fn is_at_rest(&self) -> bool {
        let silent = self.inbox.iter().all(Said::is_idle_talk) && !self.skips_to_sync && self.copy.is_none();
        silent && self.block == b'I' && !self.changed
    }

    pub fn block(&self) -> u8 {
        self.block
    }

    /// The prepared statement of that name is a COPY.
    pub fn would_copy(&self, name: &str) -> bool {
        self.statements.get(name).is_some_and(|sql| sql.copies())
    }

    /// It has said that it reads a COPY, and the client was told.
    pub fn waits_for_copy(&self) -> bool {
        self.copy.is_some() && self.inbox.is_empty() && self.answers.is_empty()
    }

    /// Reads one message; false when there is none.
    pub fn step(&mut self) -> bool {
        if self.is_gone {
            return false;
        }
        let Some(said) = self.inbox.pop_front() else { return false };
        match self.copy.take() {
            Some(copy) => self.read_copy(copy, said),
            None if self.skips_to_sync && said != Said::Sync => {}
            None => self.obey(said),
        }
        true
    }

    fn obey(&mut self, said: Said) {
        match said {
            Said::Query(list) => {
                self.statements.remove("");
                self.portals.remove("");
                self.run_query(list);
            }
            Said::Sync => {
                self.skips_to_sync = false;
                self.finish();
                self.ready();
            }
            Said::Call => {
                if self.block == b'E' {
                    self.fail();
                } else {
                    self.changed = true;
                    self.answer(b'V', &[0; 4]);
                    self.finish();
                }
                self.ready();
            }
            other => {
                if self.obey_batch(other).is_err() {
                    self.fail();
                    self.skips_to_sync = true;
                }
            }
        }
    }

    fn obey_batch(&mut self, said: Said) -> Result<(), Failed> {
        match said {
            Said::Parse(name, sql) => {
                if name.is_empty() {
                    self.statements.remove("");
                }
                if self.statements.contains_key(name) || !self.is_allowed(sql) {
                    return Err(Failed);
                }
                self.statements.insert(name, sql);
                self.answer(b'1', b"");
            }
            Said::Bind(portal, name) => {
                let sql = *self.statements.get(name).ok_or(Failed)?;
                if !self.is_allowed(sql) || (!portal.is_empty() && self.portals.contains_key(portal)) {
                    return Err(Failed);
                }
                self.portals.insert(portal, sql);
                self.answer(b'2', b"");
            }
            Said::Describe(name) => {
                self.statements.get(name).ok_or(Failed)?;
                self.answer(b'n', b"");
            }
            Said::Execute(portal) => {
                let sql = self.portals.remove(portal).ok_or(Failed)?;
                if sql == Sql::CopyIn {
                    self.begin_copy(Copy::OfBatch)?;
                } else {
                    self.run(sql)?;
                    self.answer(b'C', b"DONE\0");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn run_query(&mut self, list: Vec<Sql>) {
        if self.run_list(list).is_err() {
            self.fail();
            self.ready();
        }
    }

    fn run_list(&mut self, list: Vec<Sql>) -> Result<(), Failed> {
        let mut list = VecDeque::from(list);
        if list.is_empty() {
            self.answer(b'I', b"");
        }
        while let Some(sql) = list.pop_front() {
            if sql == Sql::CopyIn {
                return self.begin_copy(Copy::OfQuery { rest: list.into() });
            }
            self.run(sql)?;
            self.answer(b'C', b"DONE\0");
        }
        self.finish();
        self.ready();
        Ok(())
    }

    fn is_allowed(&self, sql: Sql) -> bool {
        self.block != b'E' || sql.ends_transaction()
    }

    fn run(&mut self, sql: Sql) -> Result<(), Failed> {
        if !self.is_allowed(sql) {
            return Err(Failed);
        }
        match (sql, self.block) {
            (Sql::Select, _) => {}
            (Sql::Rows, _) => (0..ROWS).for_each(|_| self.answer(b'D', b"\0\x01\0\0\0\x04Zoe\x04")),
            (Sql::Insert, _) => self.changed = true,
            (Sql::Fails, _) => return Err(Failed),
            (Sql::Begin, _) => self.block = b'T',
            // In a failed transaction it is a ROLLBACK.
            (Sql::Commit | Sql::PrepareTransaction, block) => self.end_transaction(block != b'E', b'I'),
            (Sql::CommitAndChain | Sql::RollbackTo, b'I') => return Err(Failed),
            (Sql::CommitAndChain, block) => self.end_transaction(block != b'E', b'T'),
            (Sql::Rollback, _) => self.end_transaction(false, b'I'),
            (Sql::RollbackTo, _) => (self.block, self.changed) = (b'T', true),
            (Sql::CopyIn, _) => {}
            (Sql::CopyInFails, _) => {
                self.answer(b'G', &[0; 3]);
                return Err(Failed);
            }
        }
        Ok(())
    }

    fn begin_copy(&mut self, copy: Copy) -> Result<(), Failed> {
        if !self.is_allowed(Sql::CopyIn) {
            return Err(Failed);
        }
        self.answer(b'G', &[0; 3]);
        self.copy = Some(copy);
        Ok(())
    }

    fn read_copy(&mut self, copy: Copy, said: Said) {
        match said {
            Said::CopyData { good: true } | Said::Sync | Said::Flush => self.copy = Some(copy),
            Said::CopyDone => {
                self.changed = true;
                self.answer(b'C', b"COPY\0");
                match copy {
                    Copy::OfQuery { rest } if rest.is_empty() => {
                        self.finish();
                        self.ready();
                    }
                    Copy::OfQuery { rest } => self.run_query(rest),
                    Copy::OfBatch => {}
                }
            }
            Said::CopyData { good: false } | Said::CopyFail => {
                self.fail();
                match copy {
                    Copy::OfQuery { .. } => self.ready(),
                    Copy::OfBatch => self.skips_to_sync = true,
                }
            }
            _ => {
                self.answer(b'E', b"SFATAL\0VFATAL\0C08P01\0\0");
                self.is_gone = true;
                self.end_transaction(false, b'I');
            }
        }
    }

    /// `finish_xact_command`: what ran outside of a transaction block lasts.
    fn finish(&mut self) {
        if self.block == b'I' {
            self.end_transaction(true, b'I');
        }
    }

    fn end_transaction(&mut self, lasts: bool, block: u8) {
        self.lasting += usize::from(lasts && self.changed);
        (self.changed, self.block) = (false, block);
        self.portals.clear();
    }

    fn fail(&mut self) {
        self.answer(b'E', b"SERROR\0VERROR\0C22012\0\0");
        let block = if self.block == b'I' { b'I' } else { b'E' };
        self.end_transaction(false, block);
    }

    fn ready(&mut self) {
        let block = self.block;
        self.answer(b'Z', &[block]);
    }

    fn answer(&mut self, kind: u8, body: &[u8]) {
        self.answers.push_back(Answer { kind, bytes: message(kind, body), lasting: self.lasting });
    }
}
