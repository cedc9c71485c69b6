//! `/api/v1/clusters/<cluster>/members/<member>`: what is known of one member, and orders about it.
//!
//! There is no password, so orders come from this host only unless the configuration says otherwise,
//! and nothing is taken that a browser could have been made to send by somebody else's page.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::{Method, StatusCode, Uri};
use serde_json::{Value, json};

use crate::model::service::WEIGHT_MAX;
use crate::model::{AdminState, MemberName, Order};

use super::{ClusterReport, OrderError, OrdersFrom, Source};

/// Browsers send it with everything, also where they leave `Origin` out (W3C, Fetch Metadata).
const SEC_FETCH_SITE: &str = "sec-fetch-site";
pub const PREFIX: &str = "/api/v1/clusters/";
/// Longest path with its query, and longest name in it.
const TARGET_BYTES_MAX: usize = 2048;
const NAME_BYTES_MAX: usize = 255;
/// Names listed for somebody who used a wrong one.
const KNOWN_NAMES_MAX: usize = 100;
const VERBS: &str = "drain, maint, ready, weight";

/// What an address below [`PREFIX`] names.
#[derive(Debug, PartialEq, Eq)]
pub struct Address {
    pub cluster: String,
    pub member: MemberName,
    /// The last part of an order's address, such as `drain`.
    pub verb: Option<String>,
}

/// An answer with other than 200 or 202.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub status: StatusCode,
    /// `Allow`, with 405.
    pub allow: Option<&'static str>,
    pub body: Value,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>) -> Refusal {
        Refusal { status, allow: None, body: json!({ "error": error.into() }) }
    }

    fn unknown(what: &str, known: Vec<String>) -> Refusal {
        let body = json!({ "error": format!("there is no such {what}"), "known": known });
        Refusal { status: StatusCode::NOT_FOUND, allow: None, body }
    }
}

/// Takes an address apart: percent-encoded names between slashes.
pub fn address(uri: &Uri) -> Result<Address, Refusal> {
    if uri.path_and_query().is_some_and(|target| target.as_str().len() > TARGET_BYTES_MAX) {
        let error = format!("an address here has at most {TARGET_BYTES_MAX} bytes");
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, error));
    }
    let shape = || {
        let error = format!("write {PREFIX}<cluster>/members/<member>, for an order with one of {VERBS} behind it");
        Refusal::new(StatusCode::NOT_FOUND, error)
    };
    let parts: Vec<&str> = uri.path().strip_prefix(PREFIX).ok_or_else(shape)?.split('/').collect();
    let (cluster, member, verb) = match parts[..] {
        [cluster, "members", member] => (cluster, member, None),
        [cluster, "members", member, verb] => (cluster, member, Some(verb.to_owned())),
        _ => return Err(shape()),
    };
    Ok(Address { cluster: name(cluster)?, member: name(member)?.into(), verb })
}

fn name(part: &str) -> Result<String, Refusal> {
    let bad = |why: &str| Refusal::new(StatusCode::BAD_REQUEST, format!("a name in this address {why}"));
    let decoded = decoded(part).ok_or_else(|| bad("has a % that is not followed by two hexadecimal digits"))?;
    let text = String::from_utf8(decoded).map_err(|_| bad("is not UTF-8"))?;
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(bad(&format!("must have 1 to {NAME_BYTES_MAX} bytes and no control characters")));
    }
    Ok(text)
}

/// RFC 3986, section 2.1.
fn decoded(part: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(bytes)
}

/// The order that an address and its query stand for.
pub fn order(verb: &str, query: Option<&str>) -> Result<Order, Refusal> {
    let state = AdminState::ALL.into_iter().find(|state| state.as_str() == verb);
    let bad = |error: String| Refusal::new(StatusCode::BAD_REQUEST, error);
    match (state, verb) {
        (Some(state), _) if query.unwrap_or("").is_empty() => Ok(Order::State(state)),
        (Some(_), _) => Err(bad(format!("{verb} takes no parameters"))),
        (None, "weight") => weight(query.unwrap_or("")).map(Order::Weight).ok_or_else(|| {
            bad(format!("write weight?value=0 to weight?value={WEIGHT_MAX}, or weight alone for the configured one"))
        }),
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no such order; known: {VERBS}"))),
    }
}

