//! Who may take writes, who may keep sessions, and why: the rules of `trust: confirm`.
//!
//! Everything here looks at facts and the time and changes nothing. The order of the branches is
//! the order of what is known best: a fresh leader key, a fresh absence of one, a stale key with a
//! leader that vouches for itself, and a start without any view.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::{ClusterView, LeaderKey, MemberName, OnDcsLoss, Reason, Timeline};

use super::track::{MemberTrack, Proof};
use super::view::{Freshness, ViewKeeper};

/// New sessions open to a leader without a key only on a proof this young.
pub const KEYLESS_PROOF_MAX: Duration = Duration::from_secs(1);
/// A view that goes stale while there is no key keeps sessions for so long.
pub const STALE_KEYLESS_GRACE: Duration = Duration::from_secs(1);
/// A request for a switchover holds new sessions at most this long.
pub const PLANNED_HOLD_MAX: Duration = Duration::from_secs(10);
/// Without any view for so long after the start, remembered members may be served by REST.
pub const START_BY_REST_AFTER: Duration = Duration::from_secs(2);

/// The facts that the rules look at.
pub struct Facts<'a> {
    pub now: Instant,
    pub started_at: Instant,
    pub policy: OnDcsLoss,
    pub keeper: &'a ViewKeeper,
    pub tracks: &'a BTreeMap<MemberName, MemberTrack>,
    pub marks: &'a BTreeMap<String, Timeline>,
    /// Members that may have sessions of ours which can write.
    pub writers: &'a BTreeSet<MemberName>,
    /// Whom the leader key named last.
    pub last_leader: Option<&'a MemberName>,
    /// The DCS was replaced and its leader has not proved itself since.
    pub replaced: bool,
    /// New sessions wait for a requested switchover until then.
    pub planned_until: Option<Instant>,
    /// Members are known from an earlier run.
    pub remembered: bool,
}

/// Whose write sessions may live on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// All of them: nothing says that any is wrong.
    All,
    /// Only this member's; the others are cut.
    Only(MemberName),
    Nobody,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// New write sessions open to it.
    pub open: Option<MemberName>,
    /// ... until then, unless confirmed again. Meaningful with `open`.
    pub until: Instant,
    /// Why it is open, or why new sessions wait.
    pub reason: Reason,
    pub keep: Keep,
    /// Said of sessions that are cut.
    pub cut: Reason,
}

