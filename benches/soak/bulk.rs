//! Clients that move megabytes: COPY in and out again, COPY out, large results, each byte compared.

use std::time::Duration;

use super::book::{Phase, Promise};
use super::clients::{Client, Session, in_time};
use super::kit::wire::{self, End, Wire, Words};
use super::work::come_again;

const COPY_EVERY: Duration = Duration::from_millis(1500);
const COPY_LINES: u32 = 40_000;
/// A CopyData each, as a driver sends them.
const COPY_CHUNK: usize = 16 * 1024;
const RESULT_ROWS: u32 = 20_000;
const RESULT_EVERY: Duration = Duration::from_millis(1500);

/// `1 to lines`, each with something that no other has.
fn lines(count: u32) -> String {
    let mut text = String::with_capacity(count as usize * 60);
    for line in 1..=count {
        let word = u64::from(line) * 7919;
        text += &format!("{line}\t{word:020}abcdefghijklmnopqrstuvwxyz\n");
    }
    text
}

const SAME_LINES: &str =
    "SELECT g, lpad((g::bigint * 7919)::text, 20, '0') || 'abcdefghijklmnopqrstuvwxyz' FROM generate_series(1, ";

/// A transaction with a row of its own, megabytes into a temporary table, and the same out again.
pub async fn copy_both_ways(mut client: Client) {
    let text = lines(COPY_LINES);
    while let Some(mut session) = come_again(&mut client).await {
        let prepare = "CREATE TEMP TABLE IF NOT EXISTS soak_copy (line int, word text)";
        if let Err(end) = client.ask(&mut session, Phase::Statement, prepare).await {
            client.ended(Phase::Statement, &end, &session).await;
            continue;
        }
        loop {
            let row = client.next_row();
            if !copy_transaction(&client, &mut session, row, &text).await {
                break;
            }
            if !client.pause(COPY_EVERY).await {
                return session.wire.goodbye().await;
            }
        }
    }
}

async fn copy_transaction(client: &Client, session: &mut Session, row: i64, text: &str) -> bool {
    let mut phase = Phase::Transaction;
    match copy_there_and_back(client, session, row, text, &mut phase).await {
        Ok(None) => {}
        Ok(Some(words)) => {
            client.book.refused(&client.who, phase, &words);
            client.book.row(row, &client.who, Promise::Absent("refused".to_owned()));
            return false;
        }
        Err(end) => {
            client.ended_uncommitted(phase, row, &end, session).await;
            return false;
        }
    }
    match client.ask(session, Phase::Committing, "COMMIT").await {
        Ok(reply) => {
            client.answered(Phase::Committing, row, session, &reply, &["COMMIT"]);
            true
        }
        Err(end) => {
            client.ended_unanswered(Phase::Committing, row, &end, session).await;
            false
        }
    }
}

/// What the server said against it, if it did; `phase` is how far it came.
async fn copy_there_and_back(
    client: &Client,
    session: &mut Session,
    row: i64,
    text: &str,
    phase: &mut Phase,
) -> Result<Option<Words>, End> {
    let begin = format!("BEGIN; INSERT INTO soak (id) VALUES ({row}); TRUNCATE soak_copy");
    let refused = in_time(session.wire.query(&begin)).await?.error;
    if refused.is_some() {
        return Ok(refused);
    }
    *phase = Phase::CopyIn;
    let refused = in_time(copy_in(&mut session.wire, "COPY soak_copy FROM STDIN", text.as_bytes())).await?;
    if refused.is_some() {
        return Ok(refused);
    }
    *phase = Phase::Receiving;
    let came = in_time(receive(&mut session.wire, "COPY soak_copy TO STDOUT")).await?;
    same(client, text.as_bytes(), &came);
    client.book.with(|totals| {
        totals.megabytes_in += text.len() as f64 / 1e6;
        totals.megabytes_out += came.len() as f64 / 1e6;
    });
    Ok(None)
}

/// From the read port.
pub async fn copy_out(client: Client) {
    let sql = format!("COPY ({SAME_LINES}{COPY_LINES}) g) TO STDOUT");
    receive_again(client, &sql, COPY_LINES).await;
}

pub async fn receive_rows(client: Client) {
    let sql = format!("{SAME_LINES}{RESULT_ROWS}) g");
    receive_again(client, &sql, RESULT_ROWS).await;
}

async fn receive_again(mut client: Client, sql: &str, count: u32) {
    let text = lines(count);
    while let Some(mut session) = come_again(&mut client).await {
        loop {
            match in_time(receive(&mut session.wire, sql)).await {
                Ok(came) => {
                    same(&client, text.as_bytes(), &came);
                    client.book.done(&client.who);
                    client.book.with(|totals| totals.megabytes_out += came.len() as f64 / 1e6);
                }
                Err(end) => {
                    client.ended(Phase::Receiving, &end, &session).await;
                    break;
                }
            }
            if !client.pause(RESULT_EVERY).await {
                return session.wire.goodbye().await;
            }
        }
    }
}

/// What the server said against it, if it did.
async fn copy_in(wire: &mut Wire, sql: &str, bytes: &[u8]) -> Result<Option<Words>, End> {
    wire.send(&wire::query(sql)).await;
    let mut refused = None;
    loop {
        let message = wire.message().await?;
        match message.kind {
            b'G' => break,
            b'E' => refused = Some(Words::read(&message.body)),
            b'Z' => return Ok(refused),
            _ => {}
        }
    }
    for chunk in bytes.chunks(COPY_CHUNK) {
        wire.send(&wire::packet(Some(b'd'), chunk)).await;
    }
    wire.send(&wire::packet(Some(b'c'), &[])).await;
    Ok(wire.reply().await?.error)
}

/// CopyData as it comes, or rows as COPY would write them.
async fn receive(wire: &mut Wire, sql: &str) -> Result<Vec<u8>, End> {
    wire.send(&wire::query(sql)).await;
    let mut came = Vec::new();
    loop {
        let message = wire.message().await?;
        match message.kind {
            b'd' => came.extend_from_slice(&message.body),
            b'D' => as_copy(&message.body, &mut came),
            b'E' => came.extend(format!("refused: {:?}", message.body).bytes()),
            b'Z' => return Ok(came),
            _ => {}
        }
    }
}

/// A DataRow's columns with tabs between them.
fn as_copy(row: &[u8], into: &mut Vec<u8>) {
    let Some((_count, mut rest)) = row.split_first_chunk::<2>() else { return };
    let mut separator: &[u8] = b"";
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (column, after) = after.split_at(length.min(after.len()));
        into.extend_from_slice(separator);
        into.extend_from_slice(column);
        (separator, rest) = (b"\t", after);
    }
    into.push(b'\n');
}

fn same(client: &Client, wanted: &[u8], came: &[u8]) {
    if wanted != came {
        let at = wanted.iter().zip(came).position(|(a, b)| a != b).unwrap_or(wanted.len().min(came.len()));
        let shown = came[at..came.len().min(at + 80)].escape_ascii();
        let (wanted, came) = (wanted.len(), came.len());
        client.wrong(Phase::Receiving, &format!("{came} bytes instead of {wanted}, other from {at} on: {shown}"));
    }
}
