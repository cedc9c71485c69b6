//! Clients that write, read, wait, listen and cancel. Each lives until it is told to go home.

use std::time::Duration;

use tokio::time::timeout;

use super::book::{Phase, Promise};
use super::clients::{Client, OPERATION_MAX, Session, in_time};
use super::kit::wire::{self, End, Wire};

const VISIT_EVERY: Duration = Duration::from_millis(200);
const WRITE_EVERY: Duration = Duration::from_millis(100);
const READ_EVERY: Duration = Duration::from_millis(100);
/// Between two statements of a transaction.
const THINK: Duration = Duration::from_millis(60);
/// An idle transaction is committed after this.
const REST: Duration = Duration::from_secs(4);
const CANCEL_EVERY: Duration = Duration::from_millis(1500);
/// What is cancelled would last so long, seconds.
const SLEEP_SECONDS: u32 = 20;
/// From the cancel to its effect on a busy machine.
const CANCELLED_MAX: Duration = Duration::from_secs(10);
const NOTIFY_EVERY: Duration = Duration::from_millis(500);

fn insert(row: i64) -> String {
    format!("INSERT INTO soak (id) VALUES ({row})")
}

pub async fn visit_and_write(mut client: Client) {
    while client.pause(VISIT_EVERY).await {
        let Some(mut session) = client.open().await else { continue };
        if write_once(&mut client, &mut session).await {
            session.wire.goodbye().await;
        }
    }
}

pub async fn write_simply(mut client: Client) {
    while let Some(mut session) = come_again(&mut client).await {
        while write_once(&mut client, &mut session).await {
            if !client.pause(WRITE_EVERY).await {
                return session.wire.goodbye().await;
            }
        }
    }
}

/// One row outside a transaction; false when the session is over.
async fn write_once(client: &mut Client, session: &mut Session) -> bool {
    let row = client.next_row();
    match client.ask(session, Phase::Statement, &insert(row)).await {
        Ok(reply) => {
            client.answered(Phase::Statement, row, session, &reply, &["INSERT 0 1"]);
            true
        }
        Err(end) => {
            client.ended_unanswered(Phase::Statement, row, &end, session).await;
            false
        }
    }
}

/// A named statement, prepared once.
pub async fn write_extended(mut client: Client) {
    while let Some(mut session) = come_again(&mut client).await {
        let prepare = [&wire::parse("write", "INSERT INTO soak (id) VALUES ($1)")[..], wire::SYNC].concat();
        session.wire.send(&prepare).await;
        if let Err(end) = in_time(session.wire.reply()).await {
            client.ended(Phase::Statement, &end, &session).await;
            continue;
        }
        loop {
            let row = client.next_row();
            let packet = [&wire::bind("write", &[row.to_string()])[..], wire::EXECUTE, wire::SYNC].concat();
            session.wire.send(&packet).await;
            match in_time(session.wire.reply()).await {
                Ok(reply) => {
                    refusal(&client, &reply, Phase::Statement);
                    client.answered(Phase::Statement, row, &session, &reply, &["INSERT 0 1"]);
                }
                Err(end) => {
                    client.ended_unanswered(Phase::Statement, row, &end, &session).await;
                    break;
                }
            }
            if !client.pause(WRITE_EVERY).await {
                return session.wire.goodbye().await;
            }
        }
    }
}

/// BEGIN, a row, time to think, a look at it, COMMIT.
pub async fn transact(mut client: Client) {
    while let Some(mut session) = come_again(&mut client).await {
        while transact_once(&mut client, &mut session, THINK).await {
            if !client.pause(WRITE_EVERY).await {
                return session.wire.goodbye().await;
            }
        }
    }
}

async fn transact_once(client: &mut Client, session: &mut Session, think: Duration) -> bool {
    let row = client.next_row();
    let look = format!("SELECT count(*) FROM soak WHERE id = {row}");
    for sql in ["BEGIN", &insert(row), &look] {
        match client.ask(session, Phase::Transaction, sql).await {
            Ok(reply) if reply.error.is_some() => {
                client.book.row(row, &client.who, Promise::Absent("refused".to_owned()));
                // Whatever is open is left behind with the session.
                return false;
            }
            Ok(reply) if reply.status != b'T' || (sql == look && reply.values != ["1"]) => {
                client.wrong(Phase::Transaction, &format!("{reply:?} to {sql}"));
            }
            Ok(_) => {}
            Err(end) => {
                client.ended_uncommitted(Phase::Transaction, row, &end, session).await;
                return false;
            }
        }
        let pause = client.about(think / 2);
        if let Ok(end) = timeout(pause, unasked(&mut session.wire)).await {
            client.ended_uncommitted(Phase::Transaction, row, &end, session).await;
            return false;
        }
    }
    match client.ask(session, Phase::Committing, "COMMIT").await {
        Ok(reply) => client.answered(Phase::Committing, row, session, &reply, &["COMMIT"]),
        Err(end) => {
            client.ended_unanswered(Phase::Committing, row, &end, session).await;
            return false;
        }
    }
    true
}

/// BEGIN, row and COMMIT in one packet: the COMMIT is under way from the start.
pub async fn pipeline(mut client: Client) {
    while let Some(mut session) = come_again(&mut client).await {
        loop {
            let row = client.next_row();
            let parts = ["BEGIN", &insert(row), "COMMIT"].map(wire::unnamed).concat();
            session.wire.send(&[&parts[..], wire::SYNC].concat()).await;
            match in_time(session.wire.reply()).await {
                Ok(reply) => {
                    refusal(&client, &reply, Phase::Committing);
                    client.answered(Phase::Committing, row, &session, &reply, &["BEGIN", "INSERT 0 1", "COMMIT"]);
                }
                Err(end) => {
                    client.ended_unanswered(Phase::Committing, row, &end, &session).await;
                    break;
                }
            }
            if !client.pause(WRITE_EVERY).await {
                return session.wire.goodbye().await;
            }
        }
    }
}