impl Facts<'_> {
    pub fn decide(&self) -> Lead {
        let lead = self.by_what_is_known();
        // What once took writes and replays now keeps nobody: readers that come to it are new ones.
        let fallen = self.writers.iter().any(|w| self.is_in_recovery(w));
        if fallen && lead.open.is_none() && lead.keep == Keep::All {
            return Lead { keep: Keep::Nobody, cut: Reason::InRecovery, ..lead };
        }
        lead
    }

    fn by_what_is_known(&self) -> Lead {
        let view = self.keeper.current();
        let leader = view.and_then(|v| v.leader.as_ref());
        match (self.keeper.freshness(self.now), view) {
            (Freshness::Fresh { .. }, Some(_)) if self.replaced => self.hold(Reason::DcsReplaced, Keep::All),
            (Freshness::Fresh { until }, Some(view)) => match leader {
                Some(key) => self.by_key(view, key, until),
                None => self.keyless(view, until),
            },
            (Freshness::Lost { .. }, Some(_)) if self.replaced => self.lost_and_replaced(),
            (Freshness::Lost { since }, Some(_)) => match leader {
                Some(key) => self.lost_since(&key.name),
                None => self.lost_keyless(since),
            },
            _ => self.at_start(),
        }
    }

    /// Whether the leader named by this view has proved itself, and may be believed.
    pub fn leader_doubt(&self, view: &ClusterView, key: &LeaderKey) -> Option<Reason> {
        let Some(track) = self.tracks.get(&key.name) else { return Some(Reason::LeaderUnknown) };
        if track.conn.is_none() {
            return Some(Reason::LeaderUnknown);
        }
        match &track.proof {
            None => Some(Reason::LeaderUnproven),
            Some(proof) => self.proof_doubt(view, proof),
        }
    }

    fn proof_doubt(&self, view: &ClusterView, proof: &Proof) -> Option<Reason> {
        let (Some(timeline), Some(system)) = (proof.timeline, &proof.system_id) else {
            return Some(Reason::LeaderUnproven);
        };
        if view.system_id.as_ref().is_some_and(|expected| !expected.is_empty() && expected != system) {
            return Some(Reason::OtherSystem);
        }
        self.is_below_mark(system, timeline).then_some(Reason::BelowTimelineMark)
    }

    fn is_below_mark(&self, system: &str, timeline: Timeline) -> bool {
        self.marks.get(system).is_some_and(|mark| timeline < *mark)
    }

    fn by_key(&self, view: &ClusterView, key: &LeaderKey, until: Instant) -> Lead {
        let name = &key.name;
        // It led through us and fell back into recovery with its key still there.
        if self.writers.contains(name) && self.is_in_recovery(name) {
            return Lead { cut: Reason::InRecovery, ..self.hold(Reason::InRecovery, Keep::Nobody) };
        }
        let keep = Keep::Only(name.clone());
        if let Some(reason) = self.leader_doubt(view, key) {
            return Lead { cut: Reason::LeaderMoved, ..self.hold(reason, keep) };
        }
        if self.planned_until.is_some_and(|end| self.now < end) {
            return Lead { cut: Reason::LeaderMoved, ..self.hold(Reason::PlannedSwitchover, keep) };
        }
        self.open(name, until, Reason::LeaderProven, Reason::LeaderMoved)
    }

    fn keyless(&self, view: &ClusterView, until: Instant) -> Lead {
        let Some((name, track)) = self.last_leader_track() else {
            return self.hold(Reason::NoLeaderKey, Keep::All);
        };
        if self.is_in_recovery(name) {
            return Lead { cut: Reason::InRecovery, ..self.hold(Reason::NoLeaderKey, Keep::Nobody) };
        }
        let proof = track.proof.as_ref().filter(|p| self.now < p.at + KEYLESS_PROOF_MAX);
        let Some(proof) = proof.filter(|p| self.proof_doubt(view, p).is_none()) else {
            return self.hold(Reason::NoLeaderKey, Keep::All);
        };
        let until = until.min(proof.at + KEYLESS_PROOF_MAX);
        let failsafe = track.answer.as_ref().is_some_and(|(_, a)| a.failsafe_active);
        let reason = if failsafe {
            Reason::FailsafeActive
        } else if view.settings.pause && !self.anybody_else_writable(name) {
            Reason::Paused
        } else {
            return self.hold(Reason::NoLeaderKey, Keep::All);
        };
        self.open(name, until, reason, Reason::LeaderMoved)
    }

    /// Whatever else is unknown, a key that named another before the silence is why sessions end.
    fn lost_since(&self, name: &MemberName) -> Lead {
        let lead = self.lost(name);
        let moved = self.writers.iter().any(|writer| writer != name);
        if moved { Lead { cut: Reason::LeaderMoved, ..lead } } else { lead }
    }

    /// The key last named X, and nothing has been heard from the DCS for a while.
    fn lost(&self, name: &MemberName) -> Lead {
        let Some(track) = self.tracks.get(name) else { return self.hold(Reason::DcsLost, Keep::All) };
        if self.writers.contains(name) && self.is_in_recovery(name) {
            return Lead { cut: Reason::InRecovery, ..self.hold(Reason::DcsLost, Keep::Nobody) };
        }
        let rival = self.rival_of(name);
        if rival.is_some_and(|rival| is_later(rival, track)) {
            return Lead { cut: Reason::OtherClaims, ..self.hold(Reason::OtherClaims, Keep::Nobody) };
        }
        let lease_end = self.keeper.lease_end();
        let lease_over = lease_end.is_none_or(|end| self.now >= end);
        let strict = self.policy == OnDcsLoss::Close;
        if lease_over && (strict || !track.vouches(self.now)) {
            return Lead { cut: Reason::LeaseEnded, ..self.hold(Reason::DcsLost, Keep::Nobody) };
        }
        let keep = Keep::Only(name.clone());
        if rival.is_some() {
            return self.hold(Reason::OtherClaims, keep);
        }
        if !track.claims_lead(self.now) || self.is_proof_doubtful(track) {
            return self.hold(Reason::DcsLost, keep);
        }
        let mut until = self.vouched_until(track);
        if strict {
            until = lease_end.map_or(until, |end| until.min(end));
        }
        self.open(name, until, Reason::ServedByRest, Reason::LeaderMoved)
    }

    /// Not proven, below the mark, or not the system that the last view named.
    fn is_proof_doubtful(&self, track: &MemberTrack) -> bool {
        let nothing = ClusterView::default();
        let view = self.keeper.current().map_or(&nothing, |v| v);
        track.proof.as_ref().is_none_or(|proof| self.proof_doubt(view, proof).is_some())
    }

    /// A replaced DCS that fell silent before its leader proved itself tells nothing at all.
    fn lost_and_replaced(&self) -> Lead {
        match self.writers.iter().next() {
            Some(writer) => {
                let lead = self.lost(&writer.clone());
                Lead { open: None, reason: Reason::DcsReplaced, ..lead }
            }
            None => self.hold(Reason::DcsReplaced, Keep::All),
        }
    }

    fn lost_keyless(&self, since: Instant) -> Lead {
        let Some((name, track)) = self.last_leader_track() else { return self.hold(Reason::DcsLost, Keep::All) };
        if self.is_in_recovery(name) {
            return Lead { cut: Reason::InRecovery, ..self.hold(Reason::DcsLost, Keep::Nobody) };
        }
        // One 503 while it heals says less than the 200 before it.
        if !track.vouches_by_failsafe(self.now) {
            let keep = if self.now < since + STALE_KEYLESS_GRACE { Keep::All } else { Keep::Nobody };
            return Lead { cut: Reason::DcsLost, ..self.hold(Reason::DcsLost, keep) };
        }
        match track.proof.as_ref().filter(|p| self.now < p.at + KEYLESS_PROOF_MAX) {
            Some(proof)
                if track.claims_lead(self.now) && self.rival_of(name).is_none() && !self.is_proof_doubtful(track) =>
            {
                self.open(name, proof.at + KEYLESS_PROOF_MAX, Reason::FailsafeActive, Reason::OtherClaims)
            }
            _ => self.hold(Reason::DcsLost, Keep::Only(name.clone())),
        }
    }

    /// No view since the start: one remembered member may vouch for itself once all were asked.
    fn at_start(&self) -> Lead {
        let waited = self.now >= self.started_at + START_BY_REST_AFTER;
        if !waited || !self.remembered || self.policy == OnDcsLoss::Close {
            return self.hold(Reason::Starting, Keep::All);
        }
        let claims: Vec<_> = self.tracks.iter().filter(|(_, t)| t.claims_lead(self.now)).collect();
        let all_asked = self.tracks.values().all(|t| t.asked);
        match claims[..] {
            [(name, track)] if all_asked && track.proof.is_some() && self.fits_memory(track) => {
                self.open(name, self.vouched_until(track), Reason::ServedByRest, Reason::OtherClaims)
            }
            [] if self.writers.iter().any(|w| !self.tracks.get(w).is_some_and(|t| t.vouches(self.now))) => {
                Lead { cut: Reason::LeaseEnded, ..self.hold(Reason::DcsLost, Keep::Nobody) }
            }
            [] | [_] => self.hold(Reason::DcsLost, Keep::All),
            _ if self.is_deposed() => self.hold(Reason::OtherClaims, Keep::Nobody),
            _ => self.hold(Reason::OtherClaims, Keep::All),
        }
    }

    /// Served by REST since the start, and another claims the lead on a later timeline.
    fn is_deposed(&self) -> bool {
        let tracks = self.writers.iter().filter_map(|writer| self.tracks.get_key_value(writer));
        tracks
            .filter_map(|(name, track)| Some((self.rival_of(name)?, track)))
            .any(|(rival, track)| is_later(rival, track))
    }

    fn fits_memory(&self, track: &MemberTrack) -> bool {
        let system = track.proof.as_ref().and_then(|p| p.system_id.as_ref());
        system.is_some_and(|s| self.marks.contains_key(s)) && !self.is_proof_doubtful(track)
    }

    fn last_leader_track(&self) -> Option<(&MemberName, &MemberTrack)> {
        let name = self.last_leader?;
        self.tracks.get_key_value(name)
    }

    fn is_in_recovery(&self, name: &MemberName) -> bool {
        self.tracks.get(name).is_some_and(MemberTrack::says_in_recovery)
    }

    fn anybody_else_writable(&self, name: &MemberName) -> bool {
        self.tracks.iter().any(|(other, t)| other != name && t.says_writable())
    }

    /// Another member that says 200.
    fn rival_of(&self, name: &MemberName) -> Option<&MemberTrack> {
        self.tracks.iter().find(|(other, t)| *other != name && t.claims_lead(self.now)).map(|(_, t)| t)
    }

    fn vouched_until(&self, track: &MemberTrack) -> Instant {
        track.last_200.map_or(self.now, |at| at + super::track::REST_SILENT_AFTER)
    }

    fn open(&self, name: &MemberName, until: Instant, reason: Reason, cut: Reason) -> Lead {
        Lead { open: Some(name.clone()), until, reason, keep: Keep::Only(name.clone()), cut }
    }

    fn hold(&self, reason: Reason, keep: Keep) -> Lead {
        Lead { open: None, until: self.now, reason, keep, cut: reason }
    }
}

/// A rival that is out of recovery on a higher timeline was promoted after this one.
fn is_later(rival: &MemberTrack, than: &MemberTrack) -> bool {
    let timeline = |t: &MemberTrack| {
        let proven = t.proof.as_ref().and_then(|p| p.timeline);
        proven.or(t.answer.as_ref().and_then(|(_, a)| a.timeline))
    };
    rival.says_writable() && timeline(rival) > timeline(than)
}
