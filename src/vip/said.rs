//! One log line for each change of a virtual address, with its reason.
//!
//! Three of them begin as vip-manager's do (its room ipmanager/, 3.0 and newer), at the same level, for those who
//! grep its log.

use crate::decide::vip::{VipState, VipTransition};
use crate::model::{Reason, VipOnDcsLoss, VipSpec};

/// Writes the line for one transition.
pub fn vip(cluster: &str, spec: &VipSpec, transition: &VipTransition) {
    let (address, interface) = (spec.address, &*spec.interface);
    match transition {
        VipTransition::Wanted { up, reason } => {
            let (is, must) = if *up { ("down", "up") } else { ("up", "down") };
            tracing::info!(
                target: "pgvane::vip", cluster, %address, interface, %reason,
                "IP address {address} is {is}, must be {must}: {}", reason.sentence()
            );
        }
        VipTransition::State { from, to, reason } => state(cluster, spec, (*from, *to), *reason),
        VipTransition::Occupied { mac } => {
            tracing::warn!(
                target: "pgvane::vip", cluster, %address, interface, %mac, reason = %Reason::Occupied,
                "{mac} still answers for {address}: it is not taken before that host's lease must be over"
            );
        }
        VipTransition::Conflict { mac, released: false } => {
            tracing::warn!(
                target: "pgvane::vip", cluster, %address, interface, %mac, reason = %Reason::Conflict,
                "{mac} says that it has {address}, which is ours: it is announced again"
            );
        }
        VipTransition::Conflict { mac, released: true } => {
            tracing::error!(
                target: "pgvane::vip", cluster, %address, interface, %mac, reason = %Reason::Conflict,
                "{mac} says that it has {address}, and nothing fresh says that it is ours: it is released"
            );
        }
        VipTransition::Adopted => {
            tracing::info!(
                target: "pgvane::vip", cluster, %address, interface,
                "{address} was on {interface} already and is taken over as it is"
            );
        }
        VipTransition::Repaired { deleted } => {
            let what = if *deleted { "removed" } else { "changed the lifetime of" };
            tracing::warn!(
                target: "pgvane::vip", cluster, %address, interface, deleted,
                "somebody else {what} {address}: it is back on {interface}"
            );
        }
        VipTransition::Foreign { interface: there, prefix } => {
            tracing::error!(
                target: "pgvane::vip", cluster, %address, interface = %there, reason = %Reason::ForeignAddress,
                "{}/{prefix} is on {there} already and was not put there by us: remove it, or set `adopt`",
                address.ip
            );
        }
        VipTransition::Unconfirmed { .. } | VipTransition::Confirmed => confirmation(cluster, spec, transition),
        VipTransition::Problem { what, problem } => {
            tracing::warn!(
                target: "pgvane::vip", cluster, %address, interface, what, problem,
                "could not {what} ({address} on {interface}): {problem}"
            );
        }
        VipTransition::Slept { for_ } => {
            let seconds = for_.as_secs_f64();
            tracing::error!(
                target: "pgvane::vip", cluster, %address, interface, seconds, reason = %Reason::MachineSlept,
                "the machine was suspended for {seconds:.1} s, so {address} is released before anything is asked"
            );
        }
    }
}

fn state(cluster: &str, spec: &VipSpec, (from, to): (VipState, VipState), reason: Reason) {
    let (address, interface) = (spec.address, &*spec.interface);
    let because = reason.sentence();
    let what = match (from, to) {
        (_, VipState::Held) => format!("Configuring address {address} on {interface}"),
        (_, VipState::Releasing) => format!("Removing address {address} on {interface}"),
        // The kernel was first.
        (VipState::Held, VipState::Released) => format!("{address} is gone from {interface}"),
        (VipState::Releasing, VipState::Released) => format!("{address} is released"),
        (_, VipState::Released) => format!("{address} is not held here"),
        (_, VipState::Claiming) => format!("{address} is claimed, and not yet on {interface}"),
        (_, VipState::Starting) => format!("{address} is left as it is"),
    };
    let (from, to) = (from.as_str(), to.as_str());
    tracing::info!(target: "pgvane::vip", cluster, %address, interface, from, to, %reason, "{what}: {because}");
}

