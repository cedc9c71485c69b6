//! Checks against servers of every temper, with HAProxy's words for each.

use std::future::Future;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::model::{CheckTiming, Expect, Observe, RestRole};
use crate::probe::tests::{AMPLE, LIMIT, PRIMARY, REPLICA, authority, http, listen, reset, serve, starve};
use crate::probe::tls::{TlsMaterial, client_config};

const OK: &str = "200 OK";

fn spec(path: &str, limit: Duration) -> CheckSpec {
    CheckSpec {
        path: path.into(),
        port: None,
        expect: Expect::default(),
        timing: CheckTiming { timeout: limit, ..CheckTiming::default() },
        connect_timeout: AMPLE,
        observe: Observe::default(),
    }
}

/// One check of a server that is given its listener.
async fn checked<T>(limit: Duration, server: impl AsyncFnOnce(TcpListener) -> T) -> (CheckOutcome, T) {
    let (listener, address) = listen().await;
    let asked = spec("/primary", limit);
    tokio::join!(check(address, "n1", None, &asked, limit), server(listener))
}

async fn answered(answer: Vec<u8>) -> CheckOutcome {
    checked(AMPLE, async |listener| serve(listener.accept().await.unwrap().0, answer).await).await.0
}

async fn request(stream: &mut (impl AsyncRead + Unpin)) {
    assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
}

#[tokio::test]
async fn an_expected_status_passes_and_tells_what_patroni_said() {
    let (listener, address) = listen().await;
    let server = async { serve(listener.accept().await.unwrap().0, http(OK, REPLICA)).await };
    let asked = spec("/replica?lag=16MB&tag_zone=a", AMPLE);
    let (outcome, request) = tokio::join!(check(address, "n1", None, &asked, AMPLE), server);
    assert_eq!((outcome.status, outcome.code, outcome.problem.as_str()), (CheckStatus::L7Ok, Some(200), ""));
    let answer = outcome.answer.unwrap();
    assert_eq!((answer.status, answer.role), (200, RestRole::Replica));
    assert!(outcome.took > Duration::ZERO && outcome.took < AMPLE);
    assert!(request.starts_with("GET /replica?lag=16MB&tag_zone=a HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: n1:{}\r\n", address.port())), "{request}");
    assert!(request.contains("connection: close\r\n"), "{request}");
}

