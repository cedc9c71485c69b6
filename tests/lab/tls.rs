//! TLS between client and server passes through untouched.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use pgvane::cli::demo::rest;
use serde_json::json;

use super::programs::psql;
use super::traffic::cancels;
use crate::kit::stage::Stage;
use crate::kit::until;

const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Patroni takes new settings over in its next loop.
const RELOAD_MAX: Duration = Duration::from_secs(40);
const IS_TLS: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// All members get a certificate; clients may then demand TLS and check the name.
pub async fn passes_through(stage: &Stage) {
    let (cert, key) = certificate(stage);
    let parameters = json!({ "ssl": "on", "ssl_cert_file": cert, "ssl_key_file": key });
    let order = json!({ "postgresql": { "parameters": parameters } });
    let leader = stage.calm().await.unwrap();
    let answer = rest::request(&leader.api, Method::PATCH, "/config", Some(order), ANSWER_MAX).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    for member in stage.cluster.members() {
        let has_tls = until(RELOAD_MAX, async || psql(&member.pg, "require", IS_TLS).await.text() == "t");
        assert!(has_tls.await, "{} has no TLS after {RELOAD_MAX:?}{}", member.name, stage.tails());
    }
    let root = cert.display();
    for at in [&stage.router.write, &stage.router.read] {
        for (sslmode, wanted) in [("disable", "f"), ("allow", "f"), ("prefer", "t"), ("require", "t")] {
            let said = psql(at, sslmode, IS_TLS).await;
            assert_eq!((said.well, said.text().as_str()), (true, wanted), "{sslmode} through {at}: {said:?}");
        }
        let said = psql(at, &format!("verify-ca sslrootcert={root}"), IS_TLS).await;
        assert_eq!((said.well, said.text().as_str()), (true, "t"), "verify-ca through {at}: {said:?}");
    }
    // Up to PostgreSQL 16 libpq cancels in plain text even where the session has TLS.
    cancels(stage, &stage.router.write, "require").await;
}

fn certificate(stage: &Stage) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let ground = stage.cluster.ground();
    let cert = ground.write("server.crt", &made.cert.pem()).unwrap();
    let key = ground.write("server.key", &made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    (cert, key)
}
