//! What a client is told whose session ends, byte by byte.

use std::time::Duration;

use pgvane::decide::{Report, Suspicion};
use pgvane::model::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bed::*;
use crate::speaker::*;

/// A server that speaks, as the primary.
async fn stage() -> (Bed, Server) {
    let (bed, server) = (Bed::new(), Server::speaking("a").await);
    bed.publish(Some(&server), &[]);
    (bed, server)
}

/// Cuts the session and returns what its client was told.
async fn cut(bed: &Bed, server: &Server, client: &mut Client) -> Fatal {
    bed.publish(None, &[]);
    bed.close(server, Reason::LeaderMoved);
    let told = client.fatal().await;
    until("the session is gone", || bed.plane.registry().sessions_open() == 0).await;
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_session_is_told_what_became_of_its_work() {
    let table: [(&[&str], &str, &str); 7] = [
        (&[], "57P01", "no transaction was open"),
        (&["BEGIN", "END"], "57P01", "no transaction was open"),
        (&["BEGIN"], "08006", "rolled back"),
        (&["BEGIN", "INSERT"], "08006", "rolled back"),
        (&["BEGIN", "COMMIT"], "08007", "may have been committed"),
        (&["INSERT"], "08007", "may have been committed"),
        (&["BEGIN", "END", "INSERT"], "08007", "may have been committed"),
    ];
    for (said, code, consequence) in table {
        let (bed, server) = stage().await;
        let mut client = welcomed(&bed, "primary").await;
        for text in said {
            match *text {
                "INSERT" | "COMMIT" => {
                    client.send(&query(text)).await;
                    server.heard(&query(text)).await;
                }
                answered => drop(client.ask(answered).await),
            }
        }
        let told = cut(&bed, &server, &mut client).await;
        assert_eq!(told.code, code, "{said:?}");
        assert_eq!(told.message, "terminating connection to a: the leader key names another member");
        assert!(told.detail.starts_with("Service primary, member a: "), "{told:?}");
        assert!(told.detail.contains(consequence), "{said:?}: {told:?}");
        until("the server is reset", || server.resets() == 1).await;
        let snapshot = bed.snapshot("primary");
        assert_eq!(snapshot.closed, [(Reason::LeaderMoved, 1)]);
        assert_eq!(snapshot.told, [(code, 1)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_had_not_begun_is_told_to_go_elsewhere() {
    let (bed, server) = (Bed::new(), Server::asking("a").await);
    bed.publish(Some(&server), &[]);
    let mut client = bed.started("primary").await;
    assert_eq!(client.message().await, (b'R', vec![0, 0, 0, 3]));
    let told = cut(&bed, &server, &mut client).await;
    assert_eq!(told.code, "57P03", "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_said_in_the_middle_of_a_message() {
    let (bed, server) = stage().await;
    let mut client = welcomed(&bed, "primary").await;
    client.send(&query("HALF")).await;
    client.expect(b"D\0\0\0\x20\0\x01").await;
    bed.publish(None, &[]);
    bed.close(&server, Reason::LeaderMoved);
    client.end().await;
    until("the server is reset", || server.resets() == 1).await;
    assert_eq!(bed.snapshot("primary").told, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_said_to_an_encrypted_session() {
    let server = Server::start("a", |mut stream, seen| async move {
        read_packet(&mut stream).await;
        stream.write_all(b"S").await.unwrap();
        echo(stream, seen).await;
    })
    .await;
    let bed = Bed::new();
    bed.publish(Some(&server), &[]);
    let mut client = bed.client("primary").await;
    client.send(&SSL_REQUEST).await;
    client.expect(b"S").await;
    // What reads as an idle session in plain text is none here.
    client.echo(b"Z\0\0\0\x05I").await;
    bed.publish(None, &[]);
    bed.close(&server, Reason::LeaderMoved);
    client.end().await;
    until("the server is reset", || server.resets() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_without_a_word_is_spoken_for() {
    let table: [(&[&str], &str); 2] = [(&[], "08007"), (&["BEGIN"], "08006")];
    for (said, code) in table {
        let (bed, server) = stage().await;
        let mut client = welcomed(&bed, "primary").await;
        for text in said {
            client.ask(text).await;
        }
        client.send(&query("QUIT")).await;
        let told = client.fatal().await;
        assert_eq!(told.code, code, "{said:?}: {told:?}");
        assert_eq!(told.message, "terminating connection to a: the server closed");
        until("counted", || bed.snapshot("primary").closed == [(Reason::ServerClosed, 1)]).await;
        assert_eq!((server.open(), bed.snapshot("primary").told), (0, vec![(code, 1)]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_whose_server_goes_is_told_so() {
    let server = Server::start("a", |mut stream, _| async move {
        read_packet(&mut stream).await;
        stream.write_all(&greeting("a")).await.unwrap();
    })
    .await;
    let bed = Bed::new();
    bed.publish(Some(&server), &[]);
    let (mut client, _) = bed.session("primary").await;
    assert_eq!(client.fatal().await.code, "57P01");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_resets_is_suspected_and_its_client_is_told() {
    let (mut bed, server) = stage().await;
    let mut client = in_transaction(&bed).await;
    client.send(&query("DIE")).await;
    let told = client.fatal().await;
    assert_eq!(told.code, "08006", "{told:?}");
    assert_eq!(told.message, "terminating connection to a: the server's connection broke");
    let report = within("report", bed.reports.recv()).await.unwrap();
    assert_eq!(report, Report::Suspected(server.member(), Suspicion::ServerReset));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_says_itself_is_all_that_its_client_hears() {
    let (bed, _server) = stage().await;
    for begun in [false, true] {
        let mut client = if begun { in_transaction(&bed).await } else { welcomed(&bed, "primary").await };
        client.send(&query("FATAL")).await;
        client.expect(&own_goodbye()).await;
        client.end().await;
    }
    assert_eq!(bed.snapshot("primary").told, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_said_after_a_goodbye() {
    let (bed, server) = stage().await;
    let mut client = in_transaction(&bed).await;
    client.send(&message(b'X', b"")).await;
    client.end().await;
    server.heard(&message(b'X', b"")).await;
    drop(client);
    let mut client = in_transaction(&bed).await;
    client.0.shutdown().await.unwrap();
    client.end().await;
    drop(client);
    until("both are gone", || bed.plane.registry().sessions_open() == 0).await;
    assert_eq!(bed.snapshot("primary").told, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_the_middle_of_a_copy_reads_the_words() {
    let (bed, server) = stage().await;
    let mut client = welcomed(&bed, "primary").await;
    client.send(&query("COPY")).await;
    assert_eq!(client.message().await.0, b'G');
    let (reader, mut writer) = client.0.into_split();
    // Goes on until its connection breaks, as psql does.
    let copying = tokio::spawn(async move {
        let row = message(b'd', &[b'x'; 8000]);
        while writer.write_all(&row).await.is_ok() {}
        writer.forget();
    });
    until("it copies", || server.seen.bytes.load(std::sync::atomic::Ordering::SeqCst) > 1_000_000).await;
    bed.publish(None, &[]);
    bed.close(&server, Reason::LeaderMoved);
    until("the server is let go", || server.open() == 0).await;
    within("the client's writes end", copying).await.unwrap();
    let mut rest = Vec::new();
    let mut reader = reader;
    let _ = within("the words", reader.read_to_end(&mut rest)).await;
    let text = String::from_utf8_lossy(&rest);
    assert!(text.starts_with('E') && text.contains("C08007"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cut_all_the_same() {
    let (bed, server) = stage().await;
    let mut client = welcomed(&bed, "primary").await;
    client.send(&query("FLOOD")).await;
    let sent = || server.seen.bytes.load(std::sync::atomic::Ordering::SeqCst);
    within("every buffer is full", async {
        let mut last = 0;
        while last == 0 || sent() > last {
            last = sent();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    bed.publish(None, &[]);
    bed.close(&server, Reason::LeaderMoved);
    until("its session is gone", || bed.plane.registry().sessions_open() == 0).await;
    let mut bytes = Vec::new();
    within("the end", client.0.read_to_end(&mut bytes)).await.unwrap();
    // Whole rows, and then no words, or half a row and nothing behind it.
    let (mut rest, mut words) = (&bytes[..], 0);
    while let [kind, a, b, c, d, ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize + 1;
        words += usize::from(*kind == b'E');
        assert!(*kind == b'D' || *kind == b'E' && rest.len() == length, "torn");
        rest = rest.get(length..).unwrap_or_default();
    }
    assert_eq!(words as u64, bed.snapshot("primary").told.iter().map(|(_, count)| count).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_held_is_told_how_long_and_why() {
    let bed = Bed::with(|spec| spec.hold_notice = Some(Duration::from_millis(20)));
    bed.publish(None, &[]);
    let (open, asking) = (Server::speaking("a").await, Server::asking("b").await);
    for server in [&open, &asking] {
        let mut client = bed.started("primary").await;
        bed.held(1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        bed.publish(Some(server), &[]);
        if server.name == "b" {
            assert_eq!(client.message().await, (b'R', vec![0, 0, 0, 3]));
            client.send(&message(b'p', b"secret\0")).await;
        }
        let notice = client.welcome().await.expect("a notice");
        let notice = String::from_utf8(notice).unwrap();
        assert!(notice.contains("C00000\0Mthis connection waited 0."), "{notice}");
        assert!(notice.contains(" s for the primary\0DService primary: there is no leader key."), "{notice}");
        assert_eq!(client.ask("SELECT").await, b'I');
        if server.name == "a" {
            assert_eq!(welcomed(&bed, "primary").await.ask("SELECT").await, b'I');
        }
        bed.publish(None, &[]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_held_for_less_is_not_bothered() {
    let bed = Bed::with(|spec| spec.hold_notice = Some(LIMIT));
    let server = Server::speaking("a").await;
    bed.publish(None, &[]);
    let mut client = bed.started("primary").await;
    bed.held(1).await;
    bed.publish(Some(&server), &[]);
    assert_eq!(client.welcome().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_counted_by_what_was_told() {
    let bed = Bed::with(|spec| spec.hold = pgvane::model::HoldSpec::Off);
    bed.publish(None, &[]);
    assert_eq!(bed.started("primary").await.fatal().await.code, "57P03");
    let mut old = bed.client("primary").await;
    old.send(&[0, 0, 0, 9, 0, 2, 0, 0, 0]).await;
    assert_eq!(old.fatal().await.code, "0A000");
    until("counted", || bed.snapshot("primary").told == [("57P03", 1), ("0A000", 1)]).await;
}