#[tokio::test]
async fn another_status_fails_and_still_tells_what_patroni_said() {
    let outcome = answered(http("503 Service Unavailable", REPLICA)).await;
    assert_eq!((outcome.status, outcome.code), (CheckStatus::L7Sts, Some(503)));
    assert_eq!(outcome.problem, "HTTP status 503 instead of 200");
    assert_eq!(outcome.answer.unwrap().status, 503);
    // No redirect is followed, and no body is needed.
    let outcome = answered(b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n".to_vec()).await;
    assert_eq!((outcome.status, outcome.code, outcome.answer), (CheckStatus::L7Sts, Some(302), None));
    let outcome = answered(http("418 I'm a teapot", "<html>")).await;
    assert_eq!((outcome.status, outcome.code, outcome.answer), (CheckStatus::L7Sts, Some(418), None));
}

#[tokio::test]
async fn what_is_expected_may_be_ranges() {
    let (listener, address) = listen().await;
    let mut asked = spec("/", AMPLE);
    asked.expect = Expect(vec![(200, 299), (404, 404)]);
    for (status, verdict) in [
        ("204 No Content", CheckStatus::L7Ok),
        ("404 Not Found", CheckStatus::L7Ok),
        ("300 Multiple Choices", CheckStatus::L7Sts),
    ] {
        let server = async { serve(listener.accept().await.unwrap().0, http(status, "")).await };
        let outcome = tokio::join!(check(address, "n1", None, &asked, AMPLE), server).0;
        assert_eq!(outcome.status, verdict, "{status}");
    }
}

#[tokio::test]
async fn a_note_before_the_answer_is_not_the_answer() {
    for note in ["100 Continue", "103 Early Hints"] {
        let head = format!("HTTP/1.1 {note}\r\nLink: </>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answered(head.into_bytes()).await.status, CheckStatus::L7Ok, "{note}");
    }
    let outcome = answered(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_vec()).await;
    assert_eq!((outcome.status, outcome.code), (CheckStatus::L7Sts, Some(101)));
}

#[tokio::test]
async fn what_is_not_http_is_said_in_few_words() {
    let long = format!("HTTP/1.0 200 OK\r\nX: {}\r\n", "x".repeat(300 * 1024));
    let cases: [&[u8]; 6] = [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        &[0x15, 3, 3, 0, 2, 2, 80],
        b"",
        b"HTTP/1.0 20",
        b"HTTP/1.0 200 OK\r\n",
        long.as_bytes(),
    ];
    for case in cases {
        let outcome = answered(case.to_vec()).await;
        let shown = String::from_utf8_lossy(&case[..case.len().min(40)]).into_owned();
        assert_eq!((outcome.status, outcome.code), (CheckStatus::L7Rsp, None), "{shown}: {outcome:?}");
        assert!(!outcome.problem.is_empty() && outcome.problem.chars().count() <= 130, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_refused_or_reset_connection_is_l4con() {
    let (reset_later, _) = checked(AMPLE, async |listener| {
        let mut stream = listener.accept().await.unwrap().0;
        let _ = stream.read(&mut [0; 4096]).await;
        reset(stream);
    })
    .await;
    assert_eq!(reset_later.status, CheckStatus::L4Con, "{reset_later:?}");
    let (refused, ()) = checked(AMPLE, async |listener| drop(listener)).await;
    // The connect may have been done before the listener was gone.
    let (_, address) = listen().await;
    let closed = check(address, "n1", None, &spec("/", AMPLE), AMPLE).await;
    assert_eq!((refused.status, closed.status), (CheckStatus::L4Con, CheckStatus::L4Con), "{refused:?} {closed:?}");
    assert!(!closed.problem.is_empty());
}

#[tokio::test]
async fn an_unanswered_connect_is_l4tout_at_its_own_limit() {
    // A full backlog swallows further connects.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _full = TcpStream::connect(address).await.unwrap();
    let outcome = check(address, "n1", None, &spec("/", AMPLE), LIMIT).await;
    assert_eq!((outcome.status, outcome.code), (CheckStatus::L4Tout, None), "{outcome:?}");
    assert!(outcome.took >= LIMIT && outcome.took < AMPLE, "{outcome:?}");
    assert_eq!(outcome.problem, "no answer to the connect within 250ms");
}

#[tokio::test]
async fn silence_after_the_connect_is_l7tout_at_the_checks_time_out() {
    let (listener, address) = listen().await;
    let silent = check(address, "n1", None, &spec("/", LIMIT), AMPLE).await;
    assert_eq!(silent.status, CheckStatus::L7Tout, "{silent:?}");
    assert!(silent.took >= LIMIT && silent.took < AMPLE, "{silent:?}");
    drop(listener);
    // Half a status line, and then nothing.
    let (half, _) = checked(LIMIT, async |listener| {
        let mut stream = listener.accept().await.unwrap().0;
        stream.write_all(b"HTTP/1.0 20").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    assert_eq!(half.status, CheckStatus::L7Tout, "{half:?}");
}

/// A server that sends the head, then whatever `then` does, until the checker is gone.
async fn after_the_head<F: Future>(then: impl FnOnce(TcpStream) -> F) -> CheckOutcome {
    let begun = clock::now();
    let (outcome, _) = checked(AMPLE, async |listener| {
        let mut stream = listener.accept().await.unwrap().0;
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n").await.unwrap();
        then(stream).await
    })
    .await;
    assert_eq!((outcome.status, outcome.code), (CheckStatus::L7Ok, Some(200)), "{outcome:?}");
    assert!(begun.elapsed() < AFTERWARDS_MAX * 10, "{:?}", begun.elapsed());
    outcome
}

async fn until_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn a_body_changes_no_verdict() {
    assert_eq!(after_the_head(until_closed).await.answer, None, "a body that never comes");
    assert_eq!(after_the_head(async |stream| drop(stream)).await.answer, None, "a body that breaks off");
    assert_eq!(after_the_head(async |stream| reset(stream)).await.answer, None, "a reset");
    let endless = async |listener: TcpListener| {
        let mut stream = listener.accept().await.unwrap().0;
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b' '; 4096]).await.is_ok() {}
    };
    let (outcome, ()) = checked(AMPLE, endless).await;
    assert_eq!((outcome.status, outcome.answer), (CheckStatus::L7Ok, None));
}

#[tokio::test]
async fn a_body_that_follows_its_head_late_is_read() {
    let text = format!("{PRIMARY}{}", " ".repeat(90_000 - PRIMARY.len()));
    let outcome = after_the_head(async |mut stream| {
        for part in text.as_bytes().chunks(30_000) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            stream.write_all(part).await.unwrap();
        }
        until_closed(stream).await;
    })
    .await;
    assert!(outcome.answer.unwrap().is_writable());
}

#[tokio::test]
async fn the_connection_ends_with_fin_whoever_closes_first() {
    for waits in [true, false] {
        let (outcome, ended) = checked(AMPLE, async |listener| {
            let mut stream = listener.accept().await.unwrap().0;
            request(&mut stream).await;
            stream.write_all(&http(OK, PRIMARY)).await.unwrap();
            if !waits {
                stream.shutdown().await.unwrap();
            }
            let ended = stream.read(&mut [0; 16]).await;
            // Said after the checker's goodbye: a closed socket would answer it with a reset.
            let said = if waits { stream.write_all(b"and goodbye").await } else { Ok(()) };
            (ended.unwrap(), said.is_ok(), stream)
        })
        .await;
        assert!(outcome.answer.is_some());
        let (got, said, stream) = ended;
        assert!(got == 0 && said && stream.take_error().unwrap().is_none());
    }
}

#[tokio::test]
async fn a_checker_that_was_kept_from_running_blames_nobody() {
    let (_silent, address) = listen().await;
    let asked = spec("/", LIMIT);
    let outcome = tokio::join!(check(address, "n1", None, &asked, LIMIT), starve(LIMIT * 2)).0;
    assert_eq!(outcome.status, CheckStatus::SockErr, "{outcome:?}");
    assert_eq!(outcome.problem, "the checker itself was late");
}

#[tokio::test]
async fn tls_has_verdicts_of_its_own() {
    let authority = authority();
    let acceptor = authority.acceptor("n1");
    let (cert, key) = authority.issue("pgvane");
    let ca = Some(authority.pem.clone().into_bytes());
    let config = client_config(&TlsMaterial { ca, cert: Some(cert.into()), key: Some(key.into()) }).unwrap();
    for (host, limit, verdict) in [("n1", AMPLE, CheckStatus::L7Ok), ("other", AMPLE, CheckStatus::L6Rsp)] {
        let (listener, address) = listen().await;
        let server = async {
            let Ok(mut stream) = acceptor.accept(listener.accept().await.unwrap().0).await else { return true };
            request(&mut stream).await;
            stream.write_all(&http(OK, PRIMARY)).await.unwrap();
            stream.flush().await.unwrap();
            // The checker says goodbye in TLS, too, and hears ours.
            let ended = stream.read(&mut [0; 16]).await;
            stream.shutdown().await.is_ok()
                && matches!(ended, Ok(0))
                && stream.get_ref().0.take_error().unwrap().is_none()
        };
        let asked = spec("/", limit);
        let (outcome, orderly) = tokio::join!(check(address, host, Some(&config), &asked, AMPLE), server);
        assert_eq!(outcome.status, verdict, "{outcome:?}");
        assert_eq!((outcome.answer.is_some(), orderly), (verdict == CheckStatus::L7Ok, true));
    }
    for (answer, limit, verdict) in
        [(http(OK, PRIMARY), AMPLE, CheckStatus::L6Rsp), (Vec::new(), AMPLE, CheckStatus::L6Rsp)]
    {
        let (listener, address) = listen().await;
        let server = async { serve(listener.accept().await.unwrap().0, answer).await };
        let asked = spec("/", limit);
        let outcome = tokio::join!(check(address, "n1", Some(&config), &asked, AMPLE), server).0;
        assert_eq!(outcome.status, verdict, "{outcome:?}");
    }
    let (_silent, address) = listen().await;
    let outcome = check(address, "n1", Some(&config), &spec("/", LIMIT), AMPLE).await;
    assert_eq!(outcome.status, CheckStatus::L6Tout, "{outcome:?}");
}

#[test]
fn what_this_machine_lacks_is_no_members_fault() {
    let of = |errno: Errno| network(&io::Error::from_raw_os_error(errno as i32), CheckStatus::L4Con).0;
    assert_eq!([of(Errno::EMFILE), of(Errno::ENOBUFS), of(Errno::EADDRNOTAVAIL)], [CheckStatus::SockErr; 3]);
    assert_eq!([of(Errno::ECONNREFUSED), of(Errno::EHOSTUNREACH)], [CheckStatus::L4Con; 2]);
    let unknown = unresolved("db1", &io::Error::other("no such host"), Duration::ZERO);
    assert_eq!((unknown.status, unknown.problem.as_str()), (CheckStatus::L4Con, "db1: no such host"));
}
