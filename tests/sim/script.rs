//! The words of a scenario: what happens (`act`) and what is seen (`see`).

use std::sync::Arc;
use std::time::Duration;

use pgvane::model::{AdminState, KeyProblem, MemberFacts, MemberName, Timeline};

use super::etcd::EtcdState;
use super::faults::Fault;
use super::member::{Agent, Pg, Rest};
use super::world::World;
use super::{MS, Micros, SEC};

/// `5s`, `5.3s`, `50ms`.
pub fn span(text: &str) -> Result<Micros, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, MS),
        None => (text.strip_suffix('s').ok_or(format!("{text}: a time ends in s or ms"))?, SEC),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text}: not a time"))?;
    Ok((number * unit as f64).round() as Micros)
}

/// `16MB`, `12`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = text.strip_suffix("MB").map_or((text, 1), |n| (n, 1 << 20));
    number.parse::<u64>().map(|n| n * unit).map_err(|_| format!("{text}: not a size"))
}

impl World {
    pub fn act_out(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["leader", "key", rest @ ..] => return self.act_on_leader_key(rest),
            ["failover", "key", rest @ ..] => match rest {
                ["cleared"] => self.ask_failover(None, None),
                // What Patroni writes when a switchover is given up.
                ["emptied"] => self.empty_failover(),
                ["names", name] => self.ask_failover(Some((*name).into()), None),
                ["names", name, "later"] => {
                    self.ask_failover(Some((*name).into()), Some("2030-01-01T00:00:00Z".to_owned()));
                }
                _ => return Err(unknown(words)),
            },
            ["etcd", rest @ ..] => return self.act_on_etcd(rest),
            ["pause", on] => self.happen(Fault::ClusterPause(*on == "on")),
            ["failsafe", on] => self.happen(Fault::Failsafe(*on == "on")),
            ["clients", what] => self.routers.iter_mut().for_each(|r| r.clients = *what == "come"),
            ["router", rest @ ..] => return self.act_on_router(rest),
            [name, rest @ ..] => {
                let m = self.member_named(&MemberName::from(*name)).ok_or_else(|| unknown(words))?;
                return self.act_on_member(m, rest);
            }
            [] => return Err("nothing happens".to_owned()),
        }
        Ok(())
    }

    /// The new holder says 200 at once; a Patroni that sees the key no longer does.
    fn act_on_leader_key(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["deleted"] => self.happen(Fault::DropLeaderKey),
            ["names", name] => {
                let name = MemberName::from(*name);
                let m = self.member_named(&name).ok_or_else(|| unknown(words))?;
                let lease = self.members[m].lease;
                let end = self.now + 30 * SEC;
                for member in &mut self.members {
                    let sees = member.agent == Agent::Running && !member.cut_from_etcd;
                    member.leads = if sees { member.index == m } else { member.leads };
                }
                self.commit(|keys| {
                    keys.leases.insert(lease, end);
                    // Another acquisition, even by the same member.
                    keys.leader = None;
                    keys.put_leader(&name, lease);
                });
            }
            _ => return Err(unknown(words)),
        }
        Ok(())
    }

    fn act_on_etcd(&mut self, words: &[&str]) -> Result<(), String> {
        self.happen(match words {
            ["stops"] => Fault::Etcd(EtcdState::Down),
            ["hangs"] => Fault::Etcd(EtcdState::Hung),
            ["answers"] => Fault::Etcd(EtcdState::Up),
            ["is", "copied"] => Fault::CopyEtcd,
            ["is", "replaced", "by", "the", "copy"] => Fault::ReplaceEtcd { other_id: false },
            ["is", "replaced", "by", "another"] => Fault::ReplaceEtcd { other_id: true },
            _ => return Err(unknown(words)),
        });
        Ok(())
    }

    fn act_on_router(&mut self, words: &[&str]) -> Result<(), String> {
        let member = |name: &str| self.member_named(&MemberName::from(name)).ok_or(format!("who is {name}?"));
        let fault = match words {
            ["cut", "from", "etcd"] => Fault::Link { router: 0, up: false },
            ["reaches", "etcd"] => Fault::Link { router: 0, up: true },
            ["watch", "falls", "silent"] => Fault::SilenceWatch(0),
            ["pauses", time] => Fault::Pause { router: 0, span: span(time)? },
            ["restarts"] => Fault::Restart(0),
            ["reloads", "with", "max_lag", size] => {
                let spec = super::cluster(self.routers[0].spec.on_dcs_loss, Some(bytes(size)?));
                Fault::Reload { router: 0, spec }
            }
            ["reloads", "with", "drain", time] => {
                let drain = Duration::from_micros(span(time)?);
                Fault::Reload { router: 0, spec: super::with_drain(&self.routers[0].spec, None, drain) }
            }
            ["reloads", "without", service] => {
                let mut spec = (*self.routers[0].spec).clone();
                spec.services.retain(|s| &*s.name != *service);
                Fault::Reload { router: 0, spec: Arc::new(spec) }
            }
            ["reloads", "unchanged"] => {
                Fault::Reload { router: 0, spec: super::cluster(self.routers[0].spec.on_dcs_loss, None) }
            }
            ["forgets"] => {
                self.routers[0].memory = pgvane::decide::Memory::default();
                return Ok(());
            }
            ["cut", "from", name] => Fault::Reach { router: 0, member: member(name)?, reached: false },
            ["reaches", name] => Fault::Reach { router: 0, member: member(name)?, reached: true },
            _ => return Err(unknown(words)),
        };
        self.happen(fault);
        Ok(())
    }

    fn act_on_member(&mut self, m: usize, words: &[&str]) -> Result<(), String> {
        match words {
            ["postgres", "stops" | "crashes"] => self.set_pg(m, Pg::Stopped),
            ["postgres", "starts"] => self.set_pg(m, Pg::Starting),
            ["postgres", "in", "recovery"] => self.set_pg(m, Pg::Recovery),
            ["postgres", "writable"] => self.set_pg(m, Pg::Primary),
            ["postgres", "promoted", "to", "timeline", timeline] => {
                self.members[m].timeline = number(timeline)?;
                self.set_pg(m, Pg::Primary);
            }
            ["postgres", "hangs"] => self.members[m].pg_hung = true,
            ["postgres", "answers"] => self.members[m].pg_hung = false,
            ["rest", "answers"] => self.set_rest(m, Rest::Answers),
            ["rest", "refuses"] => self.set_rest(m, Rest::Refuses),
            ["rest", "hangs"] => self.set_rest(m, Rest::Hangs),
            ["rest", "garbled"] => self.set_rest(m, Rest::Garbled),
            ["rest", "takes", time] => self.set_rest(m, Rest::Slow(span(time)?)),
            ["says", status] => self.members[m].leads = *status == "200",
            ["says", "503", "for", time] => self.happen(Fault::Blip(m, span(time)?)),
            ["failsafe", what] => self.members[m].failsafe_active = *what == "active",
            ["patroni", "killed"] => self.set_agent(m, Agent::Killed),
            ["patroni", "frozen"] => self.set_agent(m, Agent::Frozen),
            ["patroni", "runs"] => self.set_agent(m, Agent::Running),
            ["host", "dies"] => self.happen(Fault::Host { member: m, up: false }),
            ["host", "returns"] => self.happen(Fault::Host { member: m, up: true }),
            ["lease", "expires"] => {
                let lease = self.members[m].lease;
                self.commit(|keys| keys.drop_lease(lease));
            }
            ["timeline", timeline] => self.members[m].timeline = number(timeline)?,
            ["system", id] => self.members[m].system_id = (*id).to_owned(),
            ["ordered", state] => {
                let known = AdminState::ALL.into_iter().find(|s| s.as_str() == *state);
                self.happen(Fault::Order { member: m, state: known.ok_or_else(|| unknown(words))? });
            }
            ["transactions", "end"] => self.end_transactions(0, m),
            ["key", what] => return self.act_on_member_key(m, what),
            [word, rest @ ..] => return self.act_on_reader(m, word, rest),
            [] => return Err(unknown(words)),
        }
        Ok(())
    }

    /// Facts that the member publishes with its next key.
    fn act_on_reader(&mut self, m: usize, word: &str, rest: &[&str]) -> Result<(), String> {
        match (word, rest) {
            ("lags", [size]) => self.members[m].lag = bytes(size)?,
            ("streams", [how]) => self.members[m].streaming = *how == "again",
            ("tag", [key, value]) => {
                self.members[m].tags.insert((*key).to_owned(), (*value).to_owned());
            }
            _ => return Err(unknown(rest)),
        }
        self.act_on_member_key(m, "written")
    }

    fn act_on_member_key(&mut self, m: usize, what: &str) -> Result<(), String> {
        let (name, facts, lease) = (self.members[m].name.clone(), self.members[m].facts(), self.members[m].lease);
        match what {
            "written" => self.commit(|keys| {
                keys.problems.clear();
                keys.optime = Some(pgvane::model::Lsn(super::member::POSITION));
                keys.members.insert(name.clone(), facts);
                keys.member_leases.insert(name, lease);
            }),
            "malformed" => self.commit(|keys| {
                let problem = "not JSON".to_owned();
                keys.problems = vec![KeyProblem { key: format!("members/{name}"), problem }];
                keys.members.insert(name, MemberFacts::default());
            }),
            "deleted" => self.commit(|keys| {
                keys.members.remove(&name);
            }),
            _ => return Err(format!("a member key is not {what}")),
        }
        Ok(())
    }

    // -- what is seen -----------------------------------------------------------------------------

    /// Whether it is so now, in the first router; an error when the words mean nothing. `since` is
    /// how many closed sessions there were when something was last done.
    pub fn see(&self, words: &[&str], since: usize) -> Result<bool, String> {
        let shell = &self.routers[0];
        let closed = shell.closed.get(since..).unwrap_or(&[]);
        let named = |m: usize, name: &str| self.members[m].name.as_str() == name;
        Ok(match words {
            ["write", "opens", name] => shell.targets("primary") == [*name],
            ["write", "waits", reason] => {
                let wait = shell.routes.service("primary").and_then(|s| s.wait);
                wait.is_some_and(|(why, _)| why.as_str() == *reason)
            }
            ["write", "is", "because", reason] => {
                let standings = shell.routes.service("primary").map_or(&[][..], |s| &s.standings);
                let open = |s: &&pgvane::decide::Standing| s.state == pgvane::decide::TargetState::Open;
                standings.iter().find(open).is_some_and(|s| s.reason.as_str() == *reason)
            }
            ["new", "writers", "wait"] => shell.holds.iter().any(|h| &*h.service == "primary"),
            ["nobody", "waits"] => !shell.holds.iter().any(|h| &*h.service == "primary"),
            ["nobody", "gave", "up"] => shell.expired == 0,
            ["somebody", "gave", "up"] => shell.expired > 0,
            ["reads", "on", names @ ..] => shell.targets("replica") == names,
            ["offline", "on", names @ ..] => shell.targets("offline") == names,
            ["sessions", "kept"] => closed.is_empty() && !shell.sessions.is_empty(),
            ["sessions", name, "closed", reason] => {
                let left = shell.sessions.iter().any(|s| named(s.member, name) && s.writes);
                !left && closed.iter().any(|c| named(c.member, name) && c.writes && c.reason.as_str() == *reason)
            }
            ["read", "sessions", name, "closed", reason] => {
                let left = shell.sessions.iter().any(|s| named(s.member, name) && &*s.service == "replica");
                !left && closed.iter().any(|c| named(c.member, name) && !c.writes && c.reason.as_str() == *reason)
            }
            // A session in a transaction is left, and those without are gone.
            ["idle", "sessions", name, "ended", reason] => {
                let left: Vec<_> = shell.sessions.iter().filter(|s| named(s.member, name)).collect();
                let ended = closed.iter().any(|c| named(c.member, name) && c.idle && c.reason.as_str() == *reason);
                ended && !left.is_empty() && left.iter().all(|s| s.busy)
            }
            ["transactions", name, "cut", reason] => {
                let left = shell.sessions.iter().any(|s| named(s.member, name));
                !left && closed.iter().any(|c| named(c.member, name) && !c.idle && c.reason.as_str() == *reason)
            }
            ["nothing", "cut"] => closed.iter().all(|c| c.idle),
            ["nobody", "on", name] => !shell.sessions.iter().any(|s| named(s.member, name)),
            ["sessions", "on", name] => shell.sessions.iter().any(|s| named(s.member, name) && s.writes),
            ["read", "sessions", "on", name] => {
                let kept = |s: &super::shell::Session| named(s.member, name) && &*s.service == "replica";
                shell.sessions.iter().any(kept)
            }
            ["mark", "is", "timeline", timeline] => {
                let mark = shell.memory.marks.get("sys1").copied();
                mark == Some(Timeline(number(timeline)?))
            }
            _ => return Err(unknown(words)),
        })
    }

    /// The facts that an expectation looks at, for the message of a failure.
    pub fn sight(&self) -> String {
        let shell = &self.routers[0];
        let wait = shell.routes.service("primary").and_then(|s| s.wait).map_or("", |(why, _)| why.as_str());
        let sessions: Vec<_> = shell
            .sessions
            .iter()
            .map(|s| format!("{}:{}{}", s.service, self.members[s.member].name, if s.writes { "(w)" } else { "" }))
            .collect();
        format!(
            "write {:?} {wait} · reads {:?} · offline {:?} · sessions {} · {} wait · {} gave up · mark {:?}",
            shell.targets("primary"),
            shell.targets("replica"),
            shell.targets("offline"),
            sessions.join(" "),
            shell.holds.len(),
            shell.expired,
            shell.memory.marks,
        )
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text}: not a number"))
}

fn unknown(words: &[&str]) -> String {
    format!("not a sentence of this language: {}", words.join(" "))
}