/// What the right to a held address rests on.
fn confirmation(cluster: &str, spec: &VipSpec, transition: &VipTransition) {
    let (address, interface) = (spec.address, &*spec.interface);
    match transition {
        VipTransition::Unconfirmed { fenced: true } => {
            let policy = match spec.on_dcs_loss {
                VipOnDcsLoss::KeepWhilePatroniLeads => "and longer only while the local Patroni vouches for its member",
                VipOnDcsLoss::Release => "and no longer than its grace",
                VipOnDcsLoss::Hold => "and is renewed all the same",
            };
            tracing::warn!(
                target: "pgvane::vip", cluster, %address, interface, fenced = true, reason = %Reason::DcsStale,
                "{address} stays for what is left of its lease, {policy}: {}", Reason::DcsStale.sentence()
            );
        }
        VipTransition::Unconfirmed { fenced: false } => {
            tracing::error!(
                target: "pgvane::vip", cluster, %address, interface, fenced = false, reason = %Reason::Unfenced,
                "{address} is held and NOT FENCED, another host may have it at the same time: {}",
                Reason::Unfenced.sentence()
            );
        }
        _ => tracing::info!(target: "pgvane::vip", cluster, %address, interface, "the DCS confirms {address} again"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::model::{Mac, VipAddress};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The line without its time: level, target, message, fields.
    fn line(transition: &VipTransition) -> String {
        let page = Page::default();
        let written = page.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).without_time().with_max_level(tracing::Level::TRACE);
        tracing::subscriber::with_default(lines.with_writer(move || written.clone()).finish(), || {
            let address = VipAddress::single("10.0.2.123".parse().unwrap());
            vip("pg", &VipSpec::new(address, "eth0", "pg"), transition);
        });
        let text = String::from_utf8(page.0.lock().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        text.trim().to_owned()
    }

    fn all() -> Vec<VipTransition> {
        let mac = Mac([2, 0, 0, 0, 0, 0xab]);
        let mut all = vec![
            VipTransition::Occupied { mac },
            VipTransition::Conflict { mac, released: false },
            VipTransition::Conflict { mac, released: true },
            VipTransition::Adopted,
            VipTransition::Repaired { deleted: true },
            VipTransition::Repaired { deleted: false },
            VipTransition::Foreign { interface: "eth7".into(), prefix: 24 },
            VipTransition::Unconfirmed { fenced: true },
            VipTransition::Unconfirmed { fenced: false },
            VipTransition::Confirmed,
            VipTransition::Problem { what: "put the address", problem: "EPERM".to_owned() },
            VipTransition::Slept { for_: Duration::from_secs(90) },
        ];
        for from in VipState::ALL {
            let state = |to| VipTransition::State { from, to, reason: Reason::RoleHeld };
            all.extend(VipState::ALL.into_iter().filter(|to| *to != from).map(state));
        }
        all
    }

    /// What a grep for vip-manager's own words finds.
    fn found(words: &str) -> Vec<String> {
        let wanted = [true, false].map(|up| VipTransition::Wanted { up, reason: Reason::RoleHeld });
        let lines = wanted.iter().chain(&all()).map(line).collect::<Vec<_>>();
        lines.into_iter().filter(|line| line.contains(words)).collect()
    }

    #[test]
    fn what_people_grep_vip_managers_log_for_is_said_at_info() {
        let once = [
            "INFO pgvane::vip: IP address 10.0.2.123/32 is down, must be up",
            "INFO pgvane::vip: IP address 10.0.2.123/32 is up, must be down",
        ];
        for words in once {
            assert_eq!(found(words).len(), 1, "{words}");
        }
        let configured = found("INFO pgvane::vip: Configuring address 10.0.2.123/32 on eth0");
        assert!(!configured.is_empty() && configured.iter().all(|line| line.contains("to=\"held\"")), "{configured:?}");
        let removed = found("INFO pgvane::vip: Removing address 10.0.2.123/32 on eth0");
        assert!(!removed.is_empty() && removed.iter().all(|line| line.contains("to=\"releasing\"")), "{removed:?}");
        for (words, lines) in [("Configuring address", configured), ("Removing address", removed)] {
            assert_eq!(found(words), lines, "nothing else says so");
        }
    }

    #[test]
    fn every_line_names_address_interface_and_reason() {
        for transition in all() {
            let line = line(&transition);
            for field in ["cluster=\"pg\"", "address=10.0.2.123/32", "interface="] {
                assert!(line.contains(field), "no {field}: {line}");
            }
            let has_none = matches!(
                transition,
                VipTransition::Adopted
                    | VipTransition::Confirmed
                    | VipTransition::Repaired { .. }
                    | VipTransition::Problem { .. }
            );
            assert_eq!(line.contains("reason="), !has_none, "{line}");
        }
        let words =
            line(&VipTransition::State { from: VipState::Held, to: VipState::Releasing, reason: Reason::Shutdown });
        assert!(words.contains("the router is shutting down") && words.contains("reason=shutdown"), "{words}");
        let foreign = line(&VipTransition::Foreign { interface: "eth7".into(), prefix: 24 });
        assert!(foreign.contains("10.0.2.123/24 is on eth7") && foreign.contains("interface=eth7"), "{foreign}");
    }
}
