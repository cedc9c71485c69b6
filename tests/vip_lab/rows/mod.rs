//! The situations. Each is played by any program and gives what was measured.

pub mod links;
pub mod moves;
pub mod outages;
pub mod roles;
pub mod sessions;
pub mod stops;
pub mod strangers;

use std::future::Future;
use std::pin::Pin;

use super::bed::{Bed, Family};
use super::holder::Kind;
use super::row::Row;

pub type Playing<'a> = Pin<Box<dyn Future<Output = Row> + 'a>>;

pub struct Situation {
    pub name: &'static str,
    pub family: Family,
    /// Which programs can be in it.
    pub kinds: &'static [Kind],
    pub play: for<'a> fn(&'a mut Bed) -> Playing<'a>,
}

const ALL: &[Kind] = &[Kind::VipManager, Kind::Alone, Kind::Router];
const OURS: &[Kind] = &[Kind::Alone, Kind::Router];
const ALONE: &[Kind] = &[Kind::Alone];
const ROUTER: &[Kind] = &[Kind::Router];

macro_rules! situations {
    ($($name:literal, $kinds:ident, $family:ident, $play:path;)*) => {
        &[$(Situation {
            name: $name,
            family: Family::$family,
            kinds: $kinds,
            play: |bed| Box::pin($play(bed)),
        }),*]
    };
}

/// How a program ends, sleeps and starts.
pub const STOPS: &[Situation] = situations![
    "SIGINT", ALL, V4, stops::sigint;
    "SIGTERM", ALL, V4, stops::sigterm;
    "SIGTERM, on_exit: keep", OURS, V4, stops::kept_for_the_next;
    "SIGKILL", ALL, V4, stops::sigkill;
    "SIGKILL and started again at once", ALL, V4, stops::started_again;
    "SIGSTOP beyond the lease, then SIGCONT", ALL, V4, stops::frozen;
    "SIGSTOP while the key moves, then SIGCONT", ALL, V4, stops::frozen_while_the_key_moves;
    "interface missing at start", ALL, V4, stops::no_such_interface;
    "without root, with two capabilities", OURS, V4, stops::unprivileged;
];

/// The address, its link, and others who want it.
pub const LINKS: &[Situation] = situations![
    "claimed and announced", ALL, V4, links::announcements;
    "address removed by someone", ALL, V4, links::address_removed;
    "link down and up", ALL, V4, links::link_down;
    "hardware address changed", ALL, V4, links::hardware_address_changed;
    "key deleted", ALL, V4, links::key_deleted;
    "key written again under another lease", ALL, V4, links::key_written_again;
    "two nodes with the same trigger value", ALL, V4, strangers::same_value;
    "another host has the address before", ALL, V4, strangers::occupied;
    "another host takes the address", ALL, V4, strangers::conflict;
    "another host takes it, and etcd is silent", OURS, V4, strangers::conflict_unconfirmed;
    "IPv6: moved, killed, moved", OURS, V6, moves::by_ipv6;
];

/// No etcd, or no Patroni.
pub const OUTAGES: &[Situation] = situations![
    "all etcd killed, then back", ALL, V4, outages::etcd_killed;
    "etcd hung, then back", ALL, V4, outages::etcd_hung;
    "started while etcd is down", ALL, V4, outages::started_while_down;
    "started while etcd hangs", ALL, V4, outages::started_while_hung;
    "cut from etcd while the key moves", ALL, V4, outages::cut_while_the_key_moves;
    "the same, and Patroni is wrong", OURS, V4, outages::cut_and_patroni_is_wrong;
    "cut from everybody until the key moves", ALL, V4, outages::island;
    "Patroni dead, the key runs out", ALL, V4, outages::key_runs_out;
    "etcd down, Patroni still leads", OURS, V4, outages::kept_on_patronis_word;
    "etcd down, on_dcs_loss: release", OURS, V4, outages::released;
    "etcd down, on_dcs_loss: hold", OURS, V4, outages::held;
    "Patroni's REST API refuses and hangs", ALONE, V4, outages::followed_by_rest;
];

/// Many of the same.
pub const MOVES: &[Situation] = situations![
    "the key moves", ALL, V4, moves::with_cooperation;
    "the holder is killed and the key moves", ALL, V4, moves::holder_killed;
    "the holder is cut off and the key moves", ALL, V4, moves::partitioned;
    "claimed again and again", ALL, V4, moves::claimed;
    "removed by someone again and again", ALL, V4, moves::repaired;
    "two addresses on two roles", ROUTER, V4, roles::two_addresses;
    "sessions when the key moves", ROUTER, V4, sessions::told_when_it_moves;
    "clients that are held when the key moves", ROUTER, V4, sessions::told_when_held;
    "other programs' connections, close_sockets", OURS, V4, sessions::closed_for_another_program;
];

impl Situation {
    pub fn fits(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// From a clean bed.
    pub async fn play(&self, bed: &mut Bed) -> Row {
        bed.begin(self.family).await;
        let began = bed.began();
        let mut row = (self.play)(bed).await;
        if !bed.is_held_in_time {
            row.yes("held when it should be", false);
        }
        if !row.wrong().is_empty() {
            row.report = bed.report(began);
        }
        row
    }
}
