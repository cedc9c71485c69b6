//! Conversations as pages of text, one message a line: `>` of the client, `<` of the server, `=` what the
//! session is then.

use super::*;

/// A message from its type and text: `Q text`, `P name/text`, `B portal/statement`, `E portal`, `Z T`.
fn message(line: &str) -> Vec<u8> {
    let (kind, text) = line.split_once(' ').unwrap_or((line, ""));
    let kind = kind.as_bytes()[0];
    let strings = |text: &str, tail: &[u8]| [text.replace('/', "\0").as_bytes(), &[0], tail].concat();
    let body = match kind {
        b'P' => strings(text, &[0; 2]),
        b'B' => strings(text, &[0; 6]),
        b'E' => strings(text, &[0; 4]),
        b'Q' | b'f' => [text.as_bytes(), &[0]].concat(),
        b'S' | b'H' | b'X' | b'c' | b'1' | b'2' | b'I' => Vec::new(),
        _ => text.as_bytes().to_vec(),
    };
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind][..], &length, &body].concat()
}

fn word(conversation: &Conversation) -> &'static str {
    match conversation.standing() {
        Standing::Startup => "startup",
        Standing::Idle if conversation.is_idle() => "idle",
        Standing::Idle => "idle but unreachable",
        Standing::InTransaction { busy: false } => "in transaction",
        Standing::InTransaction { busy: true } => "busy in transaction",
        Standing::Unknown => "unknown",
    }
}

fn play(conversation: &mut Conversation, script: &str) {
    for (number, line) in script.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        let (side, text) = line.split_once(' ').expect("a side and a message");
        match side {
            ">" => conversation.sent_to_server(&message(text)),
            "<" => conversation.sent_to_client(&message(text)),
            "=" => assert_eq!(word(conversation), text, "line {number} of {script}"),
            _ => panic!("line {number}: {line}"),
        }
    }
}

/// A session that was admitted and said nothing yet.
fn admitted() -> Conversation {
    let mut conversation = Conversation::plaintext();
    conversation.sent_to_client(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07abcd");
    play(&mut conversation, "< Z I");
    conversation
}

fn holds(script: &str) {
    play(&mut admitted(), script);
}

#[test]
fn it_is_small() {
    assert!(size_of::<Conversation>() <= 152, "{}", size_of::<Conversation>());
}

#[test]
fn a_session_is_idle_when_each_question_has_its_ready() {
    holds(
        "= idle
        > Q SELECT 1
        = unknown
        < T
        < D
        < C SELECT 1
        = unknown
        < Z I
        = idle
        > P /SELECT 1
        > B /
        > E
        = unknown
        < 1
        < 2
        < C SELECT 1
        = unknown
        > S
        = unknown
        < Z I
        = idle
        > F
        = unknown
        < V
        < Z I
        = idle",
    );
}

#[test]
fn a_transaction_is_rolled_back_for_certain_until_a_commit_is_sent() {
    holds(
        "> Q BEGIN
        = unknown
        < C BEGIN
        < Z T
        = in transaction
        > Q INSERT INTO t VALUES (1)
        = busy in transaction
        < C INSERT 0 1
        < Z T
        = in transaction
        > Q commit
        = unknown
        < C COMMIT
        < Z I
        = idle",
    );
}
