//! What a client is told whose session ends, and not by its own will.

use crate::model::{MemberName, Reason};

use super::protocol::conversation::Standing;
use super::protocol::words;

/// Why a session ended, and what that means for its client.
#[derive(Debug)]
pub(super) struct Parting {
    pub reason: Reason,
    pub standing: Standing,
    pub member: MemberName,
}

impl Parting {
    pub fn sqlstate(&self) -> &'static str {
        words::parting(self.standing)
    }

    pub fn words(&self, service: &str) -> Vec<u8> {
        let Parting { reason, member, .. } = self;
        let message = format!("terminating connection to {member}: {}", reason.sentence());
        let (consequence, hint) = self.consequence();
        let detail = format!("Service {service}, member {member}: {consequence}");
        words::fatal(self.sqlstate(), &message, &detail, hint)
    }

    /// What has become of the client's work, and what it should do.
    fn consequence(&self) -> (&'static str, &'static str) {
        match self.standing {
            Standing::Startup => ("the session had not begun.", "Connect again."),
            Standing::Idle => ("no transaction was open.", "Connect again."),
            Standing::InTransaction { .. } => {
                ("the transaction was rolled back.", "Connect again and repeat the transaction.")
            }
            Standing::Unknown => (
                "what was under way may have been committed, or not.",
                "Connect again, and check whether it was committed before you repeat it.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_name_what_happened_where_and_what_to_do() {
        let words = |standing| {
            let parting = Parting { reason: Reason::LeaderMoved, standing, member: "pg-test-1".into() };
            // The length in front is no text.
            String::from_utf8_lossy(&parting.words("primary")).into_owned()
        };
        let cut = words(Standing::InTransaction { busy: true });
        assert!(cut.contains("C08006\0"), "{cut}");
        assert!(cut.contains("Mterminating connection to pg-test-1: the leader key names another member\0"), "{cut}");
        assert!(cut.contains("DService primary, member pg-test-1: the transaction was rolled back.\0"), "{cut}");
        assert!(cut.contains("HConnect again and repeat the transaction.\0"), "{cut}");
        let doubtful = words(Standing::Unknown);
        assert!(doubtful.contains("C08007\0") && doubtful.contains("check whether it was committed"), "{doubtful}");
    }
}
