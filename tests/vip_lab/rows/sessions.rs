//! Those who came in by the address when it goes.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::stops::PROMPT_MAX;
use crate::vip_lab::bed::{Bed, CLIENT, HOLDERS, LIMIT};
use crate::vip_lab::patroni::Rest;
use crate::vip_lab::row::Row;
use crate::vip_lab::sessions::{Heard, ROUTER, Servers, connect};

/// Of another program on the address.
const OTHER: u16 = 7010;
/// For a router to find that its leader does not lead, and for a client to be where it is held.
const HELD: Duration = Duration::from_secs(2);

pub async fn told_when_it_moves(bed: &mut Bed) -> Row {
    let _servers = Servers::start(&bed.network, &HOLDERS);
    let _holders = bed.start_led_by_n1().await;
    let client = connect(&bed.network, CLIENT, bed.vip, ROUTER);
    bed.watch_for(HELD).await;
    let moved = bed.lead("n2").await;
    let heard = end_of(client).await;
    bed.within(LIMIT, |bed| bed.reached("n2", moved).is_some()).await;
    let mut row = told(bed, moved, &heard);
    row.yes("it had a session", heard.ready_at.is_some());
    let again = connect(&bed.network, CLIENT, bed.vip, ROUTER);
    bed.step("the client comes again");
    bed.watch_for(HELD).await;
    bed.delete_leader().await;
    let heard = end_of(again).await;
    row.yes("the next session is on the new holder", heard.ready_at.is_some());
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn told_when_held(bed: &mut Bed) -> Row {
    let _servers = Servers::start(&bed.network, &HOLDERS);
    let _holders = bed.start_led_by_n1().await;
    bed.step("n1's Patroni says that it does not lead");
    bed.patronis.set("n1", Rest::Replica);
    bed.watch_for(HELD).await;
    let client = connect(&bed.network, CLIENT, bed.vip, ROUTER);
    bed.watch_for(HELD).await;
    let moved = bed.lead("n2").await;
    let heard = end_of(client).await;
    bed.within(LIMIT, |bed| bed.lost("n1", moved).is_some()).await;
    let mut row = told(bed, moved, &heard);
    row.fact("it was held", heard.ready_at.map_or("yes", |_| "no"), heard.ready_at.is_none());
    row.fact("told that all is well but late", state(&heard), heard.sqlstate.as_deref() == Some("57P03"));
    row
}

/// The address leads to another program, whose connections end by the kernel's hand.
pub async fn closed_for_another_program(bed: &mut Bed) -> Row {
    let _server = Servers::silent(&bed.network, "n1", OTHER);
    bed.lead("n1").await;
    let mut setup = bed.setup("n1");
    setup.vips[0].more = "close_sockets: true";
    setup.flags = vec!["--close-sockets".to_owned()];
    let _holder = bed.start_as(&setup);
    bed.until_held("n1").await;
    let client = connect(&bed.network, CLIENT, bed.vip, OTHER);
    bed.watch_for(HELD).await;
    let moved = bed.delete_leader().await;
    let heard = end_of(client).await;
    bed.within(LIMIT, |bed| bed.lost("n1", moved).is_some()).await;
    let mut row = told(bed, moved, &heard);
    row.yes("by a reset", heard.was_reset);
    row
}

async fn end_of(client: JoinHandle<Heard>) -> Heard {
    match timeout(LIMIT, client).await {
        Ok(heard) => heard.expect("a client that only listens"),
        Err(_late) => Heard::default(),
    }
}

fn state(heard: &Heard) -> String {
    heard.sqlstate.clone().unwrap_or_else(|| "nothing".to_owned())
}

fn told(bed: &Bed, moved: Instant, heard: &Heard) -> Row {
    let mut row = Row::default();
    row.soon("the client hears of it after", moved, heard.ended_at, PROMPT_MAX);
    row.fact("words", state(heard), bed.kind.is_ours());
    row.soon("the address goes after", moved, bed.lost("n1", moved), PROMPT_MAX);
    row
}
