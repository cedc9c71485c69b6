//! How many ReadyForQuery a server still owes, and how COPY bends the count.
//!
//! PostgreSQL's main loop (src/backend/tcop/postgres.c, `PostgresMain`) sends one for the startup and one
//! for each Query, FunctionCall and Sync, also after an error: what fails in an extended batch is skipped up
//! to its Sync, whose ReadyForQuery comes all the same. A Query inside an unsynced batch may be skipped,
//! too, and is counted all the same: too many owed is never taken for idle.
//!
//! The exception is COPY FROM STDIN: a server that reads it passes over Sync and Flush
//! (src/backend/commands/copyfromparse.c, `CopyGetData`). A client that sends Execute and Sync together gets
//! nothing for that Sync, and sends another one after its CopyDone. When the COPY fails nobody outside can
//! tell whether the server had passed over the first Sync yet: `Extra` waits until the answers tell.

/// Whether one ReadyForQuery more may come than is counted, for the Sync of a COPY that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extra {
    No,
    /// The error has come, no ReadyForQuery since.
    AfterError,
    /// One ReadyForQuery has come. Another would be the next message, for nothing but a Sync is answered by
    /// a ReadyForQuery alone.
    AfterReady,
}

/// A COPY FROM STDIN under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    No,
    /// The server reads, and the client has not sent the end.
    Data,
    /// By a batch: the end was sent or the server failed, and the batch was not synced since.
    Over,
}

#[derive(Debug, Clone, Copy)]
pub struct Owed {
    /// ReadyForQuery that are to come.
    count: u32,
    /// The last of them is for a Sync.
    last_is_sync: bool,
    /// The client began an extended batch and did not sync it.
    unsynced: bool,
    copy: Reading,
    /// The client ended a COPY that the server had not announced.
    ended_early: bool,
    /// Syncs that the server passes over, unless its COPY failed before.
    passed_over: u8,
    extra: Extra,
    /// The count means nothing any more.
    lost: bool,
}

impl Owed {
    /// A StartupMessage was sent.
    pub fn startup() -> Owed {
        Owed {
            count: 1,
            last_is_sync: false,
            unsynced: false,
            copy: Reading::No,
            ended_early: false,
            passed_over: 0,
            extra: Extra::No,
            lost: false,
        }
    }

    /// Everything was answered.
    pub fn is_settled(&self) -> bool {
        self.count == 0 && !self.unsynced && self.copy == Reading::No && self.extra == Extra::No && !self.lost
    }

    /// Nothing but the startup waits for its answer, if that does.
    pub fn is_startup_alone(&self) -> bool {
        self.count == 1 && !self.unsynced && self.copy == Reading::No && !self.lost
    }

    /// One ReadyForQuery is to come, that of a Query or of a Sync, and nothing casts doubt on it.
    pub fn is_one_answer(&self) -> bool {
        let orderly = self.copy == Reading::No && self.passed_over == 0 && self.extra == Extra::No;
        self.count == 1 && !self.unsynced && !self.ended_early && orderly && !self.lost
    }

    /// The client sent a Query or a FunctionCall. Before the end of a COPY and its Sync it has no place: a
    /// server that still reads ends the session for it, one that failed obeys it or skips it.
    pub fn sent_query(&mut self) {
        self.lost |= self.copy != Reading::No;
        self.push(false);
    }

    /// The client sent a message of an extended batch other than Sync and Flush.
    pub fn sent_to_batch(&mut self) {
        self.lost |= self.copy != Reading::No;
        self.unsynced = true;
    }

    pub fn sent_sync(&mut self) {
        if self.copy == Reading::Data {
            self.passed_over = self.passed_over.saturating_add(1);
        } else {
            self.copy = Reading::No;
            self.unsynced = false;
            self.push(true);
        }
    }

    /// The client sent CopyDone or CopyFail, which a server outside of COPY ignores.
    pub fn sent_end_of_copy(&mut self) {
        if self.copy == Reading::Data {
            self.stop_reading();
        } else {
            self.ended_early = !self.is_settled();
        }
    }

    /// What no rule here is about was sent, or not seen.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// The server announced that it reads a COPY, or a COPY in both directions.
    pub fn copy_begins(&mut self) {
        self.answered();
        let orderly = !self.ended_early && self.copy == Reading::No && self.extra == Extra::No;
        match (self.count, self.last_is_sync, self.unsynced) {
            // The Execute came without a Sync, or with one that is passed over.
            (0, _, true) if orderly => {}
            (1, true, false) if orderly => {
                self.pop();
                self.passed_over = 1;
                self.unsynced = true;
            }
            // By a Query, which gets its answer.
            (1, false, false) if orderly => {}
            // More was sent than a server in COPY bears: an early error alone saves the session.
            _ => self.lost = true,
        }
        self.copy = Reading::Data;
    }

    /// The server sent CommandComplete.
    pub fn completed(&mut self) {
        self.answered();
        self.copy = Reading::No;
        self.passed_over = 0;
    }

    /// The server sent ErrorResponse.
    pub fn failed(&mut self) {
        self.answered();
        self.stop_reading();
        match std::mem::take(&mut self.passed_over) {
            0 => {}
            1 if self.extra == Extra::No => self.extra = Extra::AfterError,
            _ => self.lost = true,
        }
    }

    /// The server sent ReadyForQuery.
    pub fn ready(&mut self) {
        // A COPY ends with a CommandComplete or an ErrorResponse.
        self.lost |= self.copy == Reading::Data || self.passed_over > 0;
        match self.extra {
            Extra::No => self.pop(),
            // For the Sync that was not passed over.
            Extra::AfterError if self.count == 0 => {
                (self.extra, self.copy, self.unsynced) = (Extra::No, Reading::No, false);
            }
            Extra::AfterError => {
                self.pop();
                self.extra = Extra::AfterReady;
            }
            Extra::AfterReady => self.extra = Extra::No,
        }
        if self.is_settled() {
            self.ended_early = false;
        }
    }

    /// The server sent anything that belongs to a statement.
    pub fn answered(&mut self) {
        if self.extra == Extra::AfterReady {
            self.extra = Extra::No;
        }
    }

    fn stop_reading(&mut self) {
        if self.copy == Reading::Data {
            self.copy = if self.unsynced { Reading::Over } else { Reading::No };
        }
    }

    fn push(&mut self, sync: bool) {
        self.last_is_sync = sync;
        self.lost |= self.count == u32::MAX;
        self.count = self.count.saturating_add(1);
    }

    /// One that comes though nothing is owed (after an error in an idle server) changes nothing.
    fn pop(&mut self) {
        self.count = self.count.saturating_sub(1);
    }
}
