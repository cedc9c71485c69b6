//! Log lines to a syslog daemon, besides stderr, by a thread of their own: a daemon that hangs delays
//! neither those who route nor the lines on stderr.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing::Level;

use crate::config::{SyslogSpec, SyslogTarget};
use crate::model::HostPort;
use crate::runtime::clock;

use super::frame::{Form, Framer};

/// Lines that may wait for the daemon; one that finds no place is lost and counted.
const LINES_MAX: usize = 16_384;
/// A daemon that takes nothing for so long counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Between attempts to reach a daemon that is gone, doubling from the first to the last.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Over UDP the first datagram to nobody succeeds: only what lasted this long is believed.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

enum Word {
    Line { level: Level, at: f64, line: Vec<u8> },
    Flush(SyncSender<()>),
}

/// Where lines for one daemon go in. Its drop ends the thread when all of them are sent.
pub(super) struct Syslog {
    words: SyncSender<Word>,
    /// Lines that found no place since the last one that did.
    lost: u64,
    say: Box<dyn Fn(String) + Send>,
}

impl Syslog {
    /// `say` gets a sentence for stderr when the daemon is gone and when it is back.
    pub fn start(spec: SyslogSpec, say: impl Fn(String) + Clone + Send + 'static) -> io::Result<Syslog> {
        let (words, inbox) = sync_channel(LINES_MAX);
        let mut sender = Sender::new(spec, say.clone());
        thread::Builder::new().name("pgvane-syslog".to_owned()).spawn(move || sender.run(&inbox))?;
        Ok(Syslog { words, lost: 0, say: Box::new(say) })
    }

    /// Never waits.
    pub fn line(&mut self, level: Level, line: &[u8]) {
        let word = Word::Line { level, at: clock::unix_seconds(), line: line.to_vec() };
        if self.words.try_send(word).is_err() {
            self.lost += 1;
        } else if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            (self.say)(format!("{lost} lines did not get into syslog, which took them too slowly"));
        }
    }

    /// Answered when everything before it was sent or lost.
    pub fn flush(&self, done: SyncSender<()>) {
        // A queue that is full now belongs to a daemon that is stuck: who waits has a limit.
        let _full = self.words.try_send(Word::Flush(done));
    }
}

struct Sender<F> {
    target: SyslogTarget,
    framer: Framer,
    link: Option<Link>,
    /// Since it was last found gone: when to try again, the pause after that, lines lost meanwhile.
    outage: Option<Outage>,
    say: F,
}

struct Outage {
    retry_at: Instant,
    pause: Duration,
    lost: u64,
    /// It works again since then.
    back_since: Option<Instant>,
}

enum Link {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl<F: Fn(String)> Sender<F> {
    fn new(spec: SyslogSpec, say: F) -> Sender<F> {
        let form = match spec.target {
            SyslogTarget::Unix(_) => Form::Rfc3164,
            SyslogTarget::Udp(_) => Form::Rfc5424 { host: host_name() },
        };
        let framer = Framer { form, facility: spec.facility, pid: std::process::id() };
        Sender { target: spec.target, framer, link: None, outage: None, say }
    }

    fn run(&mut self, inbox: &Receiver<Word>) {
        while let Ok(word) = inbox.recv() {
            match word {
                Word::Line { level, at, line } => self.line(&self.framer.frame(level, at, &line), clock::now()),
                Word::Flush(done) => {
                    let _nobody_waits = done.try_send(());
                }
            }
        }
    }

    fn line(&mut self, datagram: &[u8], now: Instant) {
        if let Some(outage) = self.outage.as_mut().filter(|outage| outage.back_since.is_none() && now < outage.retry_at)
        {
            outage.lost += 1;
            return;
        }
        match self.send(datagram) {
            Ok(()) => self.sent(now),
            Err(error) => self.failed(&error, now),
        }
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        let link = match &self.link {
            Some(link) => link,
            None => self.link.insert(Link::open(&self.target)?),
        };
        link.send(datagram)
    }

