//! No etcd, or no Patroni.

use std::time::{Duration, Instant};

use super::stops::{AFTERWARDS, PROMPT_MAX};
use crate::vip_lab::bed::{Bed, HOLDERS, LEASE, LIMIT};
use crate::vip_lab::patroni::Rest;
use crate::vip_lab::row::Row;

/// Two seconds until a view is stale, one of grace, and the kernel's lease and second: three times.
const RELEASED_MAX: Duration = Duration::from_secs(20);
/// Longer than a lease and all that is waited for before.
const WATCHED: Duration = Duration::from_secs(9);
/// Of the leader, where a situation waits for its end.
const SHORT_TTL: Duration = Duration::from_secs(10);
/// Patroni gives up so long before its lease ends, after `retry_timeout`.
const DEMOTED_BEFORE: Duration = Duration::from_secs(5);

pub async fn etcd_killed(bed: &mut Bed) -> Row {
    outage(bed, true).await
}

pub async fn etcd_hung(bed: &mut Bed) -> Row {
    outage(bed, false).await
}

/// Nobody says that n1 leads, and then etcd says it again.
async fn outage(bed: &mut Bed, is_killed: bool) -> Row {
    let _holders = bed.start_led_by_n1().await;
    HOLDERS.iter().for_each(|host| bed.patronis.set(host, Rest::Refused));
    let at = lose_etcd(bed, is_killed);
    bed.within(RELEASED_MAX, |bed| !bed.has("n1")).await;
    let back = regain_etcd(bed, is_killed).await;
    bed.patronis.set("n1", Rest::Primary);
    bed.within(LIMIT, |bed| bed.reached("n1", back).is_some()).await;
    let mut row = Row::default();
    row.soon("gone after", at, bed.lost("n1", at), RELEASED_MAX);
    row.soon("reached again after", back, bed.reached("n1", back), LIMIT);
    row.two_holders(bed.two_holders_ms());
    row
}

fn lose_etcd(bed: &mut Bed, is_killed: bool) -> Instant {
    let at = bed.step(if is_killed { "etcd is killed" } else { "etcd hangs" });
    if is_killed {
        bed.dcs.kill();
    } else {
        bed.dcs.freeze();
    }
    at
}

async fn regain_etcd(bed: &mut Bed, is_killed: bool) -> Instant {
    if is_killed {
        bed.dcs.restart().await;
    } else {
        bed.dcs.thaw();
    }
    bed.step("etcd is back")
}

pub async fn started_while_down(bed: &mut Bed) -> Row {
    started_without_etcd(bed, true).await
}

pub async fn started_while_hung(bed: &mut Bed) -> Row {
    started_without_etcd(bed, false).await
}

async fn started_without_etcd(bed: &mut Bed, is_killed: bool) -> Row {
    bed.lead("n1").await;
    let at = lose_etcd(bed, is_killed);
    let mut holder = bed.start("n1");
    bed.watch_for(WATCHED).await;
    let early = bed.gained("n1", at);
    let back = regain_etcd(bed, is_killed).await;
    bed.within(LIMIT, |bed| bed.reached("n1", back).is_some()).await;
    let mut row = Row::default();
    row.never("taken without etcd", at, early);
    row.soon("reached after etcd is back", back, bed.reached("n1", back), LIMIT);
    row.yes("still runs", holder.exited().is_none());
    row
}

pub async fn cut_while_the_key_moves(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    let at = bed.step("n1 is cut from etcd");
    bed.network.cut("n1", "etcd");
    let moved = bed.lead("n2").await;
    bed.within(RELEASED_MAX, |bed| bed.reached("n2", moved).is_some() && !bed.has("n1")).await;
    let healed = bed.step("n1 is heard again");
    bed.network.heal("n1", "etcd");
    bed.watch_for(AFTERWARDS).await;
    let mut row = Row::default();
    row.soon("old one gone after", at, bed.lost("n1", at), RELEASED_MAX);
    row.soon("new one reached after", moved, bed.reached("n2", moved), RELEASED_MAX);
    row.never("old one takes it again", healed, bed.gained("n1", healed));
    row.two_holders(bed.two_holders_ms());
    row
}

/// The old leader's Patroni says that it leads although the key has moved, which no Patroni does.
pub async fn cut_and_patroni_is_wrong(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    let at = bed.step("n1 is cut from etcd, and its Patroni believes to lead for ever");
    bed.network.cut("n1", "etcd");
    let moved = bed.lead("n2").await;
    bed.patronis.set("n1", Rest::Primary);
    bed.within(RELEASED_MAX, |bed| bed.reached("n2", moved).is_some() && !bed.has("n1")).await;
    bed.network.heal("n1", "etcd");
    bed.patronis.set("n1", Rest::Replica);
    let mut row = Row::default();
    row.soon("old one gone after", at, bed.lost("n1", at), RELEASED_MAX);
    row.soon("new one reached after", moved, bed.reached("n2", moved), RELEASED_MAX);
    // Until the old one has heard the new one.
    let both = bed.two_holders_ms();
    row.fact("two holders, of which one hears", format!("{both:.0} ms"), both <= 1000.0);
    row
}

