//! How far behind the leader a member replays.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::model::{ClusterView, Lsn, MemberName, Trust};

use super::lead::Lead;
use super::track::MemberTrack;

/// A lagging member is a target again below this share of `max_lag`, so that it does not flap.
const RETURN_SHARE: (u64, u64) = (3, 4);

/// Where the leader's log ended when that was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderPosition {
    at: Lsn,
    /// Send time of the question to the leader itself. None: from the DCS, which is behind what any
    /// member says of itself.
    asked_at: Option<Instant>,
}

impl LeaderPosition {
    /// With `trust: confirm` the DCS tells; otherwise the open leader's own answer does.
    pub fn known(
        trust: Trust,
        view: Option<&ClusterView>,
        lead: &Lead,
        tracks: &BTreeMap<MemberName, MemberTrack>,
    ) -> Option<LeaderPosition> {
        match trust {
            Trust::Confirm => LeaderPosition::in_dcs(view?),
            Trust::Rest => {
                let (sent_at, answer) = tracks.get(lead.open.as_ref()?)?.answer.as_ref()?;
                Some(LeaderPosition { at: answer.location?, asked_at: Some(*sent_at) })
            }
        }
    }

    fn in_dcs(view: &ClusterView) -> Option<LeaderPosition> {
        let leader = view.leader.as_ref().and_then(|l| view.members.get(&l.name)).and_then(|m| m.xlog_location);
        Some(LeaderPosition { at: view.optime.max(leader)?, asked_at: None })
    }
}

/// Bytes behind the leader; None when either position is unknown, or when the leader's is the newer
/// one: what it wrote since the member was asked would show as lag.
pub fn lag(leader: Option<LeaderPosition>, track: &MemberTrack) -> Option<u64> {
    behind(leader?, track).filter(|behind| !behind.at_most).map(|behind| behind.bytes)
}

/// Whether `max_lag` keeps new sessions away; `was` tells whether it did so far.
pub fn exceeds(leader: Option<LeaderPosition>, track: &MemberTrack, max: u64, was: bool) -> bool {
    let limit = if was { max / RETURN_SHARE.1 * RETURN_SHARE.0 } else { max };
    // A bound may end a lag, and cannot begin one.
    let beyond = |behind: Behind| behind.bytes > limit && (was || !behind.at_most);
    leader.and_then(|leader| behind(leader, track)).is_some_and(beyond)
}

struct Behind {
    bytes: u64,
    /// It is so much or less.
    at_most: bool,
}

fn behind(leader: LeaderPosition, track: &MemberTrack) -> Option<Behind> {
    let told = track.answer.as_ref().and_then(|(_, a)| a.replayed);
    let Some(asked_at) = leader.asked_at else {
        let written = track.facts.as_ref().and_then(|f| f.replay_lsn.or(f.xlog_location));
        return Some(Behind { bytes: told.max(written)?.behind(leader.at), at_most: false });
    };
    let (sent_at, _) = track.answer.as_ref()?;
    Some(Behind { bytes: told?.behind(leader.at), at_most: asked_at > *sent_at })
}
