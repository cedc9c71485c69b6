//! How bulk data goes, as the endpoint tells.

use pgvane::model::{Splice, SpliceSnapshot};
use serde_json::{Value, json};

use super::bed::{Bed, report};

/// The status's part, and the lines of `pgvane_splice` that are 1, and of its bytes.
async fn told(bed: &Bed) -> (Value, Vec<String>) {
    let (_, _, status) = bed.ask("GET", "/api/v1/status", &[]).await;
    let (_, _, metrics) = bed.ask("GET", "/metrics", &[]).await;
    let is =
        |line: &&str| line.starts_with("pgvane_splice{") && line.ends_with(" 1") || line.starts_with("pgvane_spliced");
    let lines = metrics.lines().filter(is).map(str::to_owned).collect();
    (serde_json::from_str::<Value>(&status).unwrap()["splice"].take(), lines)
}

#[tokio::test]
async fn what_is_configured_is_told_with_what_it_has_done() {
    let (status, lines) =
        told(&Bed::with_splice(SpliceSnapshot { configured: Splice::Always, unusable: None, bytes: 17 }).await).await;
    assert_eq!(status, json!({ "configured": "always", "state": "always", "unusable_because": null, "bytes": 17 }));
    assert_eq!(lines, ["pgvane_splice{state=\"always\"} 1", "pgvane_spliced_bytes_total 17"]);
}

#[tokio::test]
async fn a_machine_where_splice_does_not_work_is_told_from_one_where_it_is_off() {
    let unusable =
        |configured| SpliceSnapshot { configured, unusable: Some("byte 7 came out wrong".to_owned()), bytes: 0 };
    let (status, lines) = told(&Bed::with_splice(unusable(Splice::Auto)).await).await;
    assert_eq!((&status["configured"], &status["state"]), (&json!("auto"), &json!("unusable")));
    assert_eq!(status["unusable_because"], "byte 7 came out wrong");
    assert_eq!(lines[0], "pgvane_splice{state=\"unusable\"} 1");
    let (status, lines) = told(&Bed::with_splice(unusable(Splice::Off)).await).await;
    assert_eq!(status["state"], "off");
    assert_eq!(lines[0], "pgvane_splice{state=\"off\"} 1");
}

#[tokio::test]
async fn a_process_without_clients_says_nothing_of_it() {
    let (status, lines) = told(&Bed::with_vips(vec![report("pg-test", &["primary"])], Vec::new()).await).await;
    assert_eq!((status, lines.len()), (Value::Null, 0));
}
