//! What a transaction under way could have made lasting.

use super::holds;

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
        > F
        = busy in transaction
        < E SERROR/VERROR/C42883/
        < Z E
        = in transaction
        > Q commit
        = unknown
        < C ROLLBACK
        < Z I
        = idle",
    );
}

#[test]
fn only_all_answers_make_a_transaction_certain() {
    holds(
        "> Q BEGIN
        > Q INSERT INTO t VALUES (1)
        < C BEGIN
        < Z T
        = unknown
        < C INSERT 0 1
        < Z T
        = in transaction
        > Q COMMIT AND CHAIN
        = unknown
        < C COMMIT
        < Z T
        = in transaction
        > Q SELECT 1
        > Q SELECT 2
        < C SELECT 1
        < Z T
        = busy in transaction
        < C SELECT 1
        < Z I
        = idle",
    );
}

#[test]
fn behind_a_rollback_everything_commits_by_itself() {
    let begun = "> Q BEGIN\n < C BEGIN\n < Z T\n";
    holds(&format!("{begun} > Q ROLLBACK\n = busy in transaction\n < C ROLLBACK\n < Z I\n = idle"));
    for next in ["> Q INSERT INTO t VALUES (1)", "> F", "> P /INSERT INTO t VALUES (1)\n> B /\n> E"] {
        holds(&format!("{begun} > Q ROLLBACK\n = busy in transaction\n {next}\n = unknown"));
        holds(&format!("{begun} > P /ABORT\n > B /\n > E\n = busy in transaction\n {next}\n = unknown"));
        holds(&format!("{begun} > Q ROLLBACK TO s\n < C ROLLBACK\n < Z T\n {next}\n = busy in transaction"));
    }
    holds(&format!(
        "{begun} > Q ROLLBACK\n > Q SELECT 1\n < C ROLLBACK\n < Z I\n = unknown\n < C SELECT 1\n < Z I\n = idle"
    ));
}

#[test]
fn a_prepared_commit_is_known_by_its_name() {
    holds(
        "> P S_1/COMMIT
        > P S_2/ROLLBACK
        > P S_3/SELECT 1
        > P S_3/SELECT 2
        > S
        < 1
        < 1
        < Z T
        = in transaction
        > B /S_3
        > E
        > B /S_3
        > E
        = busy in transaction
        > B /S_2
        > E
        = busy in transaction
        > B /S_3
        = busy in transaction
        > E
        = unknown
        > S
        < C
        < Z T
        = in transaction
        > B /S_1
        = busy in transaction
        > E
        = unknown
        > S
        < C COMMIT
        < Z I
        = idle",
    );
}

#[test]
fn a_portal_keeps_what_was_bound_to_it() {
    holds(
        "> P /COMMIT
        > B later/
        > P /SELECT 1
        > S
        < 1
        < Z T
        = in transaction
        > B /
        > E
        = busy in transaction
        > E later
        = unknown
        > S
        < C COMMIT
        < Z I
        > Q BEGIN
        < C BEGIN
        < Z T
        > E later
        = busy in transaction",
    );
}

#[test]
fn a_skipped_parse_leaves_the_statement_that_was_there() {
    let prepared = "> P /COMMIT\n > S\n < 1\n < Z T\n > D Snonsense\n > P /SELECT 1\n > S\n";
    let bound = "> B /\n > E\n";
    holds(&format!("{prepared} < E SERROR/VERROR/C26000/\n < Z T\n {bound} = unknown"));
    holds(&format!("{prepared} < 1\n < Z T\n {bound} = busy in transaction"));
    let late = "> P /COMMIT\n > S\n < 1\n < Z T\n > D Snonsense\n < E SERROR/VERROR/C26000/\n > P /SELECT 1\n > S\n";
    holds(&format!("{late} < Z E\n {bound} = unknown"));
}
