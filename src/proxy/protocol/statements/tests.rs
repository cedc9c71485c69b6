//! Texts and what they could have done in a transaction.

use super::*;

/// Sends a Query of this text inside a transaction, in pieces of this size.
fn asked(text: &str, size: usize) -> Statements {
    let mut statements = Statements::new();
    statements.first_under_way(true);
    let body = [text.as_bytes(), &[0]].concat();
    for (index, bytes) in body.chunks(size).enumerate() {
        let offset = (index * size) as u32;
        statements.see(Part { kind: b'Q', begins: index == 0, body_len: body.len() as u32, offset, bytes });
    }
    statements
}

#[test]
fn words_tell_what_a_text_may_do() {
    let certain = [
        "",
        "SELECT 1",
        "SELECT committed, ended, prepared, commit_log FROM t",
        "SELECT commits, uncommit, _commit, commit1, commit$, \u{e9}commit, commit\u{e9}",
        "SELECT endcommit, xend, end_, prepares FROM t",
        "comm it",
        "CALL book(1)",
        "ROLLBACK",
        "rollback;",
        "ROLLBACK ; \r\n\t\u{b}\u{c};; ",
        "INSERT INTO t VALUES (1); ROLLBACK",
        "ROLLBACK TO SAVEPOINT before",
        "ABORT WORK",
        "SELECT 'rollback', 2",
        "SELECT rollbacks; SELECT 1",
        "SAVEPOINT s; INSERT INTO t VALUES (1); RELEASE s",
    ];
    let doubtful = [
        "COMMIT",
        "commit",
        "CoMmIt;",
        " \n\tCOMMIT WORK",
        "COMMIT AND CHAIN",
        "END",
        "End Transaction",
        "PREPARE TRANSACTION 'two'",
        "SELECT 1;COMMIT",
        "SELECT 1;COMMIT;SELECT 2",
        "/**/COMMIT/**/",
        "--\nCOMMIT--",
        "SELECT 'commit'",
        "SELECT \"end\"",
        "-- commit",
        "/* end */ SELECT 1",
        "SELECT CASE WHEN a THEN b END FROM t",
        "DO $$ BEGIN PERFORM 1; END $$",
        "PREPARE s AS SELECT 1",
        "(COMMIT)",
        "ROLLBACK; INSERT INTO t VALUES (1)",
        "ROLLBACK;INSERT INTO t VALUES (1)",
        "rollback to s; select 1",
        "abort;;/**/",
        "ROLLBACK; ROLLBACK",
        "SELECT 'abort;now'",
    ];
    let longest = "a".repeat(1000);
    for size in [1, 2, 3, 5, 1000] {
        for text in certain.iter().copied().chain([&longest[..]]) {
            assert!(!asked(text, size).is_risky(), "{text} in pieces of {size}");
        }
        for text in doubtful {
            assert!(asked(text, size).is_risky(), "{text} in pieces of {size}");
        }
    }
}

#[test]
fn a_text_without_its_end_is_read_to_the_end_of_its_message() {
    let mut statements = Statements::new();
    statements.first_under_way(true);
    statements.see(Part { kind: b'Q', begins: true, body_len: 6, offset: 0, bytes: b"COMMIT" });
    assert!(statements.is_risky());
}

#[test]
fn outside_a_transaction_everything_commits_by_itself() {
    let mut statements = Statements::new();
    assert!(statements.is_risky());
    statements.first_under_way(false);
    assert!(statements.is_risky());
}

#[test]
fn many_prepared_statements_do_not_look_like_a_commit() {
    let mut names = Names::default();
    let hash = |text: String| {
        let mut name = Name::default();
        text.bytes().for_each(|byte| name.take(byte));
        name.hash
    };
    names.add(hash("S_1".to_owned()));
    names.add(hash("S_2".to_owned()));
    assert!(names.has(hash("S_1".to_owned())));
    let alike = (3..1003).filter(|number| names.has(hash(format!("S_{number}")))).count();
    assert!(alike < 30, "{alike} of 1000");
}
