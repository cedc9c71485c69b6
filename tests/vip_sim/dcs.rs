//! Where the leader key and the hand-over key are.

use super::Micros;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub holder: String,
    pub revision: i64,
    /// Bound to a lease that this host's process, in this life, keeps alive.
    pub bound: Option<(usize, u64)>,
    /// When that lease runs out.
    pub ends: Option<Micros>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dcs {
    pub answers: bool,
    pub revision: i64,
    pub leader: Option<usize>,
    /// When the leader's lease runs out; None: it is always refreshed.
    pub lease_end: Option<Micros>,
    pub mark: Option<Mark>,
    /// Who fits a role that several may have.
    pub fit: Vec<bool>,
}

/// What a read or the watch shows.
#[derive(Debug, Clone)]
pub struct View {
    pub revision: i64,
    pub leader: Option<usize>,
    pub lease_left: Option<Micros>,
    pub mark: Option<Mark>,
    pub fit: Vec<bool>,
}

impl Dcs {
    pub fn new(hosts: usize) -> Dcs {
        Dcs { answers: true, revision: 1, leader: None, lease_end: None, mark: None, fit: vec![false; hosts] }
    }

    pub fn view(&self, now: Micros) -> View {
        View {
            revision: self.revision,
            leader: self.leader,
            lease_left: Some(self.lease_end.map_or(25_000_000, |end| end.saturating_sub(now))),
            mark: self.mark.clone(),
            fit: self.fit.clone(),
        }
    }
}
