//! The virtual addresses, in the status and as metrics.

use std::time::Instant;

use serde_json::{Value, json};

use super::exposition::{Family, Labelled, Page, States, counter, gauge, number};
use super::status::since;
use crate::decide::vip::{VipSnapshot, VipState};
use crate::model::MemberName;

/// One address, with ages instead of clock times.
pub fn status(vip: &VipSnapshot, now: Instant) -> Value {
    let spec = &vip.spec;
    json!({
        "address": spec.address.to_string(),
        "interface": &*spec.interface,
        "cluster": &*spec.cluster,
        "member": spec.member.as_ref().map(MemberName::as_str),
        "role": spec.role.as_str(),
        "state": vip.state.as_str(),
        "reason": vip.reason.as_str(),
        "because": vip.reason.sentence(),
        "since_s": since(vip.since, now),
        "holder": vip.holder.as_deref(),
        "lease_left_s": lease_left(vip, now),
        "unfenced": vip.is_unfenced,
        "last_announcement_age_s": vip.announced_at.map(|at| since(at, now)),
        "announcements": vip.announcements,
        "claims": vip.claims,
        "releases": vip.releases,
        "repairs": vip.repairs,
        "conflicts": vip.conflicts,
        "conflict_mac": vip.conflict_mac.map(|mac| mac.to_string()),
        "mac": vip.mac.map(|mac| mac.to_string()),
        "on_dcs_loss": spec.on_dcs_loss.as_str(),
        "problem": vip.problem,
    })
}

/// Metrics in the text format; nothing where there are no addresses.
pub fn render(vips: &[VipSnapshot], now: Instant) -> String {
    let mut page = Page::default();
    if !vips.is_empty() {
        let rows: Vec<Row<'_>> =
            vips.iter().map(|vip| Row { vip, address: vip.spec.address.to_string(), now }).collect();
        page.states(&Row::STATES, &rows);
        Row::FAMILIES.iter().for_each(|family| page.family(family, &rows));
    }
    page.into_text()
}

/// Seconds. None: it is not on the interface.
fn lease_left(vip: &VipSnapshot, now: Instant) -> Option<f64> {
    vip.lease_end.map(|end| end.saturating_duration_since(now).as_secs_f64())
}

struct Row<'a> {
    vip: &'a VipSnapshot,
    address: String,
    now: Instant,
}

impl Labelled for Row<'_> {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        let spec = &self.vip.spec;
        vec![("address", &self.address), ("interface", &spec.interface), ("cluster", &spec.cluster)]
    }
}

/// The words of [`VipState::ALL`].
const WORDS: &[&str] = &["starting", "released", "claiming", "held", "releasing"];

impl<'a> Row<'a> {
    const STATES: States<Self> = States {
        name: "pgvane_vip_state",
        help: "1 for the state that the address is in.",
        words: WORDS,
        value: |row, word| Some(switch(row.vip.state.as_str() == word)),
    };

    const FAMILIES: &'a [Family<Self>] = &[
        gauge("pgvane_vip_held", "1 while this host holds the address.", |row| {
            Some(switch(row.vip.state == VipState::Held))
        }),
        gauge("pgvane_vip_state_age_seconds", "Time in this state.", |row| Some(since(row.vip.since, row.now))),
        gauge(
            "pgvane_vip_lease_left_seconds",
            "When the kernel removes the address unless it is renewed; none where it is not on the interface.",
            |row| lease_left(row.vip, row.now),
        ),
        gauge(
            "pgvane_vip_unfenced",
            "1 while it is held without a view of the DCS and nothing bounds what another host does.",
            |row| Some(switch(row.vip.is_unfenced)),
        ),
        gauge("pgvane_vip_last_announcement_age_seconds", "Age of the last announcement to the neighbours.", |row| {
            row.vip.announced_at.map(|at| since(at, row.now))
        }),
        counter("pgvane_vip_announcements_total", "Announcements to the neighbours.", |row| {
            Some(number(row.vip.announcements))
        }),
        counter("pgvane_vip_claims_total", "Claims that led to the address being held.", |row| {
            Some(number(row.vip.claims))
        }),
        counter("pgvane_vip_releases_total", "Releases.", |row| Some(number(row.vip.releases))),
        counter(
            "pgvane_vip_repairs_total",
            "Times that somebody else removed or changed it and it was put back.",
            |row| Some(number(row.vip.repairs)),
        ),
        counter(
            "pgvane_vip_conflicts_total",
            "Frames of another host that said that it has the held address.",
            |row| Some(number(row.vip.conflicts)),
        ),
    ];
}

fn switch(on: bool) -> f64 {
    f64::from(u8::from(on))
}
