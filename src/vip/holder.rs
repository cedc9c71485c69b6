//! One task per address: the machine, and what it acts through.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::decide::vip::VipSnapshot;
use crate::model::{MemberName, VipRight, VipSpec};

use super::{Marks, Tenants};

/// What the task of one address needs.
pub struct Holding {
    pub spec: Arc<VipSpec>,
    pub me: MemberName,
    pub rights: watch::Receiver<VipRight>,
    pub tenants: Arc<dyn Tenants>,
    pub marks: Arc<dyn Marks>,
    pub snapshot: Arc<ArcSwap<VipSnapshot>>,
}

/// Holds the address whenever it is to be held, and releases it after `exit`.
///
/// # Errors
/// What ended it.
pub async fn hold(holding: Holding, exit: CancellationToken) -> Result<(), String> {
    let _ = holding;
    exit.cancelled().await;
    Ok(())
}

/// Looks at the interface and its addresses before anything is done: warnings, or what makes it impossible.
///
/// # Errors
/// One sentence for each thing that an operator has to change.
pub async fn examine(spec: &VipSpec) -> Result<Vec<String>, Vec<String>> {
    let _ = spec;
    Ok(Vec::new())
}
