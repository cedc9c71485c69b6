//! COPY and replication.

use super::holds;

#[test]
fn copy_by_a_query() {
    holds(
        "> Q COPY t FROM STDIN
        < G
        = unknown
        > d 1
        > S
        > c
        = unknown
        < C COPY 1
        < Z I
        = idle
        > Q COPY t FROM STDIN; COPY t FROM STDIN
        < G
        > c
        < C COPY 0
        < G
        > c
        < C COPY 0
        < Z I
        = idle
        > Q COPY t TO STDOUT
        < H
        < d 1
        < c
        < C COPY 1
        < Z I
        = idle
        > Q COPY t FROM STDIN
        < G
        > d nonsense
        < E SERROR/VERROR/C22P04/
        < Z I
        = idle
        > d more
        > c
        = idle",
    );
}

/// As libpq and tokio-postgres do: the Sync behind the Execute is passed over.
#[test]
fn copy_by_a_batch_takes_two_syncs_and_gives_one_ready() {
    holds(
        "> P /COPY t FROM STDIN
        > B /
        > E
        > S
        = unknown
        < 1
        < 2
        < G
        = unknown
        > d 1
        > c
        = unknown
        > S
        < C COPY 1
        = unknown
        < Z I
        = idle",
    );
    // The Sync passes when the server reads the COPY already, or never.
    for late in ["> S", "> H"] {
        let script = format!("> E\n< G\n{late}\n> d 1\n> c\n> S\n< C COPY 1\n= unknown\n< Z I\n= idle");
        holds(&script);
    }
}

#[test]
fn a_copy_that_failed_may_have_left_its_sync_to_be_answered() {
    let failed = "> E
        > S
        < G
        > d nonsense
        > c
        > S
        < E SERROR/VERROR/C22P04/
        < Z I
        = unknown
        ";
    // It was passed over: the next answer is no bare ReadyForQuery.
    holds(&format!("{failed} > Q SELECT 1\n < T\n < C SELECT 1\n = unknown\n < Z I\n = idle"));
    // It was not.
    holds(&format!("{failed} > Q DELETE FROM t\n < Z I\n = unknown\n < C DELETE 1\n < Z I\n = idle"));
    holds(&format!("{failed} < Z I\n = idle"));
}

#[test]
fn nothing_else_has_a_place_before_the_end_of_a_copy() {
    for early in ["> Q INSERT INTO t VALUES (1)", "> P /SELECT 1", "> F"] {
        for begun in ["> Q COPY t FROM STDIN\n < G", "> E\n > S\n < G", "> E\n > S\n < G\n > c"] {
            let answers = "< E SERROR/VERROR/C22P04/\n < Z I\n < Z I\n > S\n < Z I\n < Z I";
            holds(&format!("{begun}\n {early}\n {answers}\n = unknown"));
        }
    }
    // Before the server has announced it, nobody knows where it begins.
    holds("> Q COPY t FROM STDIN\n > d 1\n > c\n < G\n > S\n < C COPY 1\n < Z I\n = unknown");
}

#[test]
fn replication_is_under_way_to_its_end() {
    holds(
        "> Q START_REPLICATION 0/0
        < W
        < d wal
        > d status
        = unknown
        < c
        > c
        < C START_STREAMING
        < Z I
        = idle",
    );
}
