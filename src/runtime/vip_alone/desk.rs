//! Where everything that is heard of the right to the address comes together.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::dcs::DcsEvent;
use crate::decide::trigger::{Answer, Trigger, Word};
use crate::model::{MemberName, VipRight};
use crate::runtime::clock;

/// The session's names for the two keys.
pub(super) const KEY: usize = 0;
pub(super) const MARK: usize = 1;

pub(super) struct Desk {
    state: Mutex<State>,
    rights: watch::Sender<VipRight>,
}

struct State {
    trigger: Trigger,
    value: Arc<str>,
    /// What was said last of the key's value; None: nothing yet.
    said: Option<Option<MemberName>>,
    /// That the hand-over key cannot be read.
    no_mark_said: bool,
}

impl Desk {
    /// `value` is what must be found for the address to be ours.
    pub fn open(value: &str, ip: IpAddr) -> (Arc<Desk>, watch::Receiver<VipRight>) {
        let trigger = Trigger::new(value, ip);
        let (rights, receiver) = watch::channel(trigger.right());
        let state = Mutex::new(State { trigger, value: value.into(), said: None, no_mark_said: false });
        (Arc::new(Desk { state, rights }), receiver)
    }

    /// What must be found, to the letter.
    pub fn value(&self) -> Arc<str> {
        self.state.lock().value.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Trigger)) {
        let mut state = self.state.lock();
        change(&mut state.trigger);
        let right = state.trigger.right();
        // Under the lock, so that rights go out in the order in which they came to be.
        self.rights.send_if_modified(|known| {
            let is_new = *known != right;
            *known = right;
            is_new
        });
    }

    /// What the session tells; it must not wait.
    pub fn hear(&self, id: usize, event: DcsEvent) {
        let now = clock::now();
        match event {
            DcsEvent::View { view, source } if id == KEY => {
                self.change(|trigger| trigger.see_key(view, &source, now));
                self.say_leader();
            }
            DcsEvent::View { view, source } => self.change(|trigger| trigger.see_mark(view, &source, now)),
            DcsEvent::Trouble { endpoint, problem } if id == KEY => {
                tracing::warn!(target: "pgvane::dcs", endpoint, "etcd error: {problem}");
            }
            DcsEvent::Trouble { problem, .. } => self.say_no_mark(&problem),
        }
    }

    pub fn answer(&self, answer: Answer, sent_at: Instant) {
        self.change(|trigger| trigger.see_answer(answer, sent_at));
    }

    pub fn word(&self, word: Word, sent_at: Instant) {
        self.change(|trigger| trigger.hear(word, sent_at));
    }

    pub fn needs_word_from(&self) -> Option<Instant> {
        self.state.lock().trigger.needs_word_from()
    }

    /// Tells of every right from now on.
    pub fn rights(&self) -> watch::Receiver<VipRight> {
        self.rights.subscribe()
    }

    /// Once: whoever may not read it may not read it for years.
    fn say_no_mark(&self, problem: &str) {
        if !std::mem::replace(&mut self.state.lock().no_mark_said, true) {
            tracing::info!(
                target: "pgvane::dcs",
                "the hand-over key cannot be read, so the network is asked before each claim: {problem}"
            );
        }
    }

    fn say_leader(&self) {
        let mut state = self.state.lock();
        let leader = state.trigger.leader().cloned();
        if !state.trigger.is_known() || state.said.as_ref() == Some(&leader) {
            return;
        }
        say_leader(leader.as_ref());
        state.said = Some(leader);
    }
}

/// The line that users of vip-manager look for.
pub(super) fn say_leader(leader: Option<&MemberName>) {
    match leader {
        Some(name) => tracing::info!(target: "pgvane::dcs", "Current Leader from DCS: {name}"),
        None => {
            tracing::info!(target: "pgvane::dcs", "No value found for the trigger key - DCS may not have set it yet")
        }
    }
}
