//! A corpus of conversations with PostgreSQL, each had with a server directly and through the router:
//! the client must not be able to tell which, byte by byte.

#[path = "corpus/play.rs"]
mod play;
#[path = "corpus/script.rs"]
mod script;
#[path = "corpus/wire.rs"]
mod wire;

#[allow(dead_code, reason = "other suites use the rest of the stage")]
mod members;
#[allow(dead_code, reason = "other suites stop and kill their servers")]
mod servers;

use std::sync::Arc;

use members::etcd::Etcd;
use members::member::Member;
use members::patroni::Patroni;
use members::router::{Router, Setup};
use play::{Manner, Transcript, play};
use script::Conversation;
use servers::Postgres;
use wire::Message;

/// In `tests/corpus`; `tests/corpus/script.rs` tells how they are written.
const FILES: [&str; 8] = ["simple", "extended", "copy", "large", "unasked", "startup", "endings", "replication"];
const SCOPE: &str = "corpus";
const HBA: &str = "host replication all 127.0.0.1/32 trust
host all clear 127.0.0.1/32 password
host all md5 127.0.0.1/32 md5
host all scram 127.0.0.1/32 scram-sha-256
host all nobody 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
";
/// Everything that conversations leave as they found it.
const THINGS: &str = "CREATE ROLE corpus SUPERUSER LOGIN;
CREATE ROLE clear LOGIN PASSWORD 'secret';
SET password_encryption = md5;
CREATE ROLE md5 LOGIN PASSWORD 'secret';
SET password_encryption = 'scram-sha-256';
CREATE ROLE scram LOGIN PASSWORD 'secret';
CREATE ROLE nobody LOGIN;
CREATE ROLE full_up LOGIN CONNECTION LIMIT 0;
CREATE ROLE no_login NOLOGIN";

/// Of two transcripts the first message that differs, for a person.
fn difference(direct: &Transcript, through: &Transcript) -> Option<String> {
    for (session, wanted) in direct {
        let Some(got) = through.get(session) else { return Some(format!("no session {session}")) };
        let pairs = wanted.iter().zip(got);
        if let Some((index, (wanted, got))) = pairs.enumerate().find(|(_, (wanted, got))| wanted != got) {
            return Some(format!("session {session}, message {index}\n  directly: {wanted:?}\n   through: {got:?}"));
        }
        if wanted.len() != got.len() {
            let (wanted, got) = (&wanted[wanted.len().min(got.len())..], &got[wanted.len().min(got.len())..]);
            return Some(format!("session {session}, more\n  directly: {wanted:?}\n   through: {got:?}"));
        }
    }
    None
}

/// Each conversation three times: directly, through the router, and through it in small pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_cannot_be_told_from_its_server() {
    let server = Postgres::start("", HBA).await;
    server.run(THINGS).await;
    server.run("CREATE DATABASE corpus OWNER corpus").await;
    let etcd = Etcd::start().await;
    let member = Arc::new(Member::in_front_of("n1", SCOPE, 1, server.address().port()));
    member.promote(1);
    let _patroni = Patroni::start(&etcd, SCOPE, vec![member]).await;
    let router = Router::start(Setup::new(&etcd, &[SCOPE])).await;
    router.until_open("n1").await;

    // One of them by a part of its name.
    let wanted = std::env::var("PGVANE_CONVERSATION").unwrap_or_default();
    let (mut played, mut messages, mut bytes, mut complaints) = (0, 0, 0, Vec::new());
    for conversation in FILES.into_iter().flat_map(conversations).filter(|it| it.name.contains(&wanted)) {
        match compare(&conversation, &router, &server).await {
            Ok(direct) => {
                let said = || direct.values().flatten();
                messages += said().count();
                bytes += said().map(|message| message.body.len()).sum::<usize>();
            }
            Err(complaint) => complaints.push(complaint),
        }
        played += 1;
    }
    let same = played - complaints.len();
    eprintln!("{same} of {played} conversations are the same, with {messages} messages of {bytes} bytes");
    assert!(played > 0 && complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn conversations(file: &str) -> Vec<Conversation> {
    let path = format!("{}/tests/corpus/{file}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut found = script::read(&text);
    found.iter_mut().for_each(|conversation| conversation.name = format!("{file}.txt, {}", conversation.name));
    found
}

/// The one thing that a client is told by the router alone: that its server went without a word.
fn take_last_word(said: &mut Vec<Message>, code: &str) -> Result<(), String> {
    let last = said.pop().filter(|last| last.kind == b'E' && last.holds("FATAL") && last.holds(code));
    last.map(drop).ok_or_else(|| format!("the router does not say {code} in the place of its server"))
}

/// What was said directly, if the same was said through the router in either manner.
async fn compare(conversation: &Conversation, router: &Router, server: &Postgres) -> Result<Transcript, String> {
    let direct = play(conversation, server.address(), server, Manner::Whole).await?;
    for manner in [Manner::Whole, Manner::Pieces] {
        let through = play(conversation, router.write_port(0), server, manner).await;
        let mut through = through.map_err(|why| format!("through the router ({manner:?}): {why}"))?;
        if let Some(code) = &conversation.spoken {
            let spoken = through.values_mut().try_for_each(|said| take_last_word(said, code));
            spoken.map_err(|why| format!("{} ({manner:?}): {why}", conversation.name))?;
        }
        if let Some(difference) = difference(&direct, &through) {
            return Err(format!("{} ({manner:?}): {difference}", conversation.name));
        }
    }
    Ok(direct)
}
