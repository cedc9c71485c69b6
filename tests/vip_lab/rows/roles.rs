//! Two addresses that follow two roles.

use std::time::{Duration, Instant};

use crate::vip_lab::bed::{Bed, HOLDERS, LIMIT};
use crate::vip_lab::holder::{Follows, Holder};
use crate::vip_lab::row::Row;

/// Two leases and two seconds is what etcd keeps the mark of a dead holder for; then a lease more: three times.
const TAKEN_OVER_MAX: Duration = Duration::from_secs(40);

pub async fn two_addresses(bed: &mut Bed) -> Row {
    let readers = bed.second();
    bed.lead("n1").await;
    let mut holders: Vec<Holder> = HOLDERS.iter().map(|host| start(bed, host)).collect();
    bed.until_held("n1").await;
    bed.within(TAKEN_OVER_MAX, |bed| reader(bed, readers).is_some()).await;
    let mut row = Row::default();
    let first = reader(bed, readers);
    row.fact("readers' address at", first.unwrap_or("nobody"), first.is_some_and(|host| host != "n1"));
    // The leader becomes whoever has the readers' address.
    let leader = first.unwrap_or("n2");
    let moved = bed.lead(leader).await;
    let settled = |bed: &Bed| bed.has(leader) && reader(bed, readers).is_some_and(|host| host != leader);
    bed.within(TAKEN_OVER_MAX, settled).await;
    row.soon("writers reached at the new leader after", moved, bed.reached(leader, moved), LIMIT);
    let next = reader(bed, readers);
    row.fact("readers' address then at", next.unwrap_or("nobody"), next.is_some_and(|host| host != leader));
    let killed = bed.step("SIGKILL of the readers' holder");
    if let Some(index) = HOLDERS.iter().position(|host| Some(*host) == next) {
        holders[index].kill();
    }
    let others = |bed: &Bed| reader(bed, readers).is_some_and(|host| Some(host) != next && host != leader);
    bed.within(TAKEN_OVER_MAX, others).await;
    row.soon("another reader has it after", killed, taken(bed, readers, killed), TAKEN_OVER_MAX);
    row.two_holders(bed.two_holders_ms());
    let both = bed.addresses.two_holders(&HOLDERS, readers, bed.began()).as_secs_f64() * 1000.0;
    row.fact("two holders of the readers' address", format!("{both:.0} ms"), both == 0.0);
    row
}

fn start(bed: &mut Bed, host: &str) -> Holder {
    let readers = bed.second();
    let mut setup = bed.setup(host);
    setup.vips.push(Follows { ip: readers, role: "replica", on_dcs_loss: None, more: "" });
    bed.start_as(&setup)
}

/// Who has the readers' address.
fn reader(bed: &Bed, readers: std::net::IpAddr) -> Option<&'static str> {
    HOLDERS.into_iter().find(|host| bed.addresses.has(host, readers))
}

fn taken(bed: &Bed, readers: std::net::IpAddr, since: Instant) -> Option<Instant> {
    HOLDERS.iter().filter_map(|host| bed.addresses.gained(host, readers, since)).min()
}
