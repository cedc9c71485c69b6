//! What is known of a session whose server passes unseen, and what is known of it again.

use super::super::super::sight::TAIL_BYTES;
use super::*;

mod streams;

#[test]
fn an_answer_that_passes_unseen_is_not_over_before_its_end_is_seen() {
    holds(
        "> Q SELECT * FROM large
        < T
        < D
        ~
        = unknown
        < D
        = unknown
        < C SELECT 1000
        = unknown
        < Z I
        = idle
        > Q COPY large TO STDOUT
        < H
        < d
        ~
        < d 1
        ~
        < d 2
        < c
        < C COPY 2
        < Z I
        = idle
        > P /SELECT * FROM large
        > B /
        > E
        > S
        < 1
        < 2
        < D
        ~
        < D row
        < s
        < N SNOTICE/VNOTICE/C00000/
        < Z I
        = idle
        > Q SELECT 1
        < C SELECT 1
        < Z I
        = idle",
    );
}

#[test]
fn in_a_transaction_it_counts_what_the_client_said() {
    holds(
        "> Q BEGIN
        < C BEGIN
        < Z T
        > Q SELECT * FROM large
        < D
        ~
        = busy in transaction
        < D row
        < E SERROR/VERROR/C22012/
        < Z E
        = in transaction
        > Q ROLLBACK
        < C ROLLBACK
        < Z I
        = idle
        > Q BEGIN
        < C BEGIN
        < Z T
        > Q SELECT * FROM large; COMMIT
        < D
        ~
        = unknown
        < C COMMIT
        < Z I
        = idle",
    );
    holds(
        "> Q BEGIN
        < C BEGIN
        < Z T
        > Q SELECT * FROM large
        < D
        ~
        > Q COMMIT
        = unknown
        < C SELECT 1
        < Z T
        = unknown
        < C COMMIT
        < Z I
        = idle",
    );
}

#[test]
fn of_more_than_one_answer_the_first_end_is_that_of_the_first() {
    holds(
        "> Q SELECT * FROM large
        < D
        ~
        > P /SELECT 1
        > B /
        > E
        > S
        < D row
        < C SELECT 1
        < Z I
        = unknown
        < 1
        < 2
        < C SELECT 1
        < Z I
        = idle",
    );
}

#[test]
fn an_end_that_was_missed_is_waited_for_as_long_as_the_session_lives() {
    let mut conversation = admitted();
    play(&mut conversation, "> Q SELECT * FROM large\n < D\n ~");
    // Its CommandComplete and its ReadyForQuery are not on the page.
    let later = "> Q SELECT 1
        < T
        < D
        < C SELECT 1
        < Z I
        = unknown";
    play(&mut conversation, later);
    play(&mut conversation, later);
    assert_eq!(conversation.hearing(), Hearing::Open);
}

/// A Parse that is skipped leaves the statement that it would replace.
#[test]
fn after_what_was_missed_a_parse_may_have_been_skipped() {
    holds(
        "> Q BEGIN
        < C BEGIN
        < Z T
        > P /COMMIT
        > S
        < 1
        < Z T
        > P a/SELECT * FROM large
        > B /a
        > E
        > S
        < D
        ~
        > P /SELECT 1
        > S
        = busy in transaction
        > B /
        > E
        > S
        = unknown",
    );
}

