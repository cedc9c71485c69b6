//! Probes against servers that behave, and against those that do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::pgsql::port;
use super::rest::rest;
use super::tls::{TlsMaterial, client_config};
use crate::model::{Lsn, PortOutcome, ProbeOutcome, RestAnswer, RestRole, Timeline};
use crate::runtime::clock;

pub(super) const LIMIT: Duration = Duration::from_millis(250);
pub(super) const AMPLE: Duration = Duration::from_secs(10);

pub(super) const PRIMARY: &str = r#"{"state":"running","postmaster_start_time":"2026-11-21 08:00:00+00:00","role":"primary",
"server_version":150018,"xlog":{"location":89421648},"timeline":9,"replication":[],"dcs_last_seen":1795248000,
"tags":{"offline":true,"zone":"A"},"database_system_identifier":"7575","pause":true,"patroni":{"version":"4.1.5"}}"#;
pub(super) const REPLICA: &str = r#"{"state":"running","role":"replica","xlog":{"received_location":20,"replayed_location":10,
"replayed_timestamp":null,"paused":false},"timeline":9,"replication_state":"streaming","cluster_unlocked":true,
"failsafe_mode_is_active":true}"#;

pub(super) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Reads the request, says `answer`, closes.
pub(super) async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: Vec<u8>) -> String {
    let mut request = vec![0; 4096];
    let got = stream.read(&mut request).await.unwrap();
    // The prober may have seen enough before everything is said.
    let _ = stream.write_all(&answer).await;
    String::from_utf8_lossy(&request[..got]).into_owned()
}

