//! What Patroni wrote to the DCS, read and watched.
//!
//! [`patroni`] knows the key dialect and nothing else; [`etcd`] keeps one session per etcd cluster and
//! feeds any number of Patroni clusters from it.

pub mod etcd;
pub mod patroni;
pub mod place;
mod values;

use std::sync::Arc;

use crate::decide::ViewSource;
use crate::model::ClusterView;

/// What a session tells about one Patroni cluster.
#[derive(Debug, Clone)]
pub enum DcsEvent {
    View {
        view: Arc<ClusterView>,
        source: ViewSource,
    },
    /// For status and log. Bounded in rate and length; the next view tells that it is over.
    Trouble {
        endpoint: String,
        problem: String,
    },
}

/// Cuts a text from outside down to what fits a log line.
fn bounded(text: &str, chars_max: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(chars_max).map(clean).collect();
    if text.chars().nth(chars_max).is_some() {
        short.push('…');
    }
    short
}
