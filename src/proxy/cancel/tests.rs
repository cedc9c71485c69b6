//! What needs limits shorter than those of the program.

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::model::{Role, ServiceSpec};
use crate::proxy::connect::Connector;
use crate::proxy::sessions::Registry;
use crate::proxy::suspects::Suspects;

fn plumbing(change: impl FnOnce(&mut ServiceSpec)) -> (Plumbing, Arc<Service>) {
    let mut spec = ServiceSpec::new("primary", Role::Primary);
    change(&mut spec);
    let registry = Registry::new("test".into(), &[Arc::new(spec)], 100);
    let service = registry.service("primary").unwrap();
    let (reports, _) = mpsc::channel(1);
    let plumbing = Plumbing {
        registry,
        connector: Connector::default(),
        suspects: Suspects::new(reports),
        stopping: CancellationToken::new(),
    };
    (plumbing, service)
}

fn of(address: &str) -> Peer {
    Peer::from(address.parse::<std::net::SocketAddr>().unwrap())
}

/// Header and key.
const PACKET: [u8; 16] = [0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 42, 1, 2, 3, 4];

#[tokio::test]
async fn a_server_that_never_closes_is_given_up_and_let_go() {
    let (plumbing, service) = plumbing(|_| {});
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = HostPort::new("127.0.0.1", listener.local_addr().unwrap().port());
    let _key = plumbing.registry.cancel_keys.issuer(&address).register(&PACKET[HEADER_BYTES..]);
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all
    };
    let (all, ()) = tokio::join!(server, deliver_all(&plumbing, &service, &PACKET, Duration::from_millis(300)));
    assert_eq!(all, PACKET);
}

#[tokio::test]
async fn a_server_that_is_gone_costs_nothing() {
    let (plumbing, service) = plumbing(|_| {});
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = HostPort::new("127.0.0.1", listener.local_addr().unwrap().port());
    drop(listener);
    let _key = plumbing.registry.cancel_keys.issuer(&address).register(&PACKET[HEADER_BYTES..]);
    assert_eq!(forward(&plumbing, &service, of("10.0.0.1:1"), &PACKET).await, Reason::CancelForwarded);
}

#[tokio::test]
async fn the_cancels_under_way_are_bounded() {
    let (plumbing, service) = plumbing(|spec| spec.rate.cancels_max = 0);
    let peer = of("10.0.0.1:1");
    let mut places: Vec<_> = (0..CANCELS_AT_A_TIME_MAX).map(|_| place(&service, peer).unwrap()).collect();
    assert_eq!(forward(&plumbing, &service, peer, &PACKET).await, Reason::CancelLimited);
    assert_eq!(service.counters.cancels_total.load(Relaxed), 0);
    drop(places.pop());
    assert_eq!(forward(&plumbing, &service, peer, &PACKET).await, Reason::CancelForwarded);
    assert!(place(&service, peer).is_ok(), "its place is free again");
}

#[tokio::test]
async fn an_address_has_its_share_and_unix_sockets_have_none() {
    let (plumbing, service) = plumbing(|spec| spec.rate.cancels_max = 2);
    let mut ends = Vec::new();
    // More than the share of a minute, should this machine take that long.
    for _ in 0..100 {
        ends.push(forward(&plumbing, &service, of("10.0.0.1:1"), &PACKET).await);
    }
    assert_eq!(ends[..2], [Reason::CancelForwarded; 2]);
    assert!(ends.contains(&Reason::CancelLimited), "{ends:?}");
    assert_eq!(forward(&plumbing, &service, of("10.0.0.2:1"), &PACKET).await, Reason::CancelForwarded);
    let local = Peer::Unix { pid: Some(1), uid: Some(0) };
    for _ in 0..10 {
        assert_eq!(forward(&plumbing, &service, local, &PACKET).await, Reason::CancelForwarded);
    }
}
