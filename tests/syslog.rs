//! Log lines at a syslog daemon, which is a socket of this test's own. One test: a process has one log.

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use pgvane::config::{Facility, LogSpec, SyslogSpec, SyslogTarget};
use pgvane::model::HostPort;
use pgvane::runtime::log::{self, LogFormat};

/// For one datagram on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn to(target: SyslogTarget) -> LogSpec {
    LogSpec { syslog: Some(SyslogSpec { target, facility: Facility(16) }) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn lines_follow_the_configuration() {
    log::start(LogFormat::Text);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("log");
    let local = UnixDatagram::bind(&path).expect("a socket");
    local.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut buffer = [0; 4096];
    let mut next_local = || local.recv(&mut buffer).map(|length| text(&buffer[..length]));

    tracing::info!(target: "pgvane::session", "before there was a daemon");
    log::redirect(&to(SyslogTarget::Unix(path))).expect("a thread");
    tracing::error!(target: "pgvane::member", member = "n1", "one\ntwo");
    tracing::debug!("not at the level that is logged");
    let told = next_local().expect("a datagram");
    // local0.err, the local time, the process: what the C library's syslog() sends.
    assert!(told.starts_with("<131>") && told.contains(&format!(" pgvane[{}]: ERROR ", std::process::id())), "{told}");
    assert!(told.contains("pgvane::member: one") && told.contains("n1") && !told.contains('\n'), "{told}");
    tracing::warn!("{}", "€".repeat(4000));
    let told = next_local().expect("a datagram");
    assert!(told.starts_with("<132>") && told.len() > 2000 && told.len() <= 2048, "{}", told.len());

    let remote = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    remote.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let port = remote.local_addr().expect("an address").port();
    log::redirect(&to(SyslogTarget::Udp(HostPort::new("127.0.0.1", port)))).expect("a thread");
    tracing::info!("over the network");
    let mut buffer = [0; 4096];
    let length = remote.recv(&mut buffer).expect("a datagram");
    let told = text(&buffer[..length]);
    // local0.info, version 1, and six fields before the message.
    assert!(told.starts_with("<134>1 2"), "{told}");
    let fields: Vec<&str> = told.splitn(8, ' ').collect();
    assert_eq!(fields[3..7], ["pgvane", &std::process::id().to_string(), "-", "-"], "{told}");
    assert!(
        fields[1].ends_with('Z') && fields[7].starts_with("INFO ") && fields[7].ends_with("over the network"),
        "{told}"
    );

    log::redirect(&LogSpec::default()).expect("no thread is needed");
    tracing::info!("to stderr alone");
    log::finish();
    local.set_nonblocking(true).expect("a flag");
    remote.set_nonblocking(true).expect("a flag");
    assert!(local.recv(&mut buffer).is_err() && remote.recv(&mut buffer).is_err());
}
