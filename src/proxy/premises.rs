//! Which addresses of this host clients may come in by, and how those go that came by one that leaves.
//!
//! A virtual address takes its connections along: from an address that is gone neither FIN nor RST can be sent,
//! and a client that hears nothing waits for its own time-outs. So everybody on it is told, and their sockets are
//! closed, before it goes ([`Registry::send_away`]).
//!
//! **Nobody asks for a local address before it matters.** Every client lives in an `Era`. A change ends the era
//! and begins the next one; a client that notices (one atomic load before each write) goes through all that has
//! changed since, and asks its socket then. An era that ended keeps the `Stay` of the departure that ended it,
//! and every client keeps the era that it lives in. So a departure is complete when each client that was here has
//! looked, and those on the address have closed their sockets.

use std::future::Future;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::sys::socket::{SockaddrStorage, getsockname};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::Reason;
use crate::runtime::clock;

use super::client::end_of_stream;
use super::connect::reset_on_close;
use super::sessions::Registry;
use super::timers::timeout_at;

/// From the moment an address is given up: what a client has for reading its words and closing. Whoever has not
/// closed by then is reset, which an idle client of a pool may well be: it reads what it was told all the same.
pub const PARTING_TIME: Duration = Duration::from_millis(50);
/// How much later the last socket may close on a machine that is busy; nobody waits for it any longer.
pub const LATE_MAX: Duration = Duration::from_millis(150);

/// The addresses that clients of one plane come in by.
#[derive(Debug, Default)]
pub(super) struct Premises {
    era: ArcSwap<Era>,
    /// One change at a time.
    turn: Mutex<()>,
    /// Whoever has no session yet ends now; sessions are ended by their fences.
    aborted: AtomicBool,
    /// For those who have no session; the others are woken by their fences.
    changed: Notify,
}

/// The time between two changes.
#[derive(Debug, Default)]
pub struct Era {
    away: Vec<Away>,
    next: OnceLock<Next>,
}

/// What ended an era.
#[derive(Debug)]
struct Next {
    era: Arc<Era>,
    /// Of the departure that ended it. None: an address came back.
    stay: Option<Arc<Stay>>,
}

/// An address that nobody is served on.
#[derive(Debug, Clone)]
struct Away {
    departure: Arc<Departure>,
    stay: Weak<Stay>,
}

/// One address that leaves.
#[derive(Debug)]
struct Departure {
    ip: IpAddr,
    reason: Reason,
    until: std::time::Instant,
    resets: AtomicUsize,
    complete: CancellationToken,
}

/// Held by whoever may have an open socket on an address that leaves.
#[derive(Debug)]
struct Stay(Arc<Departure>);

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.complete.cancel();
    }
}

impl Departure {
    fn new(ip: IpAddr, reason: Reason) -> Arc<Departure> {
        let until = clock::now() + PARTING_TIME;
        let complete = CancellationToken::new();
        Arc::new(Departure { ip, reason, until, resets: AtomicUsize::new(0), complete })
    }

    async fn completed(&self) -> usize {
        let until = Instant::from_std(self.until + LATE_MAX);
        if timeout_at(until, self.complete.cancelled()).await.is_err() {
            tracing::warn!(
                target: "pgvane::session", address = %self.ip,
                "an address leaves before all of its clients are closed; they wait for their own time-outs"
            );
        }
        self.resets.load(Relaxed)
    }
}

impl Registry {
    /// How a client that was accepted just now stands to the address that it came by.
    pub fn enter(&self, client: &impl AsRawFd) -> Tenancy {
        self.premises.enter(client)
    }

    /// Clients may come in by `ip`, as by every address that was never sent away.
    pub fn welcome(&self, ip: IpAddr) {
        self.premises.open(ip.to_canonical());
    }

    /// From this call on nobody is served on `ip`: no byte of a session there is forwarded any more, sessions are
    /// told by their standing, all others that they should come again, and so is everybody who comes by it until
    /// [`Registry::welcome`]. Completes when the last of those who were there has been closed, after
    /// [`PARTING_TIME`] and [`LATE_MAX`] at the latest; gives how many had to be reset, because they had not closed.
    ///
    /// A second call before the address was welcome again waits for what the first one began.
    pub fn send_away(&self, ip: IpAddr, reason: Reason) -> impl Future<Output = usize> + Send + use<> {
        let departure = self.premises.close(ip.to_canonical(), reason);
        self.wake_sessions();
        async move { departure.completed().await }
    }
}

