//! Orders: what is taken, and from whom.

use pgvane::admin::{OrderError, OrdersFrom};
use pgvane::model::{AdminState, Order};
use serde_json::{Value, json};

use super::bed::{Bed, report};

const HOST: &str = "Host: 127.0.0.1:7000";
const OPEN: &str = "/api/v1/clusters/pg-test/members/open";

async fn bed(orders: OrdersFrom, answer: Result<(), OrderError>) -> Bed {
    Bed::new(vec![report("pg-test", &["replica"]), report("other", &["replica"])], orders, answer).await
}

fn body(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn orders_are_passed_on_as_written() {
    let bed = bed(OrdersFrom::Loopback, Ok(())).await;
    let orders = [
        ("drain", Order::State(AdminState::Drain), "drain"),
        ("maint", Order::State(AdminState::Maint), "maint"),
        ("ready", Order::State(AdminState::Ready), "ready"),
        ("weight?value=0", Order::Weight(Some(0)), "weight 0"),
        ("weight?value=256", Order::Weight(Some(256)), "weight 256"),
        ("weight", Order::Weight(None), "weight as configured"),
    ];
    for (verb, order, words) in orders {
        let (status, _, text) = bed.ask("POST", &format!("{OPEN}/{verb}"), &[HOST, "Content-Length: 0"]).await;
        assert_eq!(status, 202, "{verb}: {text}");
        assert_eq!(body(&text), json!({ "cluster": "pg-test", "member": "open", "ordered": words }));
        assert_eq!(bed.source.ordered.lock().pop(), Some(("pg-test".to_owned(), "open".into(), order)));
    }
    let (status, _, _) = bed.ask("POST", "/api/v1/clusters/other/members/kept%20out/drain", &["Host: localhost"]).await;
    assert_eq!((status, bed.source.ordered.lock()[0].1.as_str()), (202, "kept out"));
}

#[tokio::test]
async fn what_a_web_page_could_send_is_refused() {
    let bed = bed(OrdersFrom::Loopback, Ok(())).await;
    let cases: [&[&str]; 8] = [
        &[HOST, "Sec-Fetch-Site: cross-site"],
        &[HOST, "Origin: http://127.0.0.1:7000"],
        &[HOST, "Origin: https://evil.example"],
        &[HOST, "Origin: null"],
        &["Host: evil.example:7000"],
        &["Host: localhost.evil.example"],
        &[HOST, "Host: evil.example"],
        &["Host: "],
    ];
    for headers in cases {
        let (status, _, text) = bed.ask("POST", &format!("{OPEN}/drain"), headers).await;
        assert_eq!(status, 403, "{headers:?}: {text}");
        assert!(body(&text)["error"].as_str().is_some_and(|why| !why.is_empty()));
        assert!(bed.source.ordered.lock().is_empty(), "{headers:?}");
    }
    // Who may not order may still look.
    assert_eq!(bed.ask("GET", OPEN, &["Host: evil.example"]).await.0, 200);
}

#[tokio::test]
async fn orders_may_be_switched_off() {
    let bed = bed(OrdersFrom::Nobody, Ok(())).await;
    let (status, _, text) = bed.ask("POST", &format!("{OPEN}/drain"), &[HOST]).await;
    assert_eq!(status, 403);
    assert!(text.contains("admin.orders"), "{text}");
}

#[tokio::test]
async fn what_does_not_exist_is_told_with_what_does() {
    let bed = bed(OrdersFrom::Loopback, Ok(())).await;
    let (status, _, text) = bed.ask("POST", "/api/v1/clusters/pg/members/open/drain", &[HOST]).await;
    assert_eq!((status, &body(&text)["known"]), (404, &json!(["pg-test", "other"])));
    let (status, _, text) = bed.ask("POST", "/api/v1/clusters/pg-test/members/opne/drain", &[HOST]).await;
    assert_eq!((status, &body(&text)["known"][0]), (404, &json!("open")));
    let (status, _, text) = bed.ask("GET", "/api/v1/clusters/pg-test/members/opne", &[HOST]).await;
    assert_eq!((status, &body(&text)["known"][0]), (404, &json!("open")));
    let (status, _, text) = bed.ask("POST", &format!("{OPEN}/kill"), &[HOST]).await;
    assert_eq!(status, 404);
    assert!(text.contains("drain, maint, ready, weight"), "{text}");
    for bad in ["weight?value=257", "weight?value=x", "drain?value=1"] {
        assert_eq!(bed.ask("POST", &format!("{OPEN}/{bad}"), &[HOST]).await.0, 400, "{bad}");
    }
    assert!(bed.source.ordered.lock().is_empty());
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let bed = bed(OrdersFrom::Loopback, Ok(())).await;
    let order = format!("{OPEN}/drain");
    for (method, target, allow) in [
        ("GET", order.as_str(), "allow: post"),
        ("OPTIONS", &order, "allow: post"),
        ("POST", OPEN, "allow: get, head"),
        ("DELETE", "/api/v1/status", "allow: get, head, options"),
    ] {
        let (status, head, _) = bed.ask(method, target, &[HOST]).await;
        assert!(status == 405 && head.contains(allow), "{method} {target}: {head}");
    }
    assert!(bed.source.ordered.lock().is_empty());
}

#[tokio::test]
async fn a_busy_machine_is_503_and_a_member_that_just_went_404() {
    for (error, status) in [(OrderError::Busy, 503), (OrderError::NoSuchMember, 404), (OrderError::NoSuchCluster, 404)]
    {
        let bed = bed(OrdersFrom::Loopback, Err(error)).await;
        assert_eq!(bed.ask("POST", &format!("{OPEN}/drain"), &[HOST]).await.0, status, "{error:?}");
    }
}

#[tokio::test]
async fn one_member_tells_its_checks_its_orders_and_its_sessions() {
    let bed = bed(OrdersFrom::Nobody, Ok(())).await;
    let (status, _, text) = bed.ask("GET", OPEN, &[HOST]).await;
    let told = body(&text);
    assert_eq!(
        (status, &told["cluster"], &told["admin"], &told["weight"]),
        (200, &json!("pg-test"), &json!("ready"), &json!(100))
    );
    let check = &told["checks"][0];
    assert_eq!((&check["path"], &check["status"], &check["code"]), (&json!("/replica"), &json!("L7STS"), &json!(503)));
    // Points 3 of 0 to 5 with rise 3: up, and one failure away from down.
    assert_eq!((&check["health"], &check["failures"], &check["downs"]), (&json!("1/3"), &json!(5), &json!(2)));
    let service = &told["services"][0];
    assert_eq!(
        (&service["service"], &service["state"], &service["sessions"]),
        (&json!("replica"), &json!("open"), &json!(3))
    );
    assert_eq!((&service["bytes_to_client"], &service["connects_failed"]), (&json!(9_000_000_000_u64), &json!(2)));
    let status = body(&bed.ask("GET", "/api/v1/status", &[HOST]).await.2);
    let cluster = &status["clusters"][0];
    let replica = &cluster["services"][0];
    assert_eq!((&cluster["trust"], &replica["clients"], &replica["queued"]), (&json!("rest"), &json!(5), &json!(2)));
    let states: Vec<&str> =
        replica["targets"].as_array().unwrap().iter().map(|t| t["state"].as_str().unwrap()).collect();
    assert!(states.contains(&"drain") && states.contains(&"maint"), "{states:?}");
}
