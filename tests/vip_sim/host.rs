//! One host: its kernel, its router's process, and how it reaches others.

use std::sync::Arc;

use pgvane::decide::vip::{Vip, VipEvent};
use pgvane::model::{Mac, MemberName, VipEntry, VipLink, VipMark, VipSpec};

use super::Micros;
use super::dcs::View;

/// An address of the kernel.
#[derive(Debug, Clone)]
pub struct Address {
    pub id: u64,
    pub is_ours: bool,
    /// When its lifetime is over, and when the kernel notices. None: never.
    pub ends: Option<(Micros, Micros)>,
}

/// What the process knows of the DCS. Times are the host's.
#[derive(Debug, Clone)]
pub struct Known {
    pub view: View,
    pub known_at: Micros,
    pub confirmed_at: Micros,
    pub lease_end: Option<Micros>,
}

/// What the local Patroni says when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// By what it believes itself.
    Own,
    Leads,
    Denies,
}

#[derive(Debug)]
pub struct Host {
    pub index: usize,
    pub name: MemberName,
    pub mac: Mac,
    pub spec: Arc<VipSpec>,
    pub vip: Option<Vip>,
    /// Of the process; what was sent to an earlier one is lost.
    pub life: u64,
    pub timer_epoch: u64,
    /// SIGSTOP.
    pub is_stopped: bool,
    /// The whole machine.
    pub is_suspended: bool,
    pub slept: Micros,
    pub is_powered: bool,
    pub link: Option<VipLink>,
    /// Of the segment, when it is split.
    pub side: usize,
    pub reaches_dcs: bool,
    pub word: Word,
    pub patroni_runs: bool,
    /// Until when its Patroni believes that it leads.
    pub believes_until: Micros,
    pub known: Option<Known>,
    pub vouched_at: Option<Micros>,
    pub address: Option<Address>,
    pub foreign: bool,
    pub puts_fail: bool,
    pub removes_fail: bool,
    pub marks_fail: bool,
    /// How long sessions take to end; None: they never do.
    pub sessions_take: Option<Micros>,
    /// Mark operations of one process reach the DCS in order.
    pub marks_at: Micros,
    // -- what was seen ------------------------------------------------------------------------------
    /// The last instant, of the world, at which something confirmed that it may hold.
    pub confirmed: Micros,
    pub closed: bool,
    pub probes: Vec<Micros>,
    pub announcements: Vec<Micros>,
    pub puts: Vec<(Micros, u64)>,
    pub told: Vec<(Micros, String)>,
}

impl Host {
    pub fn new(index: usize, name: &str, spec: Arc<VipSpec>) -> Host {
        let mac = Mac([2, 0, 0, 0, 0, index as u8 + 1]);
        Host {
            index,
            name: name.into(),
            mac,
            spec,
            vip: None,
            life: 0,
            timer_epoch: 0,
            is_stopped: false,
            is_suspended: false,
            slept: 0,
            is_powered: true,
            link: Some(VipLink { index: 2, mac, is_running: true }),
            side: 0,
            reaches_dcs: true,
            word: Word::Own,
            patroni_runs: true,
            believes_until: 0,
            known: None,
            vouched_at: None,
            address: None,
            foreign: false,
            puts_fail: false,
            removes_fail: false,
            marks_fail: false,
            sessions_take: Some(2_000),
            marks_at: 0,
            confirmed: 0,
            closed: false,
            probes: Vec::new(),
            announcements: Vec::new(),
            puts: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Its kernel answers for the address.
    pub fn has_address(&self) -> bool {
        self.is_powered && !self.is_suspended && (self.address.is_some() || self.foreign)
    }

    pub fn is_on_segment(&self) -> bool {
        self.is_powered && !self.is_suspended && self.link.is_some_and(|link| link.is_running)
    }

    pub fn is_running(&self) -> bool {
        self.is_powered && !self.is_stopped && !self.is_suspended && self.vip.is_some()
    }

    pub fn entries(&self, now: Micros) -> VipEvent {
        let interface = &self.spec.interface;
        let entry = |is_ours, valid_for| VipEntry {
            interface: interface.clone(),
            index: 2,
            prefix: self.spec.address.prefix,
            is_ours,
            valid_for,
            is_failed: false,
        };
        // The kernel rounds up what is left.
        let left = |end: Micros| std::time::Duration::from_secs(end.saturating_sub(now).div_ceil(1_000_000));
        let own = self.address.iter().map(|a| entry(a.is_ours, a.ends.map(|(end, _)| left(end))));
        let foreign = self.foreign.then(|| VipEntry { prefix: 24, ..entry(false, None) });
        VipEvent::Entries(own.chain(foreign).collect())
    }

    pub fn mark_of(&self, view: &View) -> Option<VipMark> {
        view.mark.as_ref().map(|mark| VipMark {
            holder: mark.holder.as_str().into(),
            lease: Some(self.spec.lease),
            mod_revision: mark.revision,
        })
    }
}
