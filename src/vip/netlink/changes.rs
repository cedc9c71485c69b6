//! What the kernel tells unasked: a socket of its own, so that a burst of events costs no answer.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkEvent, LinkMessage};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::requests::REOPEN_PAUSE;
use super::{Change, reading};

/// Changes that wait for their reader. What does not fit there becomes one [`Change::Overrun`].
pub(super) const CHANGES_MAX: usize = 256;

type Payload = NetlinkPayload<RouteNetlinkMessage>;

pub(super) struct Listening {
    /// Moves what comes to `messages`, and ends when the socket fails.
    serving: BoxFuture<'static, ()>,
    messages: BoxStream<'static, Payload>,
}

impl Listening {
    pub(super) fn open() -> std::io::Result<Listening> {
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Link];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let messages = messages.map(|(message, _)| message.payload);
        Ok(Listening { serving: Box::pin(connection), messages: Box::pin(messages) })
    }
}

/// Until nobody reads `changes`.
pub(super) async fn tell(mut listening: Listening, changes: mpsc::Sender<Change>) {
    let mut is_lost = false;
    while !changes.is_closed() {
        tokio::select! {
            // What comes after an overrun is known to whoever lists everything behind it.
            place = changes.reserve(), if is_lost => {
                let Ok(place) = place else { return };
                place.send(Change::Overrun);
                is_lost = false;
            }
            () = changes.closed() => return,
            () = &mut listening.serving => {
                listening = reopened().await;
                is_lost = true;
            }
            Some(payload) = listening.messages.next() => match change(payload) {
                Some(Change::Overrun) => is_lost = true,
                Some(change) if !is_lost => is_lost = changes.try_send(change).is_err(),
                _ => {}
            }
        }
    }
}

async fn reopened() -> Listening {
    loop {
        sleep(REOPEN_PAUSE).await;
        if let Ok(listening) = Listening::open() {
            return listening;
        }
    }
}

fn change(payload: Payload) -> Option<Change> {
    use RouteNetlinkMessage::{DelAddress, DelLink, NewAddress, NewLink};
    match payload {
        NetlinkPayload::Overrun(_) => Some(Change::Overrun),
        NetlinkPayload::InnerMessage(NewAddress(message) | DelAddress(message)) => {
            reading::ip(&message).map(|ip| Change::Address { ip })
        }
        NetlinkPayload::InnerMessage(NewLink(message) | DelLink(message)) => link_change(&message),
        _ => None,
    }
}

/// Bridges tell of their ports with messages of the same kind, and of another family.
fn link_change(message: &LinkMessage) -> Option<Change> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let notify = message.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::Event(LinkEvent::NotifyPeers | LinkEvent::BondingFailover))
    });
    Some(Change::Link { index: message.header.index, name: reading::link_name(message)?, notify })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = attributes;
        message
    }

    /// Not every kernel has bonds to try it with.
    #[test]
    fn a_bond_that_fails_over_and_a_machine_that_moved_wish_that_neighbours_be_told() {
        let name = || LinkAttribute::IfName("bond0".into());
        for (event, notify) in
            [(LinkEvent::NotifyPeers, true), (LinkEvent::BondingFailover, true), (LinkEvent::Features, false)]
        {
            let change = link_change(&link(vec![name(), LinkAttribute::Event(event)]));
            assert_eq!(change, Some(Change::Link { index: 7, name: "bond0".into(), notify }));
        }
        assert_eq!(
            link_change(&link(vec![name()])),
            Some(Change::Link { index: 7, name: "bond0".into(), notify: false })
        );
        let mut of_a_bridge = link(vec![name()]);
        of_a_bridge.header.interface_family = AddressFamily::Bridge;
        assert_eq!(link_change(&of_a_bridge), None, "a port that leaves its bridge is still there");
    }
}
