//! What must never be seen. Every check asks the world itself, not the router's own opinion.

use pgvane::decide::{Event, Routes, ViewSource};
use pgvane::model::{AdminState, OnDcsLoss, Reason, ServiceName, Trust};

use super::member::{Agent, Member, Pg, Rest};
use super::shell::{Knowledge, Session};
use super::world::World;
use super::{MS, Micros, SEC};

/// Push, not poll: from the first possible write to an open table.
const OPEN_WITHIN: Micros = 100 * MS;
/// A trouble that ended this long ago no longer excuses anything.
const SETTLED: Micros = 5 * SEC;

impl World {
    // -- after every event of a router -----------------------------------------------------------

    pub fn check_router(&mut self, r: usize) {
        if let Some(broken) = self.routers[r].router.broken_invariant() {
            self.fail(format!("r{r} broke its invariant: {broken}"));
        }
        if let Some(late) = self.drained_too_long(r) {
            return self.fail(late);
        }
        let shell = &self.routers[r];
        let mut writers: Vec<usize> = shell.sessions.iter().filter(|s| s.writes).map(|s| s.member).collect();
        writers.sort_unstable();
        writers.dedup();
        if writers.len() > 1 {
            self.fail(format!("r{r} has open write sessions to two members"));
            return;
        }
        // What the key says is nothing that `trust: rest` knows.
        let keyed = shell.spec.trust == Trust::Confirm;
        let named = shell.knowledge.as_ref().and_then(|k| k.leader.as_ref()).filter(|_| keyed);
        let strays = |m: &&usize| named.is_some_and(|leader| *leader != self.members[**m].name);
        if let Some(&stray) = writers.iter().find(strays) {
            let name = &self.members[stray].name;
            self.fail(format!("r{r} still has write sessions to {name} and knows that the key names another"));
        }
    }

    /// A session of a member in maintenance, after the time that its service gives.
    fn drained_too_long(&self, r: usize) -> Option<String> {
        let shell = &self.routers[r];
        shell.sessions.iter().find_map(|session| {
            let (state, since) = shell.ordered.get(&session.member)?;
            let spec = shell.spec.services.iter().find(|spec| spec.name == session.service)?;
            let end = since + spec.drain.as_micros() as Micros + MS;
            let late = *state == AdminState::Maint && self.now > end;
            let name = &self.members[session.member].name;
            late.then(|| format!("r{r} lets a session of {} go on at {name}, in maintenance", session.service))
        })
    }

    /// Keeps what the router was told, by its own rule: the newest revision of one etcd.
    pub fn learn(&mut self, r: usize, event: &Event) {
        let Event::View { view, source } = event else { return };
        let trusted = self.routers[r].write_target().is_some();
        let told = Knowledge {
            cluster_id: view.cluster_id,
            revision: view.revision,
            leader: view.leader.as_ref().map(|l| l.name.clone()),
        };
        let believed = self.routers[r].router.snapshot().dcs;
        let same_etcd = believed.cluster_id.is_none_or(|id| id == told.cluster_id);
        let agrees = same_etcd && believed.revision.is_none_or(|revision| revision <= told.revision);
        let knowledge = &mut self.routers[r].knowledge;
        let known = knowledge.as_ref().map(|k| (k.cluster_id, k.revision));
        match (known, source) {
            // The read that first tells of a replaced etcd is no knowledge yet.
            (None, ViewSource::Read { .. }) if agrees => *knowledge = Some(told),
            (Some((id, revision)), _) if id == told.cluster_id && told.revision >= revision => *knowledge = Some(told),
            // Another etcd, or an older copy: nothing is known until it is believed again.
            (Some((id, _)), ViewSource::Read { .. }) if id != told.cluster_id => *knowledge = None,
            _ => {}
        }
        if self.etcd.replaced_at.is_some() && !trusted {
            self.routers[r].knowledge = None;
        }
    }

    // -- while effects are carried out -----------------------------------------------------------

    /// A new table may open one member for writes, and nobody else may have write sessions then.
    pub fn check_table(&mut self, r: usize, table: &Routes) {
        if table.generation != self.routers[r].routes.generation + 1 {
            self.fail(format!("r{r} skipped a generation"));
        }
        let all = table.services.iter().flat_map(|s| &s.targets).filter(|t| t.needs_confirmation);
        let mut open: Vec<&str> = all.map(|t| t.member.as_str()).collect();
        open.sort_unstable();
        open.dedup();
        let several = open.len() > 1;
        let other = |s: &&Session| s.writes && !open.is_empty() && open[0] != self.members[s.member].name.as_str();
        let early = self.routers[r].sessions.iter().find(other).map(|s| self.members[s.member].name.clone());
        let opened = open.join(" ");
        if several {
            self.fail(format!("r{r} opens {opened} for writes in one table"));
        }
        if let Some(early) = early {
            self.fail(format!("r{r} opens {opened} before the write sessions to {early} are closed"));
        }
    }