/// Neither etcd nor the other holders nor the client hear it, and it hears nobody: only the leases count.
pub async fn island(bed: &mut Bed) -> Row {
    bed.dcs.ttl = SHORT_TTL;
    let _holders = bed.start_led_by_n1().await;
    bed.watch_for(AFTERWARDS).await;
    let at = bed.step("n1 and its Patroni are cut from everybody");
    bed.network.set_aside(&["n1"]);
    bed.dcs.stop_renewing();
    bed.watch_for(SHORT_TTL - DEMOTED_BEFORE).await;
    bed.step("n1's Patroni demotes itself");
    bed.patronis.set("n1", Rest::Replica);
    bed.until_no_leader().await;
    let moved = bed.lead("n2").await;
    bed.within(RELEASED_MAX, |bed| bed.reached("n2", moved).is_some()).await;
    bed.step("n1 is back");
    bed.network.rejoin(&["n1"]);
    bed.watch_for(AFTERWARDS).await;
    let mut row = Row::default();
    row.soon("old one gone after", at, bed.lost("n1", at), RELEASED_MAX);
    row.soon("new one reached after", moved, bed.reached("n2", moved), LIMIT);
    row.two_holders(bed.two_holders_ms());
    row
}

/// Its PostgreSQL lives on, but the address must be gone before anybody else may lead.
pub async fn key_runs_out(bed: &mut Bed) -> Row {
    bed.dcs.ttl = SHORT_TTL;
    let _holders = bed.start_led_by_n1().await;
    bed.watch_for(AFTERWARDS).await;
    let at = bed.step("n1's Patroni is killed");
    bed.patronis.set("n1", Rest::Refused);
    bed.dcs.stop_renewing();
    let ended = bed.until_no_leader().await;
    bed.within(LIMIT, |bed| !bed.has("n1")).await;
    let mut row = Row::default();
    let lost = bed.lost("n1", at);
    row.soon("gone after", at, lost, RELEASED_MAX);
    row.yes("before the key was", lost.is_some_and(|lost| lost < ended));
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn kept_on_patronis_word(bed: &mut Bed) -> Row {
    let _holders = bed.start_led_by_n1().await;
    let at = lose_etcd(bed, true);
    bed.watch_for(LEASE * 3).await;
    let mut row = Row::default();
    row.never("gone while Patroni says 200", at, bed.lost("n1", at));
    let refused = bed.step("n1's Patroni is killed");
    bed.patronis.set("n1", Rest::Refused);
    bed.within(RELEASED_MAX, |bed| !bed.has("n1")).await;
    row.soon("gone after Patroni", refused, bed.lost("n1", refused), RELEASED_MAX);
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn released(bed: &mut Bed) -> Row {
    bed.lead("n1").await;
    let mut setup = bed.setup("n1");
    setup.vips[0].on_dcs_loss = Some("release");
    let _holder = bed.start_as(&setup);
    bed.until_held("n1").await;
    bed.step("etcd is silent for half a second");
    bed.dcs.freeze();
    bed.watch_for(Duration::from_millis(500)).await;
    bed.dcs.thaw();
    bed.watch_for(LEASE).await;
    let mut row = Row::default();
    row.never("gone for one slow answer", bed.began(), bed.lost("n1", bed.began()));
    let at = lose_etcd(bed, false);
    bed.within(RELEASED_MAX, |bed| !bed.has("n1")).await;
    bed.dcs.thaw();
    row.soon("gone after", at, bed.lost("n1", at), RELEASED_MAX);
    row
}

pub async fn held(bed: &mut Bed) -> Row {
    bed.lead("n1").await;
    let mut setup = bed.setup("n1");
    setup.vips[0].on_dcs_loss = Some("hold");
    let mut holder = bed.start_as(&setup);
    bed.until_held("n1").await;
    bed.patronis.set("n1", Rest::Refused);
    let at = lose_etcd(bed, true);
    bed.watch_for(LEASE * 3).await;
    let mut row = Row::default();
    row.never("gone", at, bed.lost("n1", at));
    let log = holder.log().to_lowercase();
    row.yes("said that nothing fences it", log.contains("unfenced") || log.contains("not fenced"));
    let killed = bed.step("SIGKILL on n1");
    holder.kill();
    bed.within(RELEASED_MAX, |bed| !bed.has("n1")).await;
    row.soon("gone after SIGKILL", killed, bed.lost("n1", killed), RELEASED_MAX);
    row
}

pub async fn followed_by_rest(bed: &mut Bed) -> Row {
    bed.patronis.set("n1", Rest::Primary);
    let mut setup = bed.setup("n1");
    setup.by_rest = true;
    let _holder = bed.start_as(&setup);
    bed.until_held("n1").await;
    let mut row = Row::default();
    for (what, again, manner) in [
        ("gone after 503", "back after 503", Rest::Replica),
        ("gone after refusal", "back after refusal", Rest::Refused),
        ("gone after silence", "back after silence", Rest::Hung),
    ] {
        let at = bed.step(&format!("n1's Patroni: {manner:?}"));
        bed.patronis.set("n1", manner);
        bed.within(RELEASED_MAX, |bed| !bed.has("n1")).await;
        let limit = if manner == Rest::Replica { PROMPT_MAX * 2 } else { RELEASED_MAX };
        row.soon(what, at, bed.lost("n1", at), limit);
        let back = bed.step("n1's Patroni: 200");
        bed.patronis.set("n1", Rest::Primary);
        bed.within(LIMIT, |bed| bed.reached("n1", back).is_some()).await;
        row.soon(again, back, bed.reached("n1", back), LIMIT);
    }
    row
}
