//! Requests to the kernel and their answers, over one socket that is opened anew when it fails.
//!
//! Every request asks for an acknowledgement: an answer that only ends, as a broken socket's does, is none.

use std::num::NonZeroI32;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use nix::errno::Errno;
use parking_lot::Mutex;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    parse_string,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::error::Refusal;

/// For one answer. The kernel gives it within the system call that asks, as soon as it has its network lock.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Between two attempts to open a socket.
pub(super) const REOPEN_PAUSE: Duration = Duration::from_millis(200);
/// A list during whose reading something changed is read again, so many times in all.
const DUMPS_MAX: usize = 4;
/// In an extended ACK, include/uapi/linux/netlink.h: NLMSGERR_ATTR_MSG.
const ATTRIBUTE_WORDS: u16 = 1;
const NETLINK_HEADER_BYTES: usize = 16;

type Message = NetlinkMessage<RouteNetlinkMessage>;

#[derive(Debug)]
pub(super) struct Requests {
    handle: Arc<Mutex<Handle>>,
    task: JoinHandle<()>,
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Requests {
    pub(super) fn open() -> std::io::Result<Requests> {
        let (handle, serving) = connect()?;
        let handle = Arc::new(Mutex::new(handle));
        let task = tokio::spawn(serve(handle.clone(), serving));
        Ok(Requests { handle, task })
    }

    /// Asks for a change, or for one thing: what the kernel said before its acknowledgement.
    pub(super) async fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        self.once(message, NLM_F_REQUEST | NLM_F_ACK | flags).await
    }

    /// Asks for a list.
    pub(super) async fn list(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        for _ in 1..DUMPS_MAX {
            match self.once(message.clone(), NLM_F_REQUEST | NLM_F_DUMP).await {
                Err(Refusal::Unsteady) => {}
                answer => return answer,
            }
        }
        self.once(message, NLM_F_REQUEST | NLM_F_DUMP).await
    }

    async fn once(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let answers = self.handle.lock().request(request).map_err(|_| Refusal::Closed)?;
        match timeout(ANSWER_MAX, collect(answers)).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::Late(ANSWER_MAX)),
        }
    }
}

async fn collect(answers: impl futures_util::Stream<Item = Message>) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
    let mut answers = std::pin::pin!(answers);
    let (mut said, mut is_steady) = (Vec::new(), true);
    while let Some(answer) = answers.next().await {
        is_steady &= answer.header.flags & NLM_F_DUMP_INTR == 0;
        let code = match &answer.payload {
            NetlinkPayload::InnerMessage(_) => None,
            NetlinkPayload::Error(error) => Some(error.code.map_or(0, NonZeroI32::get)),
            NetlinkPayload::Done(done) => Some(done.code),
            _ => continue,
        };
        match (code, answer.payload) {
            (None, NetlinkPayload::InnerMessage(message)) => said.push(message),
            (Some(0), _) if is_steady => return Ok(said),
            (Some(0), _) => return Err(Refusal::Unsteady),
            (Some(code), NetlinkPayload::Error(error)) => return Err(Refusal::Errno(errno(code), words(&error))),
            (code, _) => return Err(Refusal::Errno(errno(code.unwrap_or(0)), String::new())),
        }
    }
    Err(Refusal::Closed)
}

/// The kernel says them negative.
fn errno(code: i32) -> Errno {
    Errno::from_raw(code.saturating_neg())
}

/// What the kernel adds in English. The request's header is before it, and nothing more of the request (NETLINK_CAP_ACK).
fn words(error: &ErrorMessage) -> String {
    let attributes = error.header.get(NETLINK_HEADER_BYTES..).unwrap_or_default();
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == ATTRIBUTE_WORDS)
        .and_then(|attribute| parse_string(attribute.value()).ok())
        .unwrap_or_default()
}

/// What moves bytes between the handle and the socket until that fails.
type Serving = futures_util::future::BoxFuture<'static, ()>;

fn connect() -> std::io::Result<(Handle, Serving)> {
    let (mut connection, handle, _) = rtnetlink::new_connection()?;
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    let socket = rtnetlink::proto::sys::AsyncSocket::socket_mut(connection.socket_mut());
    // Words and short answers are a comfort: a kernel that knows neither does without.
    let _ = (socket.set_cap_ack(true), socket.set_ext_ack(true));
    Ok((handle, Box::pin(connection)))
}

async fn serve(handle: Arc<Mutex<Handle>>, mut serving: Serving) {
    loop {
        serving.await;
        serving = loop {
            sleep(REOPEN_PAUSE).await;
            if let Ok((fresh, serving)) = connect() {
                *handle.lock() = fresh;
                break serving;
            }
        };
    }
}
