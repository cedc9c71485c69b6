//! A client without a session whose address leaves this host.

use crate::model::Reason;
use crate::proxy::premises::Leaving;
use crate::proxy::protocol::startup::Kind;
use crate::proxy::protocol::words;
use crate::proxy::timers::timeout_at;

use super::Handshake;

impl Handshake<'_> {
    /// Tells what there is time for; then the socket may be closed.
    pub(super) async fn leave(&mut self, leaving: &Leaving) -> Reason {
        let _ = timeout_at(leaving.until(), self.tell_of(leaving)).await;
        leaving.see_off(&self.client.stream).await;
        Reason::VipReleased
    }

    async fn tell_of(&mut self, leaving: &Leaving) {
        if self.was_told || !self.understands_errors().await {
            return;
        }
        let message = format!("the address {} moves to another host", leaving.ip());
        let detail = format!("Service {}: {}.", self.service.name, leaving.reason().sentence());
        let words = words::fatal(words::CANNOT_CONNECT_NOW, &message, &detail, "Connect again.");
        if self.client.tell(&words).await.is_ok() {
            self.service.counters.told.add(words::CANNOT_CONNECT_NOW);
        }
    }

    /// Before it has been told whether there is encryption it would not.
    async fn understands_errors(&mut self) -> bool {
        loop {
            let answered = match self.asked {
                Some(Kind::Startup) => return true,
                Some(Kind::DirectTls | Kind::Cancel) => return false,
                Some(Kind::Ssl | Kind::GssEnc) => self.deny().await.is_ok(),
                None => self.hear().await.is_ok(),
            };
            if !answered {
                return false;
            }
        }
    }
}