/// The inner None is the configured weight, the outer one a mistake.
#[allow(clippy::option_option, reason = "\"as configured\" and \"not a weight\" differ")]
fn weight(query: &str) -> Option<Option<u32>> {
    if query.is_empty() {
        return Some(None);
    }
    let digits = query.strip_prefix("value=")?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value = digits.parse().ok().filter(|value| plain && *value <= WEIGHT_MAX)?;
    Some(Some(value))
}

/// An order as it is shown.
pub fn words(order: Order) -> String {
    match order {
        Order::State(state) => state.as_str().to_owned(),
        Order::Weight(Some(value)) => format!("weight {value}"),
        Order::Weight(None) => "weight as configured".to_owned(),
    }
}

/// Whether this peer may give orders, and gave this one itself.
pub fn permitted(from: OrdersFrom, peer: SocketAddr, headers: &HeaderMap, own_name: &str) -> Result<(), Refusal> {
    let refuse = |error: &str| Err(Refusal::new(StatusCode::FORBIDDEN, error));
    match from {
        OrdersFrom::Nobody => return refuse("orders are switched off here (admin.orders: off)"),
        OrdersFrom::Loopback if !peer.ip().to_canonical().is_loopback() => {
            return refuse("orders are taken from this host's loopback addresses only (admin.orders: loopback)");
        }
        OrdersFrom::Loopback | OrdersFrom::Everybody => {}
    }
    if headers.contains_key(ORIGIN) || headers.contains_key(SEC_FETCH_SITE) {
        return refuse(
            "a request with an Origin or Sec-Fetch-Site header comes from a web page; orders are not taken from those",
        );
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next().map(|host| host.to_str()), hosts.next()) {
        (Some(Ok(host)), None) if is_our_name(host, own_name) => Ok(()),
        _ => refuse(
            "the Host header must be an IP address, localhost or this machine's name, so that no other name was made to lead here",
        ),
    }
}

/// A name that nobody else's DNS can make lead here.
fn is_our_name(authority: &str, own_name: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_address = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.parse::<IpAddr>().is_ok(),
    };
    let short = own_name.split('.').next().unwrap_or("");
    let ours = [own_name, short].into_iter().filter(|name| !name.is_empty());
    is_address || ours.chain(["localhost"]).any(|name| host.eq_ignore_ascii_case(name))
}

/// This machine's name; empty where the kernel does not tell.
pub fn own_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// The cluster that an address names, which has to have the member.
pub fn find<'a>(address: &Address, reports: &'a [ClusterReport]) -> Result<&'a ClusterReport, Refusal> {
    let names = reports.iter().map(|report| report.name.to_string());
    let report = reports
        .iter()
        .find(|report| *report.name == *address.cluster)
        .ok_or_else(|| Refusal::unknown("cluster", names.take(KNOWN_NAMES_MAX).collect()))?;
    let members = &report.snapshot.members;
    if members.iter().any(|member| member.name == address.member) {
        return Ok(report);
    }
    let known = members.iter().map(|member| member.name.to_string()).take(KNOWN_NAMES_MAX).collect();
    Err(Refusal::unknown("member", known))
}

/// Passes a permitted order on.
pub fn pass_on(address: &Address, order: Order, source: &dyn Source) -> Result<Value, Refusal> {
    find(address, &source.reports())?;
    match source.order(&address.cluster, &address.member, order) {
        Ok(()) => Ok(json!({
            "cluster": address.cluster,
            "member": address.member.as_str(),
            "ordered": words(order),
        })),
        // It went away between the two looks.
        Err(OrderError::NoSuchCluster) => Err(Refusal::unknown("cluster", Vec::new())),
        Err(OrderError::NoSuchMember) => Err(Refusal::unknown("member", Vec::new())),
        Err(OrderError::Busy) => {
            let error = "too much is waiting for this cluster's machine; ask again in a moment";
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error))
        }
    }
}

