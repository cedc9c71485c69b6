//! Frames about one address on one interface: ARP for IPv4, neighbour discovery for IPv6.
//!
//! The kernel's filter lets in what names the address and nothing else, so a busy segment costs nothing; and not what
//! belongs to a VLAN that this interface carries for others.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use parking_lot::Mutex;
use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::{arp, ndp};
use crate::model::{Mac, VipLink};
use crate::sys::{packet, readiness};

/// MAC addresses that the interface had before and whose frames may still come back.
const FORMER_MACS_MAX: usize = 4;
/// No frame about an address is longer, as no Ethernet frame is without jumbo frames.
const FRAME_BYTES_MAX: usize = 1514;
/// Where a filter finds what is not in the frame (include/uapi/linux/filter.h: SKF_AD_OFF + SKF_AD_VLAN_TAG).
const VLAN_TAG_AT: u32 = 0xffff_f000 + 44;
const VLAN_ID_MASK: u32 = 0xfff;

/// A socket that hears and says what concerns one address on one interface.
#[derive(Debug)]
pub struct Segment {
    socket: AsyncFd<Arc<Socket>>,
    ip: IpAddr,
    own: Mutex<Own>,
}

/// Which MAC addresses are not foreign.
#[derive(Debug)]
struct Own {
    mac: Mac,
    /// The interface had them until lately.
    former: VecDeque<Mac>,
    /// Of the other interfaces of this host: Linux answers for an address on each of them (`arp_ignore` 0).
    others: Vec<Mac>,
}

impl Segment {
    /// Must be called within a tokio runtime. Needs CAP_NET_RAW. The socket outlives the interface's going down and
    /// up; of another index, open another: an interface that was deleted and made anew is another one.
    pub fn open(link: &VipLink, ip: IpAddr) -> io::Result<Segment> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None).map_err(not_opened)?;
        let ethertype = match ip {
            IpAddr::V4(_) => arp::ETHERTYPE,
            IpAddr::V6(_) => ndp::ETHERTYPE,
        };
        // An unbound socket of no protocol hears nothing; from its binding on the filter is in force.
        socket.attach_filter(&filter(ip))?;
        packet::bind_to(&socket, link.index, ethertype)?;
        if !packet::is_ethernet(&socket)? {
            let why = "it is not an Ethernet interface, so no frames can announce an address there";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let socket = readiness::watch(Arc::new(socket))?;
        let own = Own { mac: link.mac, former: VecDeque::new(), others: Vec::new() };
        Ok(Segment { socket, ip, own: Mutex::new(own) })
    }

    /// The interface's MAC address as it is now, and all of this host's ([`super::netlink::Netlink::own_macs`]): frames
    /// from those are not foreign, and neither is what the interface had lately.
    pub fn know(&self, link: &VipLink, own: &[Mac]) {
        let mut known = self.own.lock();
        let was = std::mem::replace(&mut known.mac, link.mac);
        if was != link.mac {
            known.former.push_front(was);
            known.former.truncate(FORMER_MACS_MAX);
        }
        known.others = own.to_vec();
    }

    /// The next frame of another host that says that it has the address. Cancel safe.
    pub async fn heard(&self) -> io::Result<Mac> {
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| self.receive(socket.get_ref())) {
                Ok(Ok(Some(mac))) => return Ok(mac),
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    fn receive(&self, socket: &Socket) -> io::Result<Option<Mac>> {
        let mut frame = [0; FRAME_BYTES_MAX];
        let length = match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => length,
            // Said once when the interface goes down; frames come again when it is up (net/packet/af_packet.c,
            // packet_notifier).
            Err(Errno::ENETDOWN | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let said = match self.ip {
            IpAddr::V4(ip) => arp::holder(&frame[..length], ip),
            IpAddr::V6(ip) => ndp::holder(&frame[..length], ip),
        };
        Ok(said.filter(|mac| self.own.lock().is_foreign(*mac)))
    }

    /// Asks once who has the address.
    pub fn probe(&self) -> io::Result<()> {
        let mac = self.own.lock().mac;
        match self.ip {
            IpAddr::V4(ip) => self.say(&arp::probe(mac, ip)),
            IpAddr::V6(ip) => self.say(&ndp::solicitation(mac, ip)),
        }
    }

    /// Says once that we have it: for IPv4 as request and as reply, since some listen to only one of them.
    pub fn announce(&self) -> io::Result<()> {
        let mac = self.own.lock().mac;
        match self.ip {
            IpAddr::V4(ip) => {
                let first = self.say(&arp::announcement(mac, ip));
                self.say(&arp::unsolicited_reply(mac, ip)).and(first)
            }
            IpAddr::V6(ip) => self.say(&ndp::advertisement(mac, ip)),
        }
    }

    fn say(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.get_ref().as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}

impl Own {
    fn is_foreign(&self, mac: Mac) -> bool {
        mac != self.mac && !self.former.contains(&mac) && !self.others.contains(&mac)
    }
}

fn not_opened(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let why = "a packet socket takes CAP_NET_RAW, which this process lacks \
               (systemd: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW)";
    io::Error::new(error.kind(), why)
}

/// Of IPv4 what has the address for its sender's, of IPv6 the advertisements of the address.
fn filter(ip: IpAddr) -> Vec<SockFilter> {
    let mut tests = vec![Test { load: LOAD_WORD, at: VLAN_TAG_AT, mask: VLAN_ID_MASK, value: 0 }];
    match ip {
        IpAddr::V4(ip) => tests.push(Test::word(arp::SENDER_IP_AT, u32::from(ip))),
        IpAddr::V6(ip) => {
            tests.push(Test::byte(ndp::NEXT_HEADER_AT, ndp::ICMPV6));
            tests.push(Test::byte(ndp::TYPE_AT, ndp::ADVERTISEMENT));
            for (at, word) in (ndp::TARGET_AT..).step_by(4).zip(ip.octets().chunks_exact(4)) {
                tests.push(Test::word(at, word.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))));
            }
        }
    }
    all_of(&tests)
}

/// Classic BPF instructions (include/uapi/linux/bpf_common.h).
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

struct Test {
    load: u16,
    at: u32,
    mask: u32,
    value: u32,
}

impl Test {
    fn word(at: u32, value: u32) -> Test {
        Test { load: LOAD_WORD, at, mask: u32::MAX, value }
    }

    fn byte(at: u32, value: u8) -> Test {
        Test { load: LOAD_BYTE, at, mask: 0xff, value: value.into() }
    }
}

/// Three instructions each, with a way out of one instruction behind each.
fn all_of(tests: &[Test]) -> Vec<SockFilter> {
    let mut program = Vec::new();
    for test in tests {
        program.push(SockFilter::new(test.load, 0, 0, test.at));
        program.push(SockFilter::new(AND, 0, 0, test.mask));
        program.push(SockFilter::new(JUMP_IF_EQUAL, 1, 0, test.value));
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program
}
