//! What is heard on a host's link, with its time.

use std::io::Read;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pgvane::runtime::clock;
use socket2::{Domain, Protocol, Socket, Type};

use super::decode::{Frame, Mac, decode};
use crate::namespaces::Network;

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const LOOK_EVERY: Duration = Duration::from_millis(200);
const FRAME_MAX: usize = 2048;
/// The end of an address of the network that nobody ever has.
const NOBODYS: u8 = 251;

#[derive(Debug, Clone)]
pub struct Heard {
    pub at: Instant,
    pub frame: Frame,
}

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Capture {
    heard: Arc<Mutex<Vec<Heard>>>,
    ends: Arc<AtomicBool>,
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
    }
}

impl Capture {
    /// On `host`, which then takes frames for others, too.
    pub fn start(network: &Network, host: &str) -> Capture {
        network.ip(host, "link set eth0 promisc on");
        let (heard, ends) = (Arc::<Mutex<Vec<Heard>>>::default(), Arc::<AtomicBool>::default());
        for protocol in [ARP, IPV6] {
            let mut socket = network.inside(host, || raw(protocol));
            socket.set_read_timeout(Some(LOOK_EVERY)).expect("a timeout");
            let (notes, ends) = (heard.clone(), ends.clone());
            std::thread::spawn(move || {
                let mut bytes = [0; FRAME_MAX];
                while !ends.load(Relaxed) {
                    let Ok(length) = socket.read(&mut bytes) else { continue };
                    // In the order of time, of both threads.
                    let mut notes = notes.lock();
                    let at = clock::now();
                    notes.extend(decode(&bytes[..length]).map(|frame| Heard { at, frame }));
                }
            });
        }
        Capture { heard, ends }
    }

    pub fn since(&self, since: Instant) -> Vec<Heard> {
        self.heard.lock().iter().filter(|it| it.at >= since).cloned().collect()
    }

    /// When the first frame after `since` was heard that is meant.
    pub fn first(&self, since: Instant, is_meant: impl Fn(&Frame) -> bool) -> Option<Instant> {
        let heard = self.heard.lock();
        let recent = heard.iter().rev().take_while(|it| it.at >= since);
        recent.filter(|it| is_meant(&it.frame)).map(|it| it.at).last()
    }
}

/// Of one protocol, on every interface of the host.
fn raw(protocol: u16) -> Socket {
    let protocol = Protocol::from(i32::from(protocol.to_be()));
    Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("frames are seen by root")
}

/// The hardware address of a host.
pub fn mac_of(network: &Network, host: &str) -> Mac {
    shown(network, host, &["link", "show", "eth0"], "link/ether").expect("a hardware address")
}

/// Where `host` believes `ip` to be.
pub fn neighbour(network: &Network, host: &str, ip: IpAddr) -> Option<Mac> {
    shown(network, host, &["neigh", "show", &ip.to_string()], "lladdr")
}

/// The hardware address that `ip` shows behind this word.
fn shown(network: &Network, host: &str, arguments: &[&str], word: &str) -> Option<Mac> {
    let told = Command::new("ip").args(["-n", &network.space(host), "-o"]).args(arguments).output();
    let text = String::from_utf8_lossy(&told.expect("iproute2 is installed").stdout).into_owned();
    let bytes = text.split_whitespace().skip_while(|it| *it != word).nth(1)?.split(':');
    let bytes: Option<Vec<u8>> = bytes.map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    Some(Mac(bytes?.try_into().ok()?))
}

/// `host`, which has `ip`, asks the link for somebody who is not there: all hear that it has it.
pub fn speak_from(network: &Network, host: &str, ip: IpAddr) {
    let nobody: IpAddr = network.free_address(NOBODYS).parse().expect("an address");
    network.inside(host, || {
        let socket = UdpSocket::bind((ip, 0)).expect("an address of this host");
        // Nobody answers the ARP request, so nothing can be sent.
        let _ = socket.send_to(b"?", (nobody, 9));
    });
}