#[test]
fn it_may_look_away_from_the_data_of_one_answer() {
    for (script, may) in [
        ("", false),
        ("> Q SELECT 1", false),
        ("> Q SELECT 1\n < T", false),
        ("> Q SELECT 1\n < T\n < D", true),
        ("> Q SELECT 1\n < D\n < C SELECT 1", false),
        ("> Q SELECT 1\n < D\n < N SNOTICE/", false),
        ("> Q SELECT 1\n < D\n < C SELECT 1\n < Z I", false),
        ("> Q COPY t TO STDOUT\n < H\n < d 1", true),
        ("> Q START_REPLICATION\n < W\n < d 1", false),
        ("> P /SELECT 1\n > B /\n > E\n > H\n < D", false),
        ("> P /SELECT 1\n > B /\n > E\n > S\n < D", true),
        ("> Q SELECT 1\n > Q SELECT 1\n < D", false),
        ("> Q SELECT 1\n < D\n > P /SELECT 1", false),
        ("> Q SELECT 1\n < D\n ~", true),
        ("> Q SELECT 1\n < D\n ~\n < D", true),
        ("> Q SELECT 1\n < D\n ~\n < D\n > Q SELECT 1", false),
        ("> Q SELECT 1\n < D\n ~\n < C SELECT 1", false),
        ("> Q SELECT 1\n < D\n ~\n < C SELECT 1\n < T", true),
        ("> Q SELECT 1\n < D\n ~\n < C SELECT 1\n < Z I", false),
        ("> Q SELECT 1\n < D\n > ?", false),
        ("> Q SELECT 1\n > c\n < D", false),
    ] {
        let mut conversation = admitted();
        play(&mut conversation, script);
        assert_eq!(conversation.may_look_away(), may, "{script}");
    }
    let mut torn = admitted();
    play(&mut torn, "> Q SELECT 1");
    torn.sent_to_client(b"D\0\x01\0\0\0\x01\0\0\xff\xf0row");
    assert!(torn.may_look_away());
    let mut eager = Conversation::plaintext();
    eager.sent_to_client(b"D\0\0\0\x06\0\0");
    assert!(!eager.may_look_away());
    let mut encrypted = Conversation::encrypted();
    assert!(encrypted.may_look_away());
    encrypted.look_away();
    assert_eq!(encrypted.hearing(), Hearing::Encrypted);
}

#[test]
fn where_it_may_not_look_away_nothing_is_known_afterwards() {
    for script in ["~", "> Q SELECT 1\n ~", "> Q SELECT 1\n > Q SELECT 1\n < D\n ~"] {
        let mut conversation = admitted();
        play(&mut conversation, script);
        play(&mut conversation, "= unknown\n < C SELECT 1\n < Z I\n < C SELECT 1\n < Z I\n = unknown");
    }
    let mut early = Conversation::plaintext();
    play(&mut early, "~\n = unknown");
}

#[test]
fn meanwhile_the_client_is_told_nothing() {
    let mut conversation = admitted();
    play(&mut conversation, "> Q SELECT 1\n < N SWARNING/VWARNING/C57P02/\n < D\n ~");
    assert_eq!(conversation.hearing(), Hearing::Torn);
    assert_eq!(conversation.take_key(), None);
    assert_eq!(conversation.after_authentication(b"R\0\0\0\x08\0\0\0\0"), None);
    play(&mut conversation, "< E SFATAL/VFATAL/C57P01/");
    assert_eq!(conversation.hearing(), Hearing::Torn);
    play(&mut conversation, "> X");
    assert_eq!(conversation.hearing(), Hearing::Leaving);
    let mut other = admitted();
    play(&mut other, "> Q SELECT 1\n < D\n ~\n < C SELECT 1\n < Z I");
    assert_eq!(other.hearing(), Hearing::Open);
    assert!(other.take_key().is_some());
    play(&mut other, "< N SWARNING/VWARNING/C57P02/");
    assert_eq!(other.hearing(), Hearing::Told);
}

#[test]
fn an_error_longer_than_what_is_seen_of_it_ends_its_answer() {
    let mut conversation = admitted();
    play(&mut conversation, "> Q BEGIN\n < C BEGIN\n < Z T\n > Q SELECT f() FROM large\n < D\n ~");
    let context = "at RAISE\n".repeat(TAIL_BYTES);
    let error = message(&format!("E SERROR/VERROR/CP0001/Mno/W{context}/Fpl_exec.c/L3923/Rexec_stmt_raise/"));
    conversation.sent_to_client(&error[error.len() - 300..]);
    play(&mut conversation, "= busy in transaction\n < Z E\n = in transaction");
}