    /// A client that reconnects at the close must meet a table without this target.
    pub fn check_closing(&mut self, r: usize, m: usize, services: Option<&[ServiceName]>, reason: Reason) {
        let name = self.members[m].name.clone();
        let mut open = Vec::new();
        for service in &self.routers[r].routes.services {
            let hit = services.is_none_or(|wanted| wanted.contains(&service.spec.name));
            // Readers of a deposed primary may come back as readers.
            let wanted = service.targets.iter().any(|t| {
                let all = matches!(reason, Reason::MemberDown | Reason::MemberGone | Reason::Maintenance);
                t.member == name && (t.needs_confirmation || all)
            });
            if hit && wanted {
                open.push(service.spec.name.to_string());
            }
        }
        if !open.is_empty() {
            self.fail(format!("r{r} closes {name} ({reason}) while its table still opens it for {}", open.join(" ")));
        }
    }

    /// A session was opened just now.
    pub fn check_opening(&mut self, r: usize, session: &Session) {
        let ordered = self.routers[r].ordered.get(&session.member);
        if let Some((state, at)) = ordered.filter(|(state, at)| *state != AdminState::Ready && *at < self.now) {
            let (name, state, at) = (&self.members[session.member].name, state.as_str(), at / MS);
            return self.fail(format!("r{r} opened a session to {name}, which is in {state} since {at} ms"));
        }
        if !session.writes {
            return;
        }
        // Checks alone are as old as their interval: HAProxy's way knows no better.
        if self.routers[r].spec.trust == Trust::Rest {
            return;
        }
        let member = &self.members[session.member];
        let name = member.name.clone();
        if member.pg == Pg::Recovery {
            return self.fail(format!("r{r} opened a write session to {name}, which is in recovery"));
        }
        let other = self.etcd.leader().filter(|l| **l != name);
        let told = self.etcd.leader_since.max(self.router_clear_since(r));
        let replaced = self.etcd.replaced_at == Some(self.etcd.leader_since);
        if let Some(other) = other.filter(|_| !replaced && self.etcd.is_up() && self.now > told + 50 * MS) {
            let other = other.clone();
            self.fail(format!("r{r} opened a write session to {name} long after the key named {other}"));
        }
    }

    /// A write reached a PostgreSQL that took it.
    pub fn check_write(&mut self, r: usize, session: &Session) {
        let name = self.members[session.member].name.clone();
        let shell = &self.routers[r];
        if shell.spec.trust == Trust::Rest {
            return;
        }
        if shell.knowledge.as_ref().and_then(|k| k.leader.as_ref()).is_some_and(|l| *l != name) {
            return self.fail(format!("r{r} forwarded a write to {name} and knows that the key names another"));
        }
        let told = self.etcd.leader_since.max(self.router_clear_since(r));
        let moved = self.etcd.leader().is_some_and(|l| *l != name);
        // What an older copy of etcd names is not believed before it is proven.
        let moved = moved && self.etcd.replaced_at != Some(self.etcd.leader_since);
        if moved && self.etcd.is_up() && self.now > told + 50 * MS {
            self.fail(format!("r{r} forwarded a write to {name} 50 ms after the key named another"));
        }
    }

    /// Never cut a good session.
    pub fn check_cut(&mut self, r: usize, session: &Session, reason: Reason) {
        let ordered =
            self.routers[r].ordered.get(&session.member).is_some_and(|(state, _)| *state == AdminState::Maint);
        if self.is_good(r, session) && !(ordered && reason == Reason::Maintenance) {
            let (name, service) = (&self.members[session.member].name, &session.service);
            self.fail(format!("r{r} cut a good session of {service} to {name}: {reason}"));
        }
    }

    fn is_good(&self, r: usize, session: &Session) -> bool {
        let (shell, member) = (&self.routers[r], &self.members[session.member]);
        if shell.spec.trust == Trust::Rest {
            return false;
        }
        let long_ago = |at: Micros| self.now >= at + SETTLED;
        let lives = session.opened_at >= member.pg_lost_at && member.serves();
        let reached =
            !shell.unreachable.contains(&session.member) && long_ago(shell.reach_since.max(member.host_since));
        let awake = long_ago(shell.paused_until) && shell.spec.on_dcs_loss == OnDcsLoss::Keep;
        let replaced = self.etcd.replaced_at.is_some();
        if !lives || !reached || !awake || replaced {
            return false;
        }
        let rest = is_rest_clean(member) && long_ago(member.rest_since);
        if !session.writes && member.pg == Pg::Recovery {
            return rest;
        }
        let other = self.etcd.last_leader.as_ref().is_some_and(|l| *l != member.name);
        if member.pg != Pg::Primary
            || other
            || shell.knowledge.as_ref().is_some_and(|k| k.leader.as_ref().is_some_and(|l| *l != member.name))
        {
            return false;
        }
        let later = |o: &Member| o.index != member.index && o.says_200(self.now) && o.timeline > member.timeline;
        if self.members.iter().any(later) {
            return false;
        }
        let fresh = self.etcd.is_up() && long_ago(self.router_clear_since(r));
        let keyed = self.etcd.leader() == Some(&member.name);
        // Without a key, a 200 alone vouches for nobody; with failsafe mode active it does.
        let keyed = keyed && shell.knowledge.as_ref().is_some_and(|k| k.leader.is_some());
        let vouches = rest && member.says_200(self.now) && (keyed || member.failsafe_active);
        fresh || vouches && long_ago(self.etcd.leader_since)
    }

