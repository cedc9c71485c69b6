//! The data plane over real sockets on loopback.

#[path = "proxy/bed.rs"]
mod bed;
#[path = "proxy/bulk.rs"]
mod bulk;
#[path = "proxy/cancel.rs"]
mod cancel;
#[path = "proxy/captured.rs"]
mod captured;
#[path = "proxy/close.rs"]
mod close;
#[path = "proxy/doors.rs"]
mod doors;
#[path = "proxy/drain.rs"]
mod drain;
#[path = "proxy/goodbyes.rs"]
mod goodbyes;
#[path = "proxy/hold.rs"]
mod hold;
#[path = "proxy/lines.rs"]
mod lines;
#[path = "proxy/listeners.rs"]
mod listeners;
#[path = "proxy/overlap.rs"]
mod overlap;
#[path = "proxy/peers.rs"]
mod peers;
#[path = "proxy/queue.rs"]
mod queue;
#[path = "proxy/reload.rs"]
mod reload;
#[path = "proxy/speaker.rs"]
mod speaker;
#[path = "proxy/startup.rs"]
mod startup;
#[path = "proxy/strangers.rs"]
mod strangers;
#[path = "proxy/vip.rs"]
mod vip;
#[path = "proxy/words.rs"]
mod words;