/// Transactions that are mostly open and idle.
pub async fn rest_in_transaction(mut client: Client) {
    while let Some(mut session) = come_again(&mut client).await {
        while !client.stop.is_cancelled() && transact_once(&mut client, &mut session, REST).await {}
        if client.stop.is_cancelled() {
            return;
        }
    }
}

/// Says nothing, and listens.
pub async fn idle(mut client: Client) {
    while let Some(mut session) = come_again(&mut client).await {
        let end = tokio::select! {
            biased;
            () = client.stop.cancelled() => return session.wire.goodbye().await,
            end = unasked(&mut session.wire) => end,
        };
        client.ended(Phase::Idle, &end, &session).await;
    }
}

/// The end of a session that asks nothing. Nothing but warnings may come before.
async fn unasked(wire: &mut Wire) -> End {
    loop {
        match wire.message().await {
            Ok(message) if message.kind == b'N' => {}
            Ok(message) => return End::Garbled(format!("{message:?} to nobody's question")),
            Err(end) => return end,
        }
    }
}

pub async fn visit_and_read(mut client: Client) {
    while client.pause(VISIT_EVERY).await {
        let Some(mut session) = client.open().await else { continue };
        if read_once(&mut client, &mut session).await {
            session.wire.goodbye().await;
        }
    }
}

pub async fn read(mut client: Client) {
    while let Some(mut session) = come_again(&mut client).await {
        while read_once(&mut client, &mut session).await {
            if !client.pause(READ_EVERY).await {
                return session.wire.goodbye().await;
            }
        }
    }
}

async fn read_once(client: &mut Client, session: &mut Session) -> bool {
    match client.ask(session, Phase::Statement, "SELECT 6 * 7 FROM soak_one").await {
        Ok(reply) if reply.error.is_none() && reply.values != ["42"] => {
            client.wrong(Phase::Statement, &format!("{:?} instead of 42", reply.values));
        }
        Ok(_) => client.book.done(&client.who),
        Err(end) => {
            client.ended(Phase::Statement, &end, session).await;
            return false;
        }
    }
    true
}

/// Hears its own notifications, each once and in order.
pub async fn listen(mut client: Client) {
    while let Some(mut session) = come_again(&mut client).await {
        let channel = format!("soak_{}", client.who.number);
        let mut sql = format!("LISTEN {channel}");
        loop {
            match client.ask(&mut session, Phase::Statement, &sql).await {
                Ok(_) => client.book.done(&client.who),
                Err(end) => {
                    client.ended(Phase::Statement, &end, &session).await;
                    break;
                }
            }
            let heard = std::mem::take(&mut session.wire.notified);
            if sql.starts_with("NOTIFY") && heard.len() != 1 {
                client.wrong(Phase::Statement, &format!("heard {heard:?} after {sql}"));
            }
            if !client.pause(NOTIFY_EVERY).await {
                return session.wire.goodbye().await;
            }
            sql = format!("NOTIFY {channel}, '{}'", client.next_row());
        }
    }
}

/// Sleeps in a query, and has it cancelled over a second connection through the same port.
pub async fn cancel_sleep(mut client: Client) {
    while let Some(mut session) = come_again(&mut client).await {
        loop {
            match cancel_once(&client, &mut session.wire).await {
                Ok(()) => client.book.done(&client.who),
                Err(end) => {
                    client.ended(Phase::Cancelling, &end, &session).await;
                    break;
                }
            }
            if !client.pause(CANCEL_EVERY).await {
                return session.wire.goodbye().await;
            }
        }
    }
}

/// The NOTICE, which the server sends at once, says that there is something to cancel.
async fn cancel_once(client: &Client, wire: &mut Wire) -> Result<(), End> {
    let sql = format!("DO $$BEGIN RAISE NOTICE 'asleep'; PERFORM pg_sleep({SLEEP_SECONDS}); END$$");
    wire.send(&wire::query(&sql)).await;
    let asleep = async {
        while wire.notices.is_empty() {
            wire.message().await?;
        }
        Ok(())
    };
    in_time(asleep).await?;
    client.book.with(|totals| totals.cancels += 1);
    let key = wire.key.clone();
    let (sent, reply) = tokio::join!(wire::cancel(&client.at, &key), timeout(OPERATION_MAX, timed(wire)));
    let (reply, took) = reply.unwrap_or(Err(End::Late(OPERATION_MAX)))?;
    if let Err(end) = sent {
        client.wrong(Phase::Cancelling, &format!("a CancelRequest: {end}"));
    }
    match reply.error {
        Some(words) if words.code == "57014" && took <= CANCELLED_MAX => {}
        Some(words) => client.wrong(Phase::Cancelling, &format!("{words} after {took:?}")),
        None => client.wrong(Phase::Cancelling, "the query was not cancelled"),
    }
    Ok(())
}

async fn timed(wire: &mut Wire) -> Result<(wire::Reply, Duration), End> {
    let began = pgvane::runtime::clock::now();
    let reply = wire.reply().await?;
    Ok((reply, began.elapsed()))
}

/// A session, once there is one; None when it is time to go home.
pub async fn come_again(client: &mut Client) -> Option<Session> {
    while !client.stop.is_cancelled() {
        if let Some(session) = client.open().await {
            return Some(session);
        }
    }
    None
}

fn refusal(client: &Client, reply: &wire::Reply, phase: Phase) {
    if let Some(words) = &reply.error {
        client.book.refused(&client.who, phase, words);
    }
}