    fn sent(&mut self, now: Instant) {
        let Some(outage) = &mut self.outage else { return };
        let since = *outage.back_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= SETTLED_AFTER {
            let lost = outage.lost;
            self.outage = None;
            (self.say)(format!("syslog at {} takes lines again; it missed {lost}", self.name()));
        }
    }

    fn failed(&mut self, error: &io::Error, now: Instant) {
        self.link = None;
        match &mut self.outage {
            Some(outage) => {
                outage.lost += 1;
                outage.back_since = None;
                outage.retry_at = now + outage.pause;
                outage.pause = (outage.pause * 2).min(BACKOFF_MAX);
            }
            None => {
                let (retry_at, pause) = (now + BACKOFF_MIN, BACKOFF_MIN * 2);
                self.outage = Some(Outage { retry_at, pause, lost: 1, back_since: None });
                (self.say)(format!(
                    "syslog at {} does not take lines: {error}; they go to stderr alone until it does",
                    self.name()
                ));
            }
        }
    }

    fn name(&self) -> String {
        match &self.target {
            SyslogTarget::Unix(path) => path.display().to_string(),
            SyslogTarget::Udp(at) => format!("udp {at}"),
        }
    }
}

impl Link {
    fn open(target: &SyslogTarget) -> io::Result<Link> {
        match target {
            SyslogTarget::Unix(path) => unix(path).map(Link::Unix),
            SyslogTarget::Udp(at) => udp(at).map(Link::Udp),
        }
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self {
            Link::Unix(socket) => socket.send(datagram),
            Link::Udp(socket) => socket.send(datagram),
        }
        .map(|_whole| ())
    }
}

fn unix(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}

fn udp(at: &HostPort) -> io::Result<UdpSocket> {
    let to = (at.host.as_str(), at.port).to_socket_addrs()?.next();
    let to = to.ok_or_else(|| io::Error::other(format!("{} has no address", at.host)))?;
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}

/// `-` stands for a name that is not known (RFC 5424, section 6.2.4).
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::config::Facility;

    type Said = Rc<RefCell<Vec<String>>>;

    fn sender(target: SyslogTarget) -> (Sender<impl Fn(String)>, Said) {
        let said = Said::default();
        let hearing = said.clone();
        let spec = SyslogSpec { target, facility: Facility(1) };
        (Sender::new(spec, move |text| hearing.borrow_mut().push(text)), said)
    }

    #[test]
    fn a_daemon_that_is_gone_is_said_once_and_asked_less_and_less() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut sender, said) = sender(SyslogTarget::Unix(path.clone()));
        let start = clock::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        sender.line(b"1", at(0));
        sender.line(b"2", at(1));
        let daemon = UnixDatagram::bind(&path).unwrap();
        daemon.set_nonblocking(true).unwrap();
        // The second attempt failed, too: the third is due two seconds after it.
        sender.line(b"3", at(2));
        assert_eq!(said.borrow().len(), 1, "{said:?}");
        assert!(said.borrow()[0].contains(path.to_str().unwrap()), "{said:?}");
        let mut bytes = [0; 16];
        assert!(daemon.recv(&mut bytes).is_err(), "it was not asked before its time");
        sender.line(b"4", at(3));
        assert_eq!(daemon.recv(&mut bytes).map(|n| bytes[..n].to_vec()).unwrap(), b"4");
        sender.line(b"5", at(9));
        assert_eq!(said.borrow().len(), 2);
        assert!(said.borrow()[1].ends_with("it missed 3"), "{said:?}");
    }

    #[test]
    fn a_daemon_that_restarts_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let first = UnixDatagram::bind(&path).unwrap();
        let (mut sender, _said) = sender(SyslogTarget::Unix(path.clone()));
        let start = clock::now();
        sender.line(b"1", start);
        drop(first);
        fs::remove_file(&path).unwrap();
        sender.line(b"2", start);
        let second = UnixDatagram::bind(&path).unwrap();
        sender.line(b"3", start + BACKOFF_MIN);
        let mut bytes = [0; 16];
        assert_eq!(second.recv(&mut bytes).map(|n| bytes[..n].to_vec()).unwrap(), b"3");
    }
}