pub(super) fn http(status: &str, body: &str) -> Vec<u8> {
    // As Python's http.server says it.
    let head = format!("HTTP/1.0 {status}\r\nServer: BaseHTTP/0.6 Python/3.11\r\nContent-Type: application/json\r\n");
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

async fn answered(answer: Vec<u8>) -> ProbeOutcome {
    let (listener, address) = listen().await;
    let server = async { serve(listener.accept().await.unwrap().0, answer).await };
    tokio::join!(rest(address, "n1", None, AMPLE), server).0
}

fn good(outcome: ProbeOutcome) -> RestAnswer {
    match outcome {
        ProbeOutcome::Answer(answer) => *answer,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_primary_is_read_whole() {
    let (listener, address) = listen().await;
    let server = async { serve(listener.accept().await.unwrap().0, http("200 OK", PRIMARY)).await };
    let (outcome, request) = tokio::join!(rest(address, "n1", None, AMPLE), server);
    assert!(request.starts_with("GET /primary HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: n1:{}\r\n", address.port())), "{request}");
    let answer = good(outcome);
    assert!(answer.is_writable() && answer.claims_lead() && answer.pause && !answer.failsafe_active);
    assert_eq!((answer.location, answer.timeline), (Some(Lsn(89421648)), Some(Timeline(9))));
    assert_eq!((answer.system_id.as_deref(), answer.state.as_str()), (Some("7575"), "running"));
    assert_eq!(answer.tags["offline"], "true");
}

#[tokio::test]
async fn a_replica_says_503_with_the_same_json() {
    let answer = good(answered(http("503 Service Unavailable", REPLICA)).await);
    assert!(answer.is_in_recovery() && !answer.claims_lead() && !answer.is_writable());
    assert_eq!((answer.replayed, answer.received), (Some(Lsn(10)), Some(Lsn(20))));
    assert_eq!(answer.replication_state.as_deref(), Some("streaming"));
    assert!(answer.cluster_unlocked && answer.failsafe_active);
}

#[tokio::test]
async fn a_crashed_primary_is_not_writable() {
    let answer = good(answered(http("200 OK", r#"{"state":"unknown","role":"primary"}"#)).await);
    assert!(answer.claims_lead() && !answer.is_writable() && !answer.is_in_recovery());
    let words =
        [("master", RestRole::Primary), ("standby_leader", RestRole::StandbyLeader), ("demoted", RestRole::Other)];
    for (word, role) in words {
        assert_eq!(good(answered(http("200 OK", &format!(r#"{{"role":"{word}"}}"#))).await).role, role);
    }
}

#[tokio::test]
async fn a_body_may_end_with_the_connection() {
    let answer = format!("HTTP/1.0 200 OK\r\n\r\n{PRIMARY}").into_bytes();
    assert!(good(answered(answer).await).is_writable());
}

#[tokio::test]
async fn what_is_not_patroni_is_garbled_in_few_words() {
    let huge = "x".repeat(300 * 1024);
    let cases = [
        http("404 Not Found", "{}"),
        http("200 OK", "<html>"),
        http("200 OK", "[1]"),
        http("200 OK", r#"{"state":"running"}"#),
        http("200 OK", &huge),
        format!("HTTP/1.0 200 OK\r\n\r\n{huge}").into_bytes(),
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(),
        vec![0x15, 3, 3, 0, 2, 2, 80],
    ];
    for case in cases {
        let shown = String::from_utf8_lossy(&case[..case.len().min(40)]).into_owned();
        match answered(case).await {
            ProbeOutcome::Garbled(text) => assert!(text.chars().count() <= 130, "{text}"),
            other => panic!("{shown}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_unreachable() {
    let whole = http("200 OK", PRIMARY);
    for length in [0, 10, whole.len() - 1] {
        let outcome = answered(whole[..length].to_vec()).await;
        assert!(matches!(outcome, ProbeOutcome::Unreachable(_)), "{length}: {outcome:?}");
    }
}

/// Closes with a reset instead of a FIN.
pub(super) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn a_reset_is_unreachable_and_a_closed_port_refused() {
    let (listener, address) = listen().await;
    let server = async { reset(listener.accept().await.unwrap().0) };
    let outcome = tokio::join!(rest(address, "n1", None, AMPLE), server).0;
    assert!(matches!(outcome, ProbeOutcome::Unreachable(_)), "{outcome:?}");
    let server = async { reset(listener.accept().await.unwrap().0) };
    let outcome = tokio::join!(port(address, AMPLE), server).0;
    assert!(matches!(outcome, PortOutcome::Unreachable(_)), "{outcome:?}");
    drop(listener);
    assert_eq!(rest(address, "n1", None, AMPLE).await, ProbeOutcome::Refused);
    assert_eq!(port(address, AMPLE).await, PortOutcome::Refused);
}

#[tokio::test]
async fn silence_is_a_time_out_at_the_limit() {
    // Accepted by the kernel, answered by nobody: a frozen process.
    let (_listener, address) = listen().await;
    let asked = clock::now();
    assert_eq!(rest(address, "n1", None, LIMIT).await, ProbeOutcome::TimedOut);
    assert_eq!(port(address, LIMIT).await, PortOutcome::TimedOut);
    let spent = asked.elapsed();
    assert!(spent >= 2 * LIMIT && spent < 8 * LIMIT, "{spent:?}");
}

/// Keeps this thread, and so every task of it, from running.
pub(super) async fn starve(pause: Duration) {
    tokio::task::yield_now().await;
    std::thread::sleep(pause);
}

#[tokio::test]
async fn a_checker_that_was_kept_from_running_blames_nobody() {
    let (_listener, address) = listen().await;
    for pause in [LIMIT * 2, LIMIT - Duration::from_millis(40)] {
        let (rest, port, ()) = tokio::join!(rest(address, "n1", None, LIMIT), port(address, LIMIT), starve(pause));
        assert_eq!((rest, port), (ProbeOutcome::CheckerLate, PortOutcome::CheckerLate), "{pause:?}");
    }
    // The answer is there, and was read too late to say when it was given.
    let (listener, address) = listen().await;
    let server = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let listener = listener.into_std().unwrap();
        listener.set_nonblocking(false).unwrap();
        let mut stream = listener.accept().unwrap().0;
        stream.read_exact(&mut [0; 40]).unwrap();
        stream.write_all(&http("200 OK", PRIMARY)).unwrap();
    });
    let outcome = tokio::join!(rest(address, "n1", None, LIMIT), starve(LIMIT * 2)).0;
    assert_eq!(outcome, ProbeOutcome::CheckerLate);
    server.abort();
}

#[tokio::test]
async fn any_byte_from_the_port_is_an_answer_and_none_is_not() {
    for byte in [b'S', b'N', b'E', 0] {
        let (listener, address) = listen().await;
        let server = async { serve(listener.accept().await.unwrap().0, vec![byte]).await };
        let (outcome, request) = tokio::join!(port(address, AMPLE), server);
        assert_eq!(outcome, PortOutcome::Answered);
        assert_eq!(request.as_bytes()[..4], [0, 0, 0, 8]);
    }
    let (listener, address) = listen().await;
    let server = async { serve(listener.accept().await.unwrap().0, vec![]).await };
    let outcome = tokio::join!(port(address, AMPLE), server).0;
    assert!(matches!(outcome, PortOutcome::Unreachable(_)), "{outcome:?}");
}

pub(super) struct Authority {
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

pub(super) fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "probe test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

impl Authority {
    pub(super) fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub(super) fn acceptor(&self, name: &str) -> TlsAcceptor {
        let (cert, key) = self.issue(name);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

#[tokio::test]
async fn tls_with_client_certificate_and_a_server_that_just_closes() {
    let authority = authority();
    let acceptor = authority.acceptor("n1");
    let (cert, key) = authority.issue("pgvane");
    let ca = Some(authority.pem.clone().into_bytes());
    let config =
        client_config(&TlsMaterial { ca: ca.clone(), cert: Some(cert.into()), key: Some(key.into()) }).unwrap();
    let bare = client_config(&TlsMaterial { ca, ..TlsMaterial::default() }).unwrap();
    let whole = http("200 OK", PRIMARY);
    let unsized_body = format!("HTTP/1.0 200 OK\r\n\r\n{PRIMARY}").into_bytes();
    let half = unsized_body[..unsized_body.len() - 9].to_vec();
    for (answer, host, config, is_good) in [
        (whole.clone(), "n1", &config, true),
        (unsized_body, "n1", &config, true),
        (half, "n1", &config, false),
        (whole.clone(), "other", &config, false),
        (whole, "n1", &bare, false),
    ] {
        let (listener, address) = listen().await;
        let server = async {
            let stream = listener.accept().await.unwrap().0;
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.flush().await;
                // Dropped without close_notify, as Python does.
            }
        };
        let outcome = tokio::join!(rest(address, host, Some(config), AMPLE), server).0;
        let as_wanted = if is_good {
            matches!(outcome, ProbeOutcome::Answer(_))
        } else {
            matches!(outcome, ProbeOutcome::Unreachable(_))
        };
        assert!(as_wanted, "{host} {outcome:?}");
    }
}

#[test]
fn bad_material_is_named() {
    let problem = |ca: Option<&[u8]>, cert: Option<&[u8]>| {
        client_config(&TlsMaterial { ca: ca.map(Into::into), cert: cert.map(Into::into), key: None }).unwrap_err()
    };
    assert!(problem(Some(b"nothing"), None).contains("CA file"));
    let pem = authority().pem;
    assert!(problem(Some(pem.as_bytes()), Some(b"x")).contains("key"));
}