    // -- as time goes by --------------------------------------------------------------------------

    /// The leader is open within 100 ms of being writable wherever nothing stands in the way.
    pub fn check_liveness(&mut self, r: usize) {
        if self.routers[r].spec.trust == Trust::Rest {
            return;
        }
        let Some(leader) = self.etcd.leader().cloned() else { return };
        let Some(m) = self.member_named(&leader) else { return };
        let Some(since) = self.open_expected_since(r, m) else { return };
        if self.now < since {
            return;
        }
        if self.routers[r].write_target() != Some(leader.as_str()) {
            self.fail(format!("r{r} does not open {leader}, the writable holder of the key"));
        }
        let waits = self.routers[r].holds.iter().any(|h| &*h.service == "primary" && h.since + OPEN_WITHIN < self.now);
        if waits {
            self.fail(format!("r{r} holds a client while {leader} is open"));
        }
    }

    /// From when on a connected router has no excuse; None when it has one.
    fn open_expected_since(&self, r: usize, m: usize) -> Option<Micros> {
        let (shell, member) = (&self.routers[r], &self.members[m]);
        let excused = member.pg != Pg::Primary
            || !is_rest_clean(member)
            || !member.serves()
            || !self.etcd.is_up()
            || !shell.link
            || !shell.watching
            || shell.watch_silent
            || shell.paused_until > self.now
            || shell.unreachable.contains(&m)
            || self.etcd.keys.failover.is_some()
            || member.timeline < self.top_timeline()
            || member.system_id != "sys1"
            || shell.ordered.get(&m).is_some_and(|(state, _)| *state != AdminState::Ready);
        if excused {
            return None;
        }
        let named = self.etcd.leader_since.max(member.primary_lost_at);
        // Twenty milliseconds between questions for ten seconds, then `fastinter`.
        let replaced_since = self.etcd.replaced_at.is_some_and(|at| at >= named);
        let slow = replaced_since || member.pg_since.saturating_sub(named) + SEC > 10 * SEC;
        let writable = member.pg_since.max(self.etcd.leader_since) + if slow { 1_300 * MS } else { OPEN_WITHIN };
        let replaced = self.etcd.replaced_at.unwrap_or(0);
        let ordered = shell.ordered.get(&m).map_or(0, |(_, at)| *at);
        let calm =
            [ordered, self.router_clear_since(r), shell.reach_since, member.rest_since, member.host_since, replaced];
        Some(writable.max(calm.into_iter().max().unwrap_or(0) + SETTLED))
    }

    fn top_timeline(&self) -> u32 {
        self.members.iter().map(|m| m.timeline).max().unwrap_or(0)
    }

    /// Since when nothing has stood between this router and etcd.
    fn router_clear_since(&self, r: usize) -> Micros {
        let shell = &self.routers[r];
        if !shell.link || !shell.watching || shell.watch_silent || shell.paused_until > self.now {
            return self.now;
        }
        let since = [shell.link_since, shell.watch_since, shell.paused_until, shell.started_at, self.etcd.up_since];
        since.into_iter().max().unwrap_or(0).max(self.etcd.replaced_at.unwrap_or(0))
    }

    /// After a long quiet everything must be as if nothing had ever happened, and everywhere alike.
    pub fn check_quiet(&mut self) {
        let leader = self.etcd.leader().cloned();
        if leader.is_none() {
            self.fail("the world is quiet and nobody leads".to_owned());
        }
        for r in 0..self.routers.len() {
            let open = self.routers[r].write_target().map(str::to_owned);
            if open.as_deref() != leader.as_ref().map(|l| l.as_str()) {
                self.fail(format!("all is quiet, the key names {leader:?}, and r{r} opens {open:?}"));
            }
            if !self.routers[r].holds.is_empty() {
                self.fail(format!("all is quiet and r{r} holds clients"));
            }
            let services: Vec<_> = self.routers[0].spec.services.iter().map(|s| s.name.clone()).collect();
            for service in services {
                let (first, here) = (self.routers[0].targets(&service), self.routers[r].targets(&service));
                if first != here {
                    let text = format!("{service}: r0 opens {first:?}, r{r} opens {here:?} on the same view");
                    self.fail(text);
                }
            }
        }
    }
}

fn is_rest_clean(member: &Member) -> bool {
    member.host_up && member.agent == Agent::Running && member.rest == Rest::Answers
}
