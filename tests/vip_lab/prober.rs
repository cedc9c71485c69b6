//! A client that asks a virtual address each millisecond who answers for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::runtime::clock;

use crate::namespaces::Network;

const PORT: u16 = 7007;
const EVERY: Duration = Duration::from_millis(1);
/// How soon a thread sees that it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One question that was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub sent: Instant,
    pub at: Instant,
    pub who: Arc<str>,
}

/// Threads that run until it is dropped.
#[derive(Debug, Default)]
struct Threads {
    ends: Arc<AtomicBool>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    fn add(&mut self, mut turn: impl FnMut() + Send + 'static) {
        let ends = self.ends.clone();
        self.running.push(std::thread::spawn(move || {
            while !ends.load(Relaxed) {
                turn();
            }
        }));
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        for thread in self.running.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// On every holder's host: says its name on whatever address it is asked.
#[derive(Debug)]
pub struct Responders(#[expect(dead_code, reason = "they end with it")] Threads);

impl Responders {
    pub fn start(network: &Network, hosts: &[&str]) -> Responders {
        let mut threads = Threads::default();
        for host in hosts {
            let socket = network.inside(host, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)));
            let socket = socket.expect("a port of a host of our own");
            socket.set_read_timeout(Some(LOOK_EVERY)).expect("a timeout");
            let name = (*host).to_owned();
            threads.add(move || {
                let mut question = [0; 8];
                if let Ok((8, from)) = socket.recv_from(&mut question) {
                    // Whoever asked may be cut off.
                    let _ = socket.send_to(&[&question[..], name.as_bytes()].concat(), from);
                }
            });
        }
        Responders(threads)
    }
}

#[derive(Debug)]
pub struct Prober {
    answers: Arc<Mutex<Vec<Answer>>>,
    began: Instant,
    _threads: Threads,
}

impl Prober {
    pub fn start(network: &Network, host: &str, target: IpAddr) -> Prober {
        let any = if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = network.inside(host, || UdpSocket::bind((any, 0))).expect("a socket on the client's host");
        socket.set_read_timeout(Some(LOOK_EVERY)).expect("a timeout");
        let (began, target) = (clock::now(), SocketAddr::from((target, PORT)));
        let answers = Arc::<Mutex<Vec<Answer>>>::default();
        let mut threads = Threads::default();
        let asks = socket.try_clone().expect("a second handle");
        threads.add(move || {
            let sent = u64::try_from(began.elapsed().as_nanos()).expect("a short run");
            // It fails while nobody has the address, which is what is to be seen.
            let _ = asks.send_to(&sent.to_be_bytes(), target);
            std::thread::sleep(EVERY);
        });
        let notes = answers.clone();
        threads.add(move || {
            let mut answer = [0; 64];
            let Ok(length) = socket.recv(&mut answer) else { return };
            let at = clock::now();
            let Some((sent, who)) = answer[..length].split_first_chunk::<8>() else { return };
            let sent = began + Duration::from_nanos(u64::from_be_bytes(*sent));
            notes.lock().push(Answer { sent, at, who: String::from_utf8_lossy(who).into() });
        });
        Prober { answers, began, _threads: threads }
    }

    pub fn answers(&self, since: Instant) -> Vec<Answer> {
        let answers = self.answers.lock();
        let from = answers.partition_point(|it| it.at < since);
        answers[from..].to_vec()
    }

    /// When `who` answered first to what was asked after `since`.
    pub fn first(&self, who: &str, since: Instant) -> Option<Instant> {
        let answers = self.answers.lock();
        let from = answers.partition_point(|it| it.at < since);
        answers[from..].iter().find(|it| &*it.who == who && it.sent >= since).map(|it| it.at)
    }

    /// The longest time without any answer, between `since` and now.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let mut last = since;
        let mut longest = Duration::ZERO;
        for answer in self.answers(since) {
            longest = longest.max(answer.at.saturating_duration_since(last));
            last = answer.at;
        }
        longest.max(clock::now().saturating_duration_since(last))
    }
}
