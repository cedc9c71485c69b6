//! Others who have the address, too.

use std::time::Duration;

use pgvane::runtime::clock;

use super::stops::PROMPT_MAX;
use crate::vip_lab::bed::{Bed, HOLDERS, LIMIT, STRANGER};
use crate::vip_lab::frames::speak_from;
use crate::vip_lab::row::Row;

/// Beyond the time for which an old holder's lease is waited for.
const WATCHED: Duration = Duration::from_secs(10);
/// So long after its last word etcd counts as silent.
const SILENT: Duration = Duration::from_secs(4);

pub async fn same_value(bed: &mut Bed) -> Row {
    bed.lead("n1").await;
    let _first = bed.start("n1");
    bed.until_held("n1").await;
    let mut setup = bed.setup("n2");
    setup.member = "n1".to_owned();
    let second = bed.start_as(&setup);
    bed.watch_for(WATCHED).await;
    let mut row = Row::default();
    row.two_holders(bed.two_holders_ms());
    row.yes("said by which hardware address", second.log().contains(&bed.mac("n1").to_string()));
    row.yes("the first one keeps it", bed.has("n1"));
    row
}

pub async fn occupied(bed: &mut Bed) -> Row {
    bed.network.ip(STRANGER, &format!("addr add {}/32 dev eth0", bed.vip));
    let at = bed.lead("n1").await;
    let holders: Vec<_> = HOLDERS.iter().map(|host| bed.start(host)).collect();
    bed.within(LIMIT, |bed| bed.gained("n1", at).is_some()).await;
    bed.within(PROMPT_MAX, |bed| bed.reached("n1", at).is_some()).await;
    let mut row = Row::default();
    let taken = bed.gained("n1", at);
    row.fact("looked before it took", looked(bed, at), bed.frames.since(at).iter().any(|it| it.frame.probes(bed.vip)));
    row.yes("said by which hardware address", holders[0].log().contains(&bed.mac(STRANGER).to_string()));
    row.soon("taken after", at, taken, LIMIT);
    row.soon("client reaches it after", at, bed.reached("n1", at), LIMIT);
    row.two_holders(bed.two_holders_ms());
    row
}

fn looked(bed: &Bed, since: std::time::Instant) -> String {
    let probes = bed.frames.since(since).iter().filter(|it| it.frame.probes(bed.vip)).count();
    format!("{probes} probes")
}

pub async fn conflict(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    bed.watch_for(WATCHED).await; // the announcements of the claim are over
    bed.network.ip(STRANGER, &format!("addr add {}/32 dev eth0", bed.vip));
    let at = bed.step("a stranger takes the address and speaks from it");
    speak_from(&bed.network, STRANGER, bed.vip);
    bed.within(LIMIT, |bed| bed.announced("n1", at).is_some()).await;
    let again = bed.announced("n1", at).unwrap_or_else(clock::now);
    bed.within(PROMPT_MAX, |bed| bed.reached("n1", again).is_some()).await;
    let mut row = Row::default();
    row.soon("announced again after", at, bed.announced("n1", at), PROMPT_MAX);
    row.soon("client reaches it then after", again, bed.reached("n1", again), PROMPT_MAX);
    row.yes("still there", bed.has("n1"));
    row
}

pub async fn conflict_unconfirmed(bed: &mut Bed) -> Row {
    bed.lead("n1").await;
    let mut setup = bed.setup("n1");
    setup.vips[0].on_dcs_loss = Some("hold");
    let _holder = bed.start_as(&setup);
    bed.until_held("n1").await;
    bed.step("etcd hangs");
    bed.dcs.freeze();
    bed.watch_for(SILENT).await;
    let held = bed.has("n1");
    bed.network.ip(STRANGER, &format!("addr add {}/32 dev eth0", bed.vip));
    let at = bed.step("a stranger takes the address and speaks from it");
    speak_from(&bed.network, STRANGER, bed.vip);
    bed.within(LIMIT, |bed| !bed.has("n1")).await;
    bed.dcs.thaw();
    let mut row = Row::default();
    row.yes("held without etcd", held);
    row.soon("gone after", at, bed.lost("n1", at), PROMPT_MAX);
    row
}