impl Premises {
    /// For a client that was accepted just now.
    pub fn enter(&self, client: &impl AsRawFd) -> Tenancy {
        let era = self.era.load_full();
        if !era.away.is_empty()
            && let Some(ip) = local_ip(client.as_raw_fd())
            && let Some(away) = era.away.iter().find(|away| away.departure.ip == ip)
        {
            return Tenancy::Leaving(Box::new(Leaving::latecomer(away)));
        }
        Tenancy::Here(era)
    }

    /// Ends everybody who has no session, and everybody who comes from here on.
    pub fn abort(&self) {
        self.aborted.store(true, SeqCst);
        self.changed.notify_waiters();
    }

    fn close(&self, ip: IpAddr, reason: Reason) -> Arc<Departure> {
        let turn = self.turn.lock();
        let now = self.era.load_full();
        if let Some(known) = now.away.iter().find(|away| away.departure.ip == ip) {
            return known.departure.clone();
        }
        let departure = Departure::new(ip, reason);
        let stay = Arc::new(Stay(departure.clone()));
        let mut away = now.away.clone();
        away.push(Away { departure: departure.clone(), stay: Arc::downgrade(&stay) });
        self.begin(&now, away, Some(stay));
        drop(turn);
        self.changed.notify_waiters();
        departure
    }

    fn open(&self, ip: IpAddr) {
        let _turn = self.turn.lock();
        let now = self.era.load_full();
        let mut away = now.away.clone();
        away.retain(|away| away.departure.ip != ip);
        if away.len() < now.away.len() {
            self.begin(&now, away, None);
        }
    }

    fn begin(&self, now: &Era, away: Vec<Away>, stay: Option<Arc<Stay>>) {
        let era = Arc::new(Era { away, next: OnceLock::new() });
        // Whoever enters in between looks at what is next.
        let _is_first = now.next.set(Next { era: era.clone(), stay });
        self.era.store(era);
    }
}

/// How one client stands to the address that it came by. To be dropped after its socket.
#[derive(Debug)]
pub enum Tenancy {
    Here(Arc<Era>),
    Leaving(Box<Leaving>),
}

/// What a client does that has to go.
#[derive(Debug)]
pub struct Leaving {
    departure: Arc<Departure>,
    until: std::time::Instant,
    /// None: it came when nobody was waited for any more.
    _stay: Option<Arc<Stay>>,
}

impl Tenancy {
    /// Something has changed that this client has not looked at.
    pub fn is_outdated(&self) -> bool {
        matches!(self, Tenancy::Here(era) if era.next.get().is_some())
    }

    pub fn leaving(&self) -> Option<&Leaving> {
        match self {
            Tenancy::Here(_) => None,
            Tenancy::Leaving(leaving) => Some(leaving),
        }
    }

    /// Goes through what has changed, for the client of this socket.
    pub fn look(&mut self, client: RawFd) {
        while let Tenancy::Here(era) = self
            && let Some(next) = era.next.get()
        {
            *self = match next.stay.as_ref().filter(|stay| local_ip(client) == Some(stay.0.ip)) {
                Some(stay) => Tenancy::Leaving(Box::new(Leaving::resident(stay))),
                None => Tenancy::Here(next.era.clone()),
            };
        }
    }

    /// Completes when the client of this socket has to go. Cancelling it loses nothing.
    pub(super) async fn ends(&mut self, premises: &Premises, client: RawFd) {
        self.ends_or(premises, client, || false).await;
    }

    /// The same, for one who has no session: also after [`Premises::abort`].
    pub(super) async fn ends_or_aborts(&mut self, premises: &Premises, client: RawFd) {
        self.ends_or(premises, client, || premises.aborted.load(SeqCst)).await;
    }

    async fn ends_or(&mut self, premises: &Premises, client: RawFd, has_ended: impl Fn() -> bool) {
        loop {
            // First the listener, then the look: what comes in between is not missed.
            let change = premises.changed.notified();
            self.look(client);
            if self.leaving().is_some() || has_ended() {
                return;
            }
            change.await;
        }
    }
}

impl Leaving {
    fn resident(stay: &Arc<Stay>) -> Leaving {
        let (departure, _stay) = (stay.0.clone(), Some(stay.clone()));
        Leaving { until: departure.until, departure, _stay }
    }

