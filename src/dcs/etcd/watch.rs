//! One stream that watches every place. It ends at the first thing that is not as it should be;
//! what it missed is then read, never resumed.

use std::time::Duration;

use etcd_client::{Client, Event, EventType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Message;
use super::link::{ANSWER_BYTES_MAX, describe, raw_key};
use crate::dcs::patroni::Change;
use crate::dcs::place::Place;

/// Until the stream stands and every place is confirmed.
const OPEN_MAX: Duration = Duration::from_secs(2);

/// Where the watch of one place begins.
pub(super) struct Start {
    /// The number of the place.
    pub index: usize,
    pub place: Place,
    pub revision: i64,
}

/// Forwards events as [`Message::Events`] until something ends it; returns what that was.
pub(super) async fn watch(client: Client, starts: Vec<Start>, serial: u64, out: mpsc::Sender<Message>) -> String {
    let (sender, mut stream) = match timeout(OPEN_MAX, open(&client, &starts)).await {
        Ok(Ok(halves)) => halves,
        Ok(Err(problem)) => return problem,
        Err(_elapsed) => return "the watch did not open in time".into(),
    };
    // The request half must live as long as the stream.
    let _sender = match timeout(OPEN_MAX, establish(sender, &mut stream, &starts, serial, &out)).await {
        Ok(Ok(sender)) => sender,
        Ok(Err(problem)) => return problem,
        Err(_elapsed) => return "the watch was not confirmed in time".into(),
    };
    loop {
        if let Err(problem) = forward(next(&mut stream).await, serial, &out).await {
            return problem;
        }
    }
}

type Halves = (WatchRequestSender, WatchResponseStream);

async fn open(client: &Client, starts: &[Start]) -> Result<Halves, String> {
    let first = starts.first().ok_or("nothing to watch")?;
    let mut watcher = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
    let opened = watcher.watch(first.place.text().as_bytes(), Some(options(first))).await;
    Ok(opened.map_err(|error| describe(&error))?.split())
}

/// Place number `index` is watch number `index + 1`: zero would let etcd choose.
fn options(start: &Start) -> WatchOptions {
    let number = i64::try_from(start.index + 1).unwrap_or(i64::MAX);
    let options = WatchOptions::new().with_start_revision(start.revision).with_progress_notify().with_watch_id(number);
    if start.place.is_prefix() { options.with_prefix() } else { options }
}

/// Asks for the other places while reading what comes already: with many of them, one who only
/// writes and one who only waits to be read would wait for each other.
async fn establish(
    sender: WatchRequestSender,
    stream: &mut WatchResponseStream,
    starts: &[Start],
    serial: u64,
    out: &mpsc::Sender<Message>,
) -> Result<WatchRequestSender, String> {
    let mut confirmed = 0;
    let confirm = async {
        while confirmed < starts.len() {
            let response = next(stream).await;
            confirmed += usize::from(response.as_ref().is_ok_and(WatchResponse::created));
            forward(response, serial, out).await?;
        }
        Ok(())
    };
    let (sender, ()) = tokio::try_join!(ask_for_rest(sender, starts), confirm)?;
    Ok(sender)
}

async fn ask_for_rest(mut sender: WatchRequestSender, starts: &[Start]) -> Result<WatchRequestSender, String> {
    for start in starts.iter().skip(1) {
        let asked = sender.watch(start.place.text().as_bytes(), Some(options(start))).await;
        asked.map_err(|error| describe(&error))?;
    }
    Ok(sender)
}

async fn next(stream: &mut WatchResponseStream) -> Result<WatchResponse, String> {
    match stream.message().await {
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err("the watch ended".into()),
        Err(error) => Err(describe(&error)),
    }
}

async fn forward(
    response: Result<WatchResponse, String>,
    serial: u64,
    out: &mpsc::Sender<Message>,
) -> Result<(), String> {
    let response = response?;
    if response.compact_revision() != 0 {
        return Err(format!("the watch began before the compacted revision {}", response.compact_revision()));
    }
    if response.canceled() {
        return Err(format!("etcd cancelled the watch: {}", response.cancel_reason()));
    }
    if response.events().is_empty() {
        return Ok(());
    }
    let index = usize::try_from(response.watch_id()).ok().and_then(|id| id.checked_sub(1));
    let index = index.ok_or("events of a watch that was not asked for")?;
    let events = response.events().iter().filter_map(change).collect();
    out.send(Message::Events { serial, index, events }).await.map_err(|_closed| "the session ended".into())
}

fn change(event: &Event) -> Option<(i64, Change)> {
    let kv = event.kv()?;
    let change = match event.event_type() {
        EventType::Put => Change::Put(raw_key(kv.clone())),
        EventType::Delete => Change::Delete { key: kv.key().to_vec() },
    };
    Some((kv.mod_revision(), change))
}
