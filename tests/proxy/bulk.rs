//! Answers that stream: they pass unseen, whole, and only as far as they may.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use pgvane::decide::Effect;
use pgvane::model::Reason;
use pgvane::proxy::pipes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bed::*;
use crate::speaker::{message, query};

const ROWS: usize = 200_000;

/// A row of text as COPY sends it, of a length that differs from row to row.
fn row(number: usize) -> Vec<u8> {
    let text = format!("{number}\t{}\n", "Z".repeat(number % 157));
    message(b'd', text.as_bytes())
}

fn rows(count: usize) -> Vec<u8> {
    (0..count).flat_map(row).collect()
}

fn ending(count: usize) -> Vec<u8> {
    let tag = format!("COPY {count}\0");
    [message(b'c', b""), message(b'C', tag.as_bytes()), message(b'Z', b"I")].concat()
}

/// What `COPY n` is answered with.
fn answer(count: usize) -> Vec<u8> {
    [message(b'H', &[0, 0, 1, 0, 0]), rows(count), ending(count)].concat()
}

/// Answers `COPY n` with so many rows, `HALF n` with the rows and then nothing, `QUIT n` with the rows and its
/// end, and all else with nothing but its end.
async fn copier(mut stream: TcpStream, seen: Arc<Seen>) {
    let Some(_) = read_packet(&mut stream).await else { return };
    let welcome = [message(b'R', &[0; 4]), message(b'S', b"copier"), message(b'Z', b"I")].concat();
    stream.write_all(&welcome).await.unwrap();
    loop {
        let mut header = [0; 5];
        let Ok(_) = stream.read_exact(&mut header).await else { return };
        let mut body = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4];
        stream.read_exact(&mut body).await.unwrap();
        seen.first.lock().push([&header[..], &body].concat());
        let text = String::from_utf8(body).unwrap();
        let (word, count) = text.trim_end_matches('\0').split_once(' ').unwrap_or((&text, "0"));
        let said = match (word, count.parse::<usize>()) {
            ("COPY", Ok(count)) => answer(count),
            ("HALF" | "QUIT", Ok(count)) => [message(b'H', &[0, 0, 1, 0, 0]), rows(count)].concat(),
            _ => [message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat(),
        };
        for piece in said.chunks(100_000) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            seen.bytes.fetch_add(piece.len() as u64, SeqCst);
        }
        if word == "QUIT" || header[0] == b'X' {
            return;
        }
    }
}

async fn stage() -> (Bed, Server) {
    let bed = Bed::new();
    let server = Server::start("n1", copier).await;
    bed.publish(Some(&server), &[]);
    (bed, server)
}

/// Whether bytes can have been spliced at all in this run of the tests.
fn may_splice() -> bool {
    pipes::mode() != pipes::Mode::Off
}

fn spliced() -> u64 {
    pipes::snapshot().bytes
}

fn drain(bed: &Bed) {
    let effect = Effect::DrainSessions { member: "n1".into(), services: None, reason: Reason::Drained };
    assert!(bed.plane.execute(&effect));
}

