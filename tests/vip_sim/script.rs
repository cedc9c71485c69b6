//! The words of a scenario: what happens (`act_out`) and what is seen (`see`).

use pgvane::decide::vip::{Vip, VipEvent};
use pgvane::model::Mac;

use super::faults::Fault;
use super::host::{Address, Word};
use super::world::{Core, World};
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

const STRANGER: Mac = Mac([0x0a, 0, 0, 0, 0, 0x99]);

fn unknown(words: &[&str]) -> String {
    format!("{}: not something of this world", words.join(" "))
}

impl World {
    /// Hosts are n1, n2, ... on the page, whatever their members are called.
    fn host(&self, word: &str) -> Result<usize, String> {
        let number = word.strip_prefix('n').and_then(|n| n.parse::<usize>().ok());
        let index = number.and_then(|n| n.checked_sub(1)).filter(|i| *i < self.hosts.len());
        index.ok_or_else(|| format!("who is {word}?"))
    }

    pub fn act_out(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["leader", "key", "names", name] => {
                let to = self.host(name)?;
                self.happen(Fault::KeyMoves { to });
            }
            ["leader", "key", "deleted"] => self.happen(Fault::KeyDeleted),
            ["leader's", "lease", "ends", "in", time] => self.dcs.lease_end = Some(self.now + span(time)?),
            ["leader's", "lease", "refreshed"] => self.dcs.lease_end = None,
            ["dcs", "hangs"] => self.happen(Fault::Dcs { answers: false }),
            ["dcs", "answers"] => self.happen(Fault::Dcs { answers: true }),
            ["network", "splits", "off", name] => {
                let host = self.host(name)?;
                self.happen(Fault::Segment { host, side: 1 });
            }
            ["network", "heals"] => self.hosts.iter_mut().for_each(|host| host.side = 0),
            ["stranger", "takes", "the", "address"] => {
                self.stranger = Some(STRANGER);
                for host in 0..self.hosts.len() {
                    self.push_core(host, MS / 10, Core::Event(VipEvent::Heard { mac: STRANGER }));
                }
            }
            ["stranger", "leaves"] => self.stranger = None,
            [name, rest @ ..] => {
                let host = self.host(name)?;
                return self.act_on_host(host, rest);
            }
            [] => return Err("nothing happens".to_owned()),
        }
        Ok(())
    }

    fn act_on_host(&mut self, host: usize, words: &[&str]) -> Result<(), String> {
        let fault = match words {
            ["cut", "from", "dcs"] => Fault::ReachDcs { host, reached: false },
            ["reaches", "dcs"] => Fault::ReachDcs { host, reached: true },
            ["fits"] => Fault::Fit { host, fits: true },
            ["fits", "no", "more"] => Fault::Fit { host, fits: false },
            ["crashes"] => Fault::Crash { host },
            ["starts"] => Fault::Start { host },
            ["stops"] => Fault::Stop { host },
            ["continues"] => Fault::Continue { host },
            ["exits"] => Fault::Exit { host },
            ["sleeps", time] => Fault::Suspend { host, span: span(time)? },
            ["loses", "power"] => Fault::Power { host, on: false },
            ["link", "down"] => Fault::Link { host, up: false },
            ["link", "up"] => Fault::Link { host, up: true },
            ["link", "vanishes"] => Fault::LinkGone { host },
            ["link", "fails", "over"] => {
                let link = self.hosts[host].link;
                self.push_core(host, 0, Core::Event(VipEvent::Link { link, notify: true }));
                return Ok(());
            }
            ["mac", "changes"] => Fault::MacChanges { host },
            ["address", "deleted"] => Fault::Deleted { host },
            ["address", "made", "permanent"] => Fault::Permanent { host },
            ["puts", "fail"] => Fault::Puts { host, fail: true },
            ["puts", "work"] => Fault::Puts { host, fail: false },
            ["removals", how] => {
                self.hosts[host].removes_fail = *how == "fail";
                return Ok(());
            }
            ["marks", "fail"] => Fault::Marks { host, fail: true },
            ["marks", "work"] => Fault::Marks { host, fail: false },
            ["sessions", "never", "end"] => Fault::Sessions { host, take: None },
            ["sessions", "take", time] => Fault::Sessions { host, take: Some(span(time)?) },
            ["patroni", word] => {
                self.hosts[host].word = if *word == "leads" { Word::Leads } else { Word::Denies };
                return Ok(());
            }
            ["has", whose, "address", rest @ ..] => return self.lay_address(host, whose, rest),
            ["loses", "foreign", "address"] => {
                self.hosts[host].foreign = false;
                self.show_entries(host);
                return Ok(());
            }
            _ => return Err(unknown(words)),
        };
        self.happen(fault);
        Ok(())
    }

    /// `own address for 4s`, `own address for ever`, `foreign address`.
    fn lay_address(&mut self, host: usize, whose: &str, rest: &[&str]) -> Result<(), String> {
        if whose == "foreign" {
            self.hosts[host].foreign = true;
            self.show_entries(host);
            return Ok(());
        }
        self.next_id += 1;
        let id = self.next_id;
        let ends = match rest {
            ["for", "ever"] => None,
            ["for", time] => Some(self.now + span(time)?),
            _ => return Err("for how long?".to_owned()),
        };
        self.hosts[host].address = Some(Address { id, is_ours: whose == "own", ends: ends.map(|end| (end, end)) });
        if let Some(end) = ends {
            self.push(end, super::world::Act::Expires { host, id });
        }
        self.show_entries(host);
        Ok(())
    }

    /// `since`: when the latest `at` was.
    pub fn see(&self, words: &[&str], since: Micros) -> Result<bool, String> {
        match words {
            ["nobody", "has", "address"] => Ok(self.hosts.iter().all(|host| host.address.is_none())),
            ["no", "mark"] => Ok(self.dcs.mark.is_none()),
            ["mark", "of", name] => {
                let host = self.host(name)?;
                Ok(self.dcs.mark.as_ref().is_some_and(|mark| mark.holder == self.hosts[host].name.as_str()))
            }
            [name, rest @ ..] => self.see_host(self.host(name)?, rest, since),
            [] => Err("nothing to be seen".to_owned()),
        }
    }

    fn see_host(&self, host: usize, words: &[&str], since: Micros) -> Result<bool, String> {
        let h = &self.hosts[host];
        let count = |moments: &[Micros]| moments.iter().filter(|at| **at >= since).count();
        let told = |words: &[&str]| {
            let text = words.join(" ");
            h.told.iter().any(|(at, line)| *at >= since && line.contains(&text))
        };
        let snapshot = h.vip.as_ref().map(Vip::snapshot);
        Ok(match words {
            ["has", "address"] => h.address.is_some(),
            ["lacks", "address"] => h.address.is_none(),
            ["has", "only", "foreign", "address"] => h.address.is_none() && h.foreign,
            ["ended"] => h.vip.is_none(),
            ["because", reason] => snapshot.is_some_and(|s| s.reason.as_str() == *reason),
            ["unfenced"] => snapshot.is_some_and(|s| s.is_unfenced),
            ["fenced"] => snapshot.is_some_and(|s| !s.is_unfenced),
            ["told", what @ ..] => told(what),
            ["silent", "of", what @ ..] => !told(what),
            ["announced", times, "times"] => count(&h.announcements).to_string() == *times,
            ["probed", times, "times"] => count(&h.probes).to_string() == *times,
            ["put", "for", time] => h.puts.last().map(|(_, valid)| *valid * SEC) == Some(span(time)?),
            ["put", times, "times"] => {
                let moments: Vec<Micros> = h.puts.iter().map(|(at, _)| *at).collect();
                count(&moments).to_string() == *times
            }
            ["sessions", "closed"] => h.closed,
            ["sessions", "kept"] => !h.closed,
            [state] if snapshot.is_some() => snapshot.is_some_and(|s| s.state.as_str() == *state),
            _ => return Err(unknown(words)),
        })
    }
}
