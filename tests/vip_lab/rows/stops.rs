//! How a program ends, sleeps and starts.

use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::vip_lab::bed::{Bed, LEASE, LIMIT};
use crate::vip_lab::holder::Kind;
use crate::vip_lab::row::Row;

/// For the kernel to remove what nobody renews: four seconds, three times.
const FENCED_MAX: Duration = Duration::from_secs(12);
/// For a program that is alive to do what takes some milliseconds.
pub const PROMPT_MAX: Duration = Duration::from_secs(2);
/// A program sleeps for so long: beyond the lease of the kernel and its second.
const ASLEEP: Duration = Duration::from_secs(6);
/// How long things are watched that are not to happen.
pub const AFTERWARDS: Duration = Duration::from_secs(3);

pub async fn sigint(bed: &mut Bed) -> Row {
    stopped_by(bed, Signal::SIGINT).await
}

pub async fn sigterm(bed: &mut Bed) -> Row {
    stopped_by(bed, Signal::SIGTERM).await
}

async fn stopped_by(bed: &mut Bed, signal: Signal) -> Row {
    let mut holders = bed.start_led_by_n1().await;
    let at = bed.step(&format!("{signal} on n1"));
    holders[0].signal(signal);
    bed.within(FENCED_MAX, |bed| !bed.has("n1")).await;
    let mut row = Row::default();
    row.soon("gone after", at, bed.lost("n1", at), PROMPT_MAX);
    let status = holders[0].wait(LIMIT).await;
    row.fact("exit", ending(status), status.is_some_and(|it| it.success()));
    row.two_holders(bed.two_holders_ms());
    row
}

pub fn ending(status: Option<ExitStatus>) -> String {
    status.map_or_else(
        || "still runs".to_owned(),
        |status| status.code().map_or_else(|| "by the signal".to_owned(), |code| code.to_string()),
    )
}

pub async fn sigkill(bed: &mut Bed) -> Row {
    let mut holders = bed.start_led_by_n1().await;
    bed.watch_for(LEASE).await; // some renewals
    let lives: Vec<_> = bed.addresses.changes(bed.vip, bed.began()).iter().map(|it| it.valid_for).collect();
    let at = bed.step("SIGKILL on n1");
    holders[0].kill();
    bed.within(FENCED_MAX, |bed| !bed.has("n1")).await;
    let mut row = Row::default();
    row.soon("gone after", at, bed.lost("n1", at), FENCED_MAX);
    let longest = lives.iter().flatten().max().copied();
    let is_bounded = lives.iter().all(Option::is_some) && longest.is_some_and(|life| life <= LEASE.as_secs());
    row.fact("lifetime in the kernel", longest.map_or("for ever".into(), |life| format!("{life} s")), is_bounded);
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn started_again(bed: &mut Bed) -> Row {
    let mut holders = bed.start_led_by_n1().await;
    let at = bed.step("SIGKILL on n1");
    holders[0].kill();
    holders[0] = bed.start("n1");
    bed.watch_for(LEASE * 2).await;
    adopted(bed, at)
}

pub async fn kept_for_the_next(bed: &mut Bed) -> Row {
    bed.lead("n1").await;
    let mut setup = bed.setup("n1");
    setup.vips[0].more = "on_exit: { keep: 5s }";
    setup.flags = ["--on-exit", "keep"].map(str::to_owned).to_vec();
    let mut old = bed.start_as(&setup);
    bed.until_held("n1").await;
    let at = bed.step("SIGTERM on n1");
    old.signal(Signal::SIGTERM);
    let status = old.wait(LIMIT).await;
    let _new = bed.start_as(&setup);
    bed.watch_for(LEASE * 3).await;
    let mut row = adopted(bed, at);
    row.fact("exit", ending(status), status.is_some_and(|it| it.success()));
    row
}

/// The address stayed from one process to the next.
fn adopted(bed: &Bed, at: std::time::Instant) -> Row {
    let mut row = Row::default();
    row.never("bounced", at, bed.lost("n1", at));
    let gap = bed.longest_gap(at);
    row.fact("longest gap for the client", crate::vip_lab::row::time(gap), gap < PROMPT_MAX);
    row.yes("still there", bed.has("n1"));
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn frozen(bed: &mut Bed) -> Row {
    let holders = bed.start_led_by_n1().await;
    let at = bed.step("SIGSTOP on n1");
    holders[0].signal(Signal::SIGSTOP);
    bed.watch_for(ASLEEP).await;
    let back = bed.step("SIGCONT on n1");
    holders[0].signal(Signal::SIGCONT);
    bed.within(LIMIT, |bed| bed.reached("n1", back).is_some()).await;
    let mut row = Row::default();
    row.soon("gone after", at, bed.lost("n1", at), FENCED_MAX);
    row.soon("reached again after", back, bed.reached("n1", back), LIMIT);
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn frozen_while_the_key_moves(bed: &mut Bed) -> Row {
    let holders = bed.start_led_by_n1().await;
    bed.step("SIGSTOP on n1");
    holders[0].signal(Signal::SIGSTOP);
    let moved = bed.lead("n2").await;
    bed.within(LIMIT, |bed| bed.reached("n2", moved).is_some()).await;
    bed.watch_for(AFTERWARDS).await;
    let back = bed.step("SIGCONT on n1");
    holders[0].signal(Signal::SIGCONT);
    bed.watch_for(AFTERWARDS).await;
    let mut row = Row::default();
    row.soon("new holder reached after", moved, bed.reached("n2", moved), FENCED_MAX);
    row.never("old one takes it again", back, bed.gained("n1", back));
    row.two_holders(bed.two_holders_ms());
    row
}

pub async fn no_such_interface(bed: &mut Bed) -> Row {
    bed.lead("n1").await;
    let mut setup = bed.setup("n1");
    setup.interface = "eth7";
    let mut holder = bed.start_as(&setup);
    // A router routes on without the address.
    let patience = if bed.kind == Kind::Router { AFTERWARDS } else { LIMIT };
    let status = holder.wait(patience).await;
    let mut row = Row::default();
    let is_right = match bed.kind {
        Kind::Router => status.is_none_or(|it| !it.success()),
        _ => status.and_then(|it| it.code()) == Some(1),
    };
    row.fact("exit", ending(status), is_right);
    row.yes("named in the log", holder.log().contains("eth7"));
    row
}

pub async fn unprivileged(bed: &mut Bed) -> Row {
    bed.lead("n1").await;
    let mut setup = bed.setup("n1");
    setup.is_unprivileged = true;
    let holder = bed.start_as(&setup);
    let is_all = |bed: &Bed| {
        let [reached, announced] = [bed.reached("n1", bed.began()), bed.announced("n1", bed.began())];
        bed.has("n1") && reached.is_some() && announced.is_some()
    };
    bed.within(LIMIT, is_all).await;
    let mut row = Row::default();
    row.soon("reached after", bed.began(), bed.reached("n1", bed.began()), LIMIT);
    row.soon("announced after", bed.began(), bed.announced("n1", bed.began()), LIMIT);
    let at = bed.step("SIGTERM on n1");
    holder.signal(Signal::SIGTERM);
    bed.within(FENCED_MAX, |bed| !bed.has("n1")).await;
    row.soon("gone after", at, bed.lost("n1", at), PROMPT_MAX);
    row
}