/// Sessions end when they are asked to, if they are idle.
async fn ends_when_drained(bed: &Bed, client: &mut Client) {
    drain(bed);
    let fatal = client.fatal().await;
    assert_eq!(fatal.code, "57P01");
    assert!(fatal.detail.contains("no transaction was open"), "{fatal:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_answer_passes_whole_and_its_session_is_idle_afterwards() {
    let (bed, _server) = stage().await;
    let (mut client, _) = bed.session("primary").await;
    for _ in 0..3 {
        client.echo_of(&query(&format!("COPY {ROWS}")), &answer(ROWS)).await;
        client.echo_of(&query("SELECT"), &answer_of("SELECT 0")).await;
    }
    assert!(!may_splice() || spliced() > answer(ROWS).len() as u64, "{} bytes were spliced", spliced());
    ends_when_drained(&bed, &mut client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_on_while_an_answer_streams_is_answered_in_order() {
    let (bed, server) = stage().await;
    let (mut client, _) = bed.session("primary").await;
    client.send(&query(&format!("COPY {ROWS}"))).await;
    until("it streams", || server.seen.bytes.load(SeqCst) > 1_000_000).await;
    client.send(&[query("SELECT"), query("COPY 100"), query("SELECT")].concat()).await;
    let expected = [answer(ROWS), answer_of("SELECT 0"), answer(100), answer_of("SELECT 0")].concat();
    client.expect(&expected).await;
    ends_when_drained(&bed, &mut client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_a_long_answer_is_not_idle() {
    let (bed, server) = stage().await;
    let (mut client, _) = bed.session("primary").await;
    client.send(&query(&format!("COPY {ROWS}"))).await;
    until("it streams", || server.seen.bytes.load(SeqCst) > 1_000_000).await;
    drain(&bed);
    // Asked to end in the middle, it ends behind the answer.
    client.expect(&answer(ROWS)).await;
    assert_eq!(client.fatal().await.code, "57P01");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_a_stream_is_forwarded_after_its_fence_is_closed() {
    let (bed, server) = stage().await;
    let (mut client, _) = bed.session("primary").await;
    client.send(&query(&format!("HALF {ROWS}"))).await;
    let mut some = vec![0; 300_000];
    within("some of it", client.0.read_exact(&mut some)).await.unwrap();
    bed.publish(None, &[]);
    bed.close(&server, Reason::LeaderMoved);
    let at_close = bed.plane.snapshot().iter().map(|service| service.bytes_to_client).sum::<u64>();
    let mut rest = Vec::new();
    let _ = within("the end", client.0.read_to_end(&mut rest)).await;
    until("its session is gone", || bed.plane.registry().sessions_open() == 0).await;
    let whole = [&some[..], &rest].concat();
    let sent = [message(b'H', &[0, 0, 1, 0, 0]), rows(ROWS)].concat();
    assert!(sent.starts_with(&whole), "what came is a beginning of what was sent, without a word of ours in it");
    let in_the_end = bed.plane.snapshot().iter().map(|service| service.bytes_to_client).sum::<u64>();
    // What one call of the kernel was moving when the fence was closed is counted after it.
    assert!(in_the_end - at_close <= 2 * pipes::PIPE_BYTES as u64, "{} bytes after the close", in_the_end - at_close);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_in_the_middle_has_said_all_it_said() {
    let (bed, _server) = stage().await;
    let (mut client, _) = bed.session("primary").await;
    client.send(&query(&format!("QUIT {ROWS}"))).await;
    client.expect(&[message(b'H', &[0, 0, 1, 0, 0]), rows(ROWS)].concat()).await;
    let mut rest = Vec::new();
    within("the end", client.0.read_to_end(&mut rest)).await.unwrap();
    // Words come between two messages, and behind bytes that passed unseen nobody knows whether it is.
    let words = String::from_utf8_lossy(&rest);
    assert!(rest.is_empty() || rest[0] == b'E' && words.contains("C08007\0"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_at_once_do_not_mix_and_give_their_pipes_back() {
    let (bed, _server) = stage().await;
    let mut readers = tokio::task::JoinSet::new();
    for number in 0..100 {
        let (mut client, _) = bed.session("primary").await;
        let count = ROWS / 20 + number;
        readers.spawn(async move {
            client.echo_of(&query(&format!("COPY {count}")), &answer(count)).await;
            client
        });
    }
    let clients = within("all of them", readers.join_all()).await;
    until("pipes are given back", || pipes::in_use() == 0).await;
    drop(clients);
}

/// A client that reads slowly has a pipe for so long, and gets every byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_every_byte() {
    let (bed, _server) = stage().await;
    let (mut client, _) = bed.session("primary").await;
    let expected = answer(ROWS / 4);
    client.send(&query(&format!("COPY {}", ROWS / 4))).await;
    let mut got = Vec::new();
    let mut chunk = vec![0; 10_000];
    while got.len() < expected.len() {
        let n = within("a piece", client.0.read(&mut chunk)).await.unwrap();
        assert!(n > 0);
        got.extend_from_slice(&chunk[..n]);
        tokio::task::yield_now().await;
    }
    assert!(got == expected);
    ends_when_drained(&bed, &mut client).await;
}

fn answer_of(tag: &str) -> Vec<u8> {
    [message(b'C', format!("{tag}\0").as_bytes()), message(b'Z', b"I")].concat()
}

impl Client {
    async fn echo_of(&mut self, said: &[u8], heard: &[u8]) {
        self.send(said).await;
        let mut got = vec![0; heard.len()];
        within("the answer", self.0.read_exact(&mut got)).await.unwrap();
        // Not assert_eq: megabytes would be shown.
        assert!(got == heard, "the answer to {:?}", String::from_utf8_lossy(said));
    }
}