    /// Those who come while others still go are waited for with them.
    fn latecomer(away: &Away) -> Leaving {
        let (departure, now) = (away.departure.clone(), clock::now());
        if now < departure.until {
            return Leaving { until: departure.until, departure, _stay: away.stay.upgrade() };
        }
        Leaving { until: now + PARTING_TIME, departure, _stay: None }
    }

    pub fn ip(&self) -> IpAddr {
        self.departure.ip
    }

    /// Why the address leaves.
    pub fn reason(&self) -> Reason {
        self.departure.reason
    }

    pub fn until(&self) -> Instant {
        Instant::from_std(self.until)
    }

    /// FIN, and when its time is up RST. The caller closes the socket next: nothing of it stays with the kernel,
    /// which could not send it any more.
    pub async fn see_off(&self, client: &TcpStream) {
        if timeout_at(self.until(), end_of_stream(client, usize::MAX)).await.is_err() {
            self.departure.resets.fetch_add(1, Relaxed);
        }
        reset_on_close(client);
    }
}

/// None for a Unix socket. An IPv4 client of a socket for both families came by an IPv4 address.
fn local_ip(socket: RawFd) -> Option<IpAddr> {
    let address = getsockname::<SockaddrStorage>(socket).ok()?;
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::SocketAddr;

    struct Pair {
        client: std::net::TcpStream,
        accepted: std::net::TcpStream,
    }

    /// A client by this address of a socket for as many families as there are.
    fn pair(ip: &str) -> Pair {
        let any: &[SocketAddr] = &[([0; 8], 0).into(), ([0, 0, 0, 0], 0).into()];
        let listener = std::net::TcpListener::bind(any).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect((ip.parse::<IpAddr>().unwrap(), port)).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        Pair { client, accepted }
    }

    fn ip(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    fn is_complete(departure: &Departure) -> bool {
        departure.complete.is_cancelled()
    }

    #[test]
    fn a_client_is_known_by_the_address_that_it_came_by() {
        let pair = pair("127.0.0.77");
        assert_eq!(local_ip(pair.accepted.as_raw_fd()), Some(ip(77)));
        let unix = std::os::unix::net::UnixStream::pair().unwrap().0;
        assert_eq!(local_ip(unix.as_raw_fd()), None);
    }

    #[test]
    fn a_departure_is_complete_when_all_have_looked_and_those_on_it_have_gone() {
        let (here, there) = (pair("127.0.0.77"), pair("127.0.0.78"));
        let premises = Premises::default();
        let (mut on_it, mut beside) = (premises.enter(&here.accepted), premises.enter(&there.accepted));
        assert!(!on_it.is_outdated());
        let elsewhere = premises.close(ip(79), Reason::RoleElsewhere);
        let departure = premises.close(ip(77), Reason::RoleElsewhere);
        premises.open(ip(77));
        assert!(on_it.is_outdated());
        on_it.look(here.accepted.as_raw_fd());
        assert_eq!(on_it.leaving().map(Leaving::ip), Some(ip(77)), "whatever came after it");
        assert!(!is_complete(&elsewhere), "one may be there");
        beside.look(there.accepted.as_raw_fd());
        assert!(beside.leaving().is_none() && !beside.is_outdated());
        assert!(is_complete(&elsewhere) && !is_complete(&departure));
        drop(on_it);
        assert!(is_complete(&departure));
        drop((here.client, there.client, beside));
    }

    #[test]
    fn a_second_call_joins_the_first_and_one_after_a_welcome_does_not() {
        let pair = pair("127.0.0.77");
        let premises = Premises::default();
        let first = premises.close(ip(77), Reason::RoleElsewhere);
        assert!(is_complete(&first), "nobody is there");
        let late = premises.enter(&pair.accepted);
        assert!(late.leaving().is_some_and(|leaving| leaving.ip() == ip(77)));
        assert!(Arc::ptr_eq(&first, &premises.close(ip(77), Reason::Conflict)));
        premises.open(ip(77));
        let next = premises.enter(&pair.accepted);
        assert!(next.leaving().is_none());
        let second = premises.close(ip(77), Reason::Conflict);
        assert!(!Arc::ptr_eq(&first, &second) && !is_complete(&second));
        drop(next);
        assert!(is_complete(&second));
        drop(pair.client);
    }
}