/// Orders are given with POST; a member is read with GET or HEAD.
pub fn allowed(method: &Method, verb: Option<&str>) -> Result<(), Refusal> {
    let (is_right, allow) = match verb {
        Some(_) => (method == Method::POST, "POST"),
        None => (matches!(*method, Method::GET | Method::HEAD), "GET, HEAD"),
    };
    if is_right {
        return Ok(());
    }
    let error = format!("only {allow} is answered here");
    Err(Refusal { allow: Some(allow), ..Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(uri: &str) -> Result<(String, String, Option<String>), StatusCode> {
        let address = address(&uri.parse().unwrap()).map_err(|refusal| refusal.status)?;
        Ok((address.cluster, address.member.to_string(), address.verb))
    }

    #[test]
    fn names_in_addresses_are_decoded_and_bounded() {
        let of = |cluster: &str, member: &str, verb: Option<&str>| {
            Ok((cluster.to_owned(), member.to_owned(), verb.map(str::to_owned)))
        };
        assert_eq!(parsed("/api/v1/clusters/pg/members/n1"), of("pg", "n1", None));
        assert_eq!(parsed("/api/v1/clusters/a%2Fb/members/n%201/drain"), of("a/b", "n 1", Some("drain")));
        assert_eq!(parsed("/api/v1/clusters/%C3%A9/members/x%25"), of("é", "x%", None));
        for bad in ["n%", "n%2", "n%zz", "n%+1", "%FF", "%00", "%0a", "", &"x".repeat(256)] {
            let uri = format!("/api/v1/clusters/pg/members/{bad}");
            assert_eq!(parsed(&uri), Err(StatusCode::BAD_REQUEST), "{bad}");
        }
        for strange in ["pg", "pg/members", "pg/nodes/n1", "pg/members/n1/drain/now"] {
            let uri = format!("/api/v1/clusters/{strange}");
            assert_eq!(parsed(&uri), Err(StatusCode::NOT_FOUND), "{strange}");
        }
        let long = format!("/api/v1/clusters/pg/members/{}", "x".repeat(2048));
        assert_eq!(parsed(&long), Err(StatusCode::URI_TOO_LONG));
    }

    #[test]
    fn orders_are_taken_as_written_or_not_at_all() {
        assert_eq!(order("maint", None), Ok(Order::State(AdminState::Maint)));
        assert_eq!(order("ready", Some("")), Ok(Order::State(AdminState::Ready)));
        assert_eq!(order("weight", None), Ok(Order::Weight(None)));
        assert_eq!(order("weight", Some("value=0")), Ok(Order::Weight(Some(0))));
        assert_eq!(order("weight", Some("value=256")), Ok(Order::Weight(Some(256))));
        for bad in ["value=257", "value=", "value=-1", "value=+1", "value=1&value=2", "weight=1", "value=99999999999"] {
            assert_eq!(order("weight", Some(bad)).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
        }
        assert_eq!(order("drain", Some("now")).unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(order("kill", None).unwrap_err().status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn only_names_that_no_stranger_can_point_here_are_ours() {
        let ours = ["127.0.0.1:7000", "10.1.2.3", "[::1]:7000", "localhost", "LOCALHOST:7000", "pg1", "pg1.lan:7000"];
        let others = [
            "evil.example:7000",
            "pg1.evil.example",
            "localhost.evil.example",
            "",
            ":7000",
            "127.0.0.1.evil.example",
            "[pg1]",
            "pg2",
        ];
        ours.iter().for_each(|host| assert!(is_our_name(host, "pg1.lan"), "{host}"));
        others.iter().for_each(|host| assert!(!is_our_name(host, "pg1.lan"), "{host}"));
        assert!(!is_our_name("", "") && !is_our_name(":80", ""));
    }

    #[test]
    fn a_mapped_loopback_peer_is_one() {
        let headers = HeaderMap::from_iter([(HOST, hyper::header::HeaderValue::from_static("localhost"))]);
        let may = |from, peer: &str| permitted(from, peer.parse().unwrap(), &headers, "pg1").is_ok();
        for peer in ["127.0.0.1:9", "127.8.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert!(may(OrdersFrom::Loopback, peer) && !may(OrdersFrom::Nobody, peer), "{peer}");
        }
        for peer in ["10.0.0.1:9", "[fe80::1]:9", "[::ffff:10.0.0.1]:9"] {
            assert!(!may(OrdersFrom::Loopback, peer) && may(OrdersFrom::Everybody, peer), "{peer}");
        }
    }
}
