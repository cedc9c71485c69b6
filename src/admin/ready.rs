//! Whether a load balancer should send clients here.

use crate::decide::DcsState;
use crate::model::Role;

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
    if snapshot.dcs.state == DcsState::Starting && snapshot.lead.open.is_none() {
        return Err(format!("{}: {}", report.name, snapshot.lead.reason.sentence()));
    }
    Ok(())
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
