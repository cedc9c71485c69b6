//! Conversations as pages of text, one message a line: `>` of the client, `<` of the server, `=` what the
//! session is then, `~` where it looks away: messages that pass unseen are not on the page.

use proptest::prelude::*;

use super::*;

mod away;
mod copies;
mod transactions;

/// A message from its type and text: `Q text`, `P name/text`, `B portal/statement`, `E portal`, `Z T`.
fn message(line: &str) -> Vec<u8> {
    let (kind, text) = line.split_once(' ').unwrap_or((line, ""));
    let kind = kind.as_bytes()[0];
    let strings = |text: &str, tail: &[u8]| [text.replace('/', "\0").as_bytes(), &[0], tail].concat();
    let body = match kind {
        b'P' => strings(text, &[0; 2]),
        b'B' => strings(text, &[0; 6]),
        // Of the client, or an error's fields.
        b'E' => strings(text, if text.contains('/') { &[] } else { &[0; 4] }),
        b'Q' | b'f' | b'C' => [text.as_bytes(), &[0]].concat(),
        b'S' | b'H' | b'X' | b'c' | b'1' | b'2' | b'I' => Vec::new(),
        b'R' => vec![0; 4],
        b'N' => strings(text, &[]),
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
        let (side, text) = line.split_once(' ').unwrap_or((line, ""));
        match side {
            ">" => conversation.sent_to_server(&message(text)),
            "<" => conversation.sent_to_client(&message(text)),
            "~" => conversation.look_away(),
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
    assert!(size_of::<Conversation>() <= 104, "{}", size_of::<Conversation>());
}

#[test]
fn until_the_first_ready_nothing_was_run() {
    let mut conversation = Conversation::plaintext();
    play(
        &mut conversation,
        "= startup
        < R
        > p secret
        = startup
        < S TimeZone
        < Z I
        = idle",
    );
    let mut eager = Conversation::plaintext();
    play(
        &mut eager,
        "> Q DELETE FROM t
        = unknown
        < Z I
        = unknown
        < C DELETE 1
        < Z I
        = idle",
    );
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
        = idle
        > Q
        < I
        < Z I
        = idle",
    );
}

#[test]
fn what_comes_by_itself_changes_nothing() {
    holds(
        "< A
        = idle
        < S TimeZone
        = idle
        < N SNOTICE/VNOTICE/C00000/
        = idle
        > H
        = idle
        > d left over from a COPY that failed
        > c
        = idle
        < E SERROR/VERROR/CXX000/
        < Z I
        = idle",
    );
}

#[test]
fn a_pipeline_is_idle_after_its_last_ready() {
    holds(
        "> P /SELECT 1
        > B /
        > E
        > S
        > P /SELECT 2
        > S
        > Q SELECT 3
        < 1
        < 2
        < C SELECT 1
        < Z I
        = unknown
        < 1
        < Z I
        = unknown
        < C SELECT 1
        < Z I
        = idle",
    );
}

#[test]
fn what_fails_in_a_batch_is_skipped_up_to_its_sync() {
    holds(
        "> P /SELEC
        > B /
        > E
        < E SERROR/VERROR/C42601/
        = unknown
        > S
        = unknown
        < Z I
        = idle",
    );
    // A Query that the server may have skipped: too much is expected, never too little.
    holds(
        "> P /SELEC
        > Q SELECT 1
        > S
        < E SERROR/VERROR/C42601/
        < Z I
        = unknown",
    );
}

#[test]
fn a_suspended_portal_is_no_end_of_a_batch() {
    holds(
        "> Q BEGIN
        < C BEGIN
        < Z T
        > P s/SELECT * FROM large
        > B rows/s
        > E rows
        > H
        < 1
        < 2
        < D
        < s
        = busy in transaction
        > S
        < Z T
        = in transaction
        > E rows
        > S
        = busy in transaction
        < C SELECT 1
        < Z T
        = in transaction",
    );
}

#[test]
fn half_a_message_is_no_idle_session() {
    let mut conversation = admitted();
    conversation.sent_to_server(b"H\0\0");
    assert_eq!(word(&conversation), "idle but unreachable");
    conversation.sent_to_server(b"\0\x04");
    assert_eq!(word(&conversation), "idle");
    // Half of a statement is not run, whatever a server sends meanwhile by itself.
    conversation.sent_to_server(b"Q\0\0\0\x0bCOM");
    assert_eq!(word(&conversation), "idle but unreachable");
    play(&mut conversation, "< E SERROR/VERROR/CXX000/\n < Z I");
    conversation.sent_to_server(b"MIT\0");
    assert_eq!(word(&conversation), "unknown");
    play(&mut conversation, "< C COMMIT\n < Z I\n = idle");
    conversation.sent_to_client(b"A\0\0\0\x0e");
    assert_eq!((word(&conversation), conversation.hearing()), ("idle but unreachable", Hearing::Torn));
}

#[test]
fn what_no_rule_is_about_makes_it_unknown_for_good() {
    for nonsense in ["> ?", "> Q SELECT 1\n> c\n< G\n< C COPY 0\n< Z I", "< G"] {
        let mut conversation = admitted();
        play(&mut conversation, nonsense);
        play(&mut conversation, "< Z I\n = unknown");
    }
    for garbage in [&b"Z\0\0\0\0"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let mut conversation = admitted();
        conversation.sent_to_client(garbage);
        assert_eq!(conversation.standing(), if garbage[0] == b'Z' { Standing::Unknown } else { Standing::Idle });
        assert_eq!(conversation.hearing(), Hearing::Torn);
    }
    let mut conversation = admitted();
    conversation.sent_to_server(b"Q\0\0\0\0");
    assert_eq!(conversation.standing(), Standing::Unknown);
}

#[test]
fn a_client_that_was_told_the_end_is_told_nothing_more() {
    for (last, hearing) in [
        ("< E SFATAL/VFATAL/C57P01/Mterminating/", Hearing::Told),
        ("< E SPANIC/VPANIC/CXX000/", Hearing::Told),
        ("< E SFATAL/C57P01/", Hearing::Told),
        ("< E SSCHWERWIEGEND/VFATAL/C57P01/", Hearing::Told),
        ("< E SFATAL/VERROR/C57P01/", Hearing::Open),
        ("< E SERROR/VERROR/C57014/MVFATAL/", Hearing::Open),
        ("< E SFATALITY/VFATALITY/C42000/", Hearing::Open),
        ("< N SWARNING/VWARNING/C57P02/Mterminating/", Hearing::Told),
        ("< N SWARNING/VWARNING/C57/", Hearing::Open),
        ("< N SNOTICE/VNOTICE/C00000/M57P/", Hearing::Open),
        ("< N SWARNING/VWARNING/C57P02/\n < A", Hearing::Open),
        ("> X", Hearing::Leaving),
        ("< E SFATAL/VFATAL/C57P01/\n > X", Hearing::Leaving),
    ] {
        let mut conversation = admitted();
        play(&mut conversation, last);
        assert_eq!(conversation.hearing(), hearing, "{last}");
        assert_eq!(conversation.is_idle(), hearing == Hearing::Open, "{last}");
    }
    let encrypted = Conversation::encrypted();
    assert_eq!((encrypted.hearing(), encrypted.standing()), (Hearing::Encrypted, Standing::Unknown));
}

#[test]
fn the_key_is_taken_once_and_only_a_sound_one() {
    let mut conversation = admitted();
    assert_eq!(conversation.take_key().as_deref(), Some(&b"\0\0\0\x07abcd"[..]));
    assert_eq!(conversation.take_key(), None);
    for (secret, sound) in [(0, false), (1, true), (256, true), (257, false)] {
        let mut conversation = Conversation::plaintext();
        let body = vec![b'k'; 4 + secret];
        let text = String::from_utf8(body.clone()).expect("letters");
        play(&mut conversation, &format!("< K {text}\n< Z I"));
        assert_eq!(conversation.take_key().is_some_and(|key| *key == body), sound, "{secret}");
        play(&mut conversation, "< K pid4secret");
        assert!(conversation.take_key().is_none());
    }
    let mut half = Conversation::plaintext();
    half.sent_to_client(b"K\0\0\0\x0c\0\0\0\x07ab");
    assert_eq!(half.take_key(), None);
    half.sent_to_client(b"cd");
    assert!(half.take_key().is_some());
}

#[test]
fn the_end_of_the_authentication_is_found_in_what_comes_next() {
    let ok = b"R\0\0\0\x08\0\0\0\0";
    let asked = [b"R\0\0\0\x08\0\0\0\x03", &ok[..], b"S\0\0\0\x04"].concat();
    for cut in 0..asked.len() {
        let mut conversation = Conversation::plaintext();
        conversation.sent_to_client(&asked[..cut]);
        for end in cut..=asked.len() {
            let expected = (cut < 18 && end >= 18).then(|| 18 - cut);
            assert_eq!(conversation.after_authentication(&asked[cut..end]), expected, "{cut} {end}");
        }
        conversation.sent_to_client(&asked[cut..]);
        assert_eq!(conversation.after_authentication(ok), None);
    }
    assert_eq!(Conversation::plaintext().after_authentication(b"R\0\0\0\x0c\0\0\0\0salt"), None);
    assert_eq!(Conversation::encrypted().after_authentication(ok), None);
}

fn anything() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
    let client = prop::sample::select(vec![
        "Q BEGIN",
        "Q COMMIT",
        "Q ROLLBACK; SELECT 1",
        "Q SELECT 1",
        "P s/COMMIT",
        "P /END",
        "P /SELECT 1",
        "B p/s",
        "B /",
        "B /s",
        "E",
        "E p",
        "S",
        "H",
        "D S",
        "C Sp",
        "F",
        "c",
        "f no",
        "d 1",
        "X",
        "p secret",
        "?",
    ]);
    let server = prop::sample::select(vec![
        "Z I",
        "Z T",
        "Z E",
        "C COMMIT",
        "G",
        "W",
        "H",
        "E SERROR/VERROR/C42601/",
        "E SFATAL/VFATAL/C57P01/",
        "N SWARNING/C57P02/",
        "T",
        "1",
        "2",
        "K pid4secret",
        "R",
        "A",
    ]);
    let step = prop_oneof![
        client.prop_map(|line| (true, message(line))),
        server.prop_map(|line| (false, message(line))),
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..12)),
    ];
    prop::collection::vec(step, 0..40)
}

fn say(conversation: &mut Conversation, to_server: bool, bytes: &[u8]) {
    if to_server {
        conversation.sent_to_server(bytes);
    } else {
        conversation.sent_to_client(bytes);
    }
}

proptest! {
    #[test]
    fn any_pieces_give_what_the_whole_gives(steps in anything(), sizes in prop::collection::vec(1..9_usize, 1..20)) {
        let (mut whole, mut pieces) = (Conversation::plaintext(), Conversation::plaintext());
        let mut sizes = sizes.iter().cycle();
        for (to_server, bytes) in &steps {
            prop_assert_eq!(whole.after_authentication(bytes), pieces.after_authentication(bytes));
            say(&mut whole, *to_server, bytes);
            let mut left = &bytes[..];
            while !left.is_empty() {
                let size = sizes.next().map_or(1, |size| left.len().min(*size));
                say(&mut pieces, *to_server, &left[..size]);
                left = &left[size..];
            }
            prop_assert_eq!(whole.standing(), pieces.standing());
            prop_assert_eq!(whole.hearing(), pieces.hearing());
            prop_assert_eq!(whole.is_idle(), pieces.is_idle());
            prop_assert_eq!(whole.take_key(), pieces.take_key());
        }
    }
}
