//! Whether a load balancer should send clients here.

use crate::decide::{DcsState, Snapshot};
use crate::model::{AdminState, Role, Trust};

use super::{ClusterReport, Lifecycle};

/// Ready, or why not.
pub fn ready(lifecycle: &Lifecycle, reports: &[ClusterReport], role: Option<Role>) -> Result<(), String> {
    if lifecycle.is_stopping() {
        return Err("shutting down".to_owned());
    }
    reports.iter().try_for_each(|report| match role {
        None => knows_its_cluster(report),
        Some(role) => serves(report, role),
    })
}

fn knows_its_cluster(report: &ClusterReport) -> Result<(), String> {
    let snapshot = &report.snapshot;
    if snapshot.lead.open.is_some() {
        return Ok(());
    }
    match snapshot.trust {
        Trust::Confirm if snapshot.dcs.state == DcsState::Starting => {
            Err(format!("{}: {}", report.name, snapshot.lead.reason.sentence()))
        }
        Trust::Confirm => Ok(()),
        Trust::Rest => asked_everybody(snapshot).map_err(|why| format!("{}: {why}", report.name)),
    }
}

/// Without a DCS the members' checks are all there is to know: each has to have ended once, whatever it
/// said. A member without any check (no service could use it, or it is in maintenance) is not waited for.
fn asked_everybody(snapshot: &Snapshot) -> Result<(), String> {
    let in_use = || snapshot.members.iter().filter(|member| member.admin != AdminState::Maint);
    let mut known = snapshot.members.iter().any(|member| member.admin == AdminState::Maint) && in_use().count() == 0;
    for member in in_use() {
        if member.checks.iter().any(|check| check.up.is_none()) {
            return Err(format!("{} has not been checked yet", member.name));
        }
        known |= !member.checks.is_empty();
    }
    if known { Ok(()) } else { Err("no member has been checked yet".to_owned()) }
}

fn serves(report: &ClusterReport, role: Role) -> Result<(), String> {
    let mut of_role = report.snapshot.routes.services.iter().filter(|s| s.spec.role == role).peekable();
    if of_role.peek().is_none() {
        return Err(format!("{}: no service has the role {role}", report.name));
    }
    of_role.try_for_each(|service| match service.wait {
        None => Ok(()),
        Some((reason, _)) => Err(format!("{}/{}: {}", report.name, service.spec.name, reason.sentence())),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::decide::status::MemberSnapshot;
    use crate::decide::{CheckSnapshot, Memory, Router};
    use crate::model::service::{OnDcsLoss, WEIGHT_DEFAULT};
    use crate::model::{CheckStatus, CheckTiming, ClusterSpec, Reason};
    use crate::runtime::clock;

    fn check(up: Option<bool>) -> CheckSnapshot {
        let status = if up.is_none() { CheckStatus::Initializing } else { CheckStatus::L7Ok };
        CheckSnapshot {
            spec: None,
            up,
            status,
            code: None,
            took: Duration::ZERO,
            points: 2,
            rise: 3,
            fall: 3,
            failures: 0,
            downs: 0,
            down_for: Duration::ZERO,
            since: clock::now(),
            reason: Reason::NotChecked,
            problem: String::new(),
        }
    }

    fn member(name: &str, admin: AdminState, checks: &[Option<bool>]) -> MemberSnapshot {
        MemberSnapshot {
            name: name.into(),
            conn: None,
            api: None,
            has_key: false,
            up: None,
            reason: Reason::NotChecked,
            since: clock::now(),
            role: None,
            state: None,
            timeline: None,
            lag: None,
            proof: None,
            doubt: Reason::NotChecked,
            tags: Default::default(),
            admin,
            weight: WEIGHT_DEFAULT,
            check: None,
            checks: checks.iter().map(|up| check(*up)).collect(),
        }
    }

    fn readiness(trust: Trust, members: Vec<MemberSnapshot>) -> Result<(), String> {
        let spec = ClusterSpec {
            name: "pg".into(),
            scope: "pg".into(),
            namespace: String::new(),
            group: None,
            trust,
            on_dcs_loss: OnDcsLoss::Keep,
            check: CheckTiming::default(),
            members: Default::default(),
            services: Vec::new(),
        };
        let mut snapshot = Router::new(Arc::new(spec), Memory::default(), clock::now()).snapshot();
        snapshot.members = members;
        let report = ClusterReport {
            name: "pg".into(),
            namespace: String::new(),
            snapshot: Arc::new(snapshot),
            services: Vec::new(),
            trouble: None,
        };
        ready(&Lifecycle::default(), &[report], None)
    }

    #[test]
    fn without_a_dcs_it_is_ready_when_everybody_was_asked_once() {
        use AdminState::{Maint, Ready};
        let said = |members| readiness(Trust::Rest, members);
        let down = || member("n1", Ready, &[Some(false), Some(true)]);
        assert_eq!(said(vec![]), Err("pg: no member has been checked yet".to_owned()));
        assert_eq!(said(vec![member("n1", Ready, &[])]), Err("pg: no member has been checked yet".to_owned()));
        let waits = said(vec![down(), member("n2", Ready, &[Some(true), None])]);
        assert_eq!(waits, Err("pg: n2 has not been checked yet".to_owned()));
        assert_eq!(said(vec![down()]), Ok(()));
        assert_eq!(said(vec![down(), member("n2", Maint, &[None]), member("unused", Ready, &[])]), Ok(()));
        assert_eq!(said(vec![member("n1", Maint, &[])]), Ok(()));
    }

    #[test]
    fn with_a_dcs_its_first_view_decides() {
        let checked = vec![member("n1", AdminState::Ready, &[Some(true)])];
        assert!(readiness(Trust::Confirm, checked).unwrap_err().contains("no view of the cluster yet"));
    }
}
