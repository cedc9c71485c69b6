//! The address, its link and its key.

use std::time::Duration;

use super::stops::{AFTERWARDS, PROMPT_MAX};
use crate::vip_lab::bed::{Bed, CLIENT, LIMIT};
use crate::vip_lab::decode::Frame;
use crate::vip_lab::row::Row;

/// vip-manager looks at its address every ten seconds.
const ITS_TICK: Duration = Duration::from_secs(12);
/// For all announcements of one occasion.
const SCHEDULE: Duration = Duration::from_millis(6500);
/// ARP over Ethernet is 42 bytes, or 60 with the padding of a wire.
const SIZES: [usize; 2] = [42, 60];

pub async fn address_removed(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    let at = bed.step("somebody removes the address on n1");
    bed.network.ip("n1", &format!("addr del {}/32 dev eth0", bed.vip));
    bed.within(ITS_TICK, |bed| bed.gained("n1", at).is_some()).await;
    bed.within(LIMIT, |bed| bed.announced("n1", at).is_some()).await;
    let mut row = Row::default();
    row.soon("back after", at, bed.gained("n1", at), PROMPT_MAX);
    row.soon("announced after", at, bed.announced("n1", at), PROMPT_MAX);
    row.two_holders(bed.two_holders_ms());
    row
}

/// Every frame of a claim, and what a neighbour makes of them.
pub async fn announcements(bed: &mut Bed) -> Row {
    let _holder = bed.start("n1");
    let at = bed.lead("n1").await;
    bed.until_held("n1").await;
    bed.watch_for(SCHEDULE).await;
    let frames: Vec<_> = bed.frames.since(at).into_iter().map(|it| it.frame).collect();
    let from_n1 = |frame: &&Frame| frame.from == bed.mac("n1");
    let told: Vec<&Frame> = frames.iter().filter(from_n1).filter(|it| it.announces(bed.vip)).collect();
    let good = told.iter().filter(|it| it.convinces(bed.vip) && SIZES.contains(&it.bytes)).count();
    let requests = told.iter().filter(|it| it.is_request_for_nobody()).count();
    let probes = frames.iter().filter(from_n1).filter(|it| it.probes(bed.vip)).count();
    let mut row = Row::default();
    row.fact("probes before", probes, probes >= 3);
    row.fact("requests with target MAC 0", requests, requests >= 3);
    row.fact("replies with target MAC own", told.len() - requests, told.len() >= requests + 3);
    row.fact("of all, right to the byte", format!("{good} of {}", told.len()), good == told.len());
    row.yes("in the client's neighbour table", bed.neighbour(CLIENT) == Some(bed.mac("n1")));
    row
}

pub async fn link_down(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    bed.step("n1's link goes down");
    bed.network.unplug("n1");
    bed.watch_for(Duration::from_secs(if bed.is_long { 12 } else { 5 })).await;
    let up = bed.step("n1's link comes up");
    bed.network.plug("n1");
    bed.within(ITS_TICK, |bed| bed.announced("n1", up).is_some() && bed.reached("n1", up).is_some()).await;
    let mut row = Row::default();
    row.soon("announced after up", up, bed.announced("n1", up), LIMIT);
    row.soon("reached after up", up, bed.reached("n1", up), LIMIT);
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn hardware_address_changed(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    bed.watch_for(AFTERWARDS).await;
    let at = bed.step("n1 gets another hardware address");
    bed.change_mac("n1");
    let changed = bed.step("it has it");
    bed.within(ITS_TICK, |bed| bed.announced("n1", at).is_some()).await;
    bed.within(ITS_TICK, |bed| bed.reached("n1", changed).is_some()).await;
    let mut row = Row::default();
    row.soon("announced after", at, bed.announced("n1", at), PROMPT_MAX);
    row.soon("reached after", changed, bed.reached("n1", changed), PROMPT_MAX);
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn key_deleted(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    let at = bed.delete_leader().await;
    bed.within(LIMIT, |bed| !bed.has("n1")).await;
    let mut row = Row::default();
    row.soon("gone after", at, bed.lost("n1", at), PROMPT_MAX);
    bed.watch_for(AFTERWARDS).await;
    row.yes("nobody else takes it", !["n1", "n2", "n3"].iter().any(|host| bed.has(host)));
    row.two_holders(bed.two_holders_ms());
    row
}

/// As Patroni does after its lease ran out unseen.
pub async fn key_written_again(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    bed.watch_for(AFTERWARDS).await;
    let at = bed.lead("n1").await;
    bed.watch_for(AFTERWARDS).await;
    let mut row = Row::default();
    row.never("gone", at, bed.lost("n1", at));
    row.two_holders(bed.two_holders_ms());
    row
}
