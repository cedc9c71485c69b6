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
/// Where a filter finds whom the frame is for (include/uapi/linux/filter.h: SKF_AD_OFF + SKF_AD_PKTTYPE).
const PACKET_TYPE_AT: u32 = 0xffff_f000 + 4;
/// For another host, or of a VLAN that has no interface here: the kernel marks the latter so, and takes their tag away
/// (net/core/dev.c, __netif_receive_skb_core).
const PACKET_OTHERHOST: u32 = 3;

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

    /// That the interface went down is told to the first call that comes after, be it up again by then; so that one is
    /// made twice.
    fn say(&self, frame: &[u8]) -> io::Result<()> {
        let say = || send(self.socket.get_ref().as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT);
        match say().or_else(|errno| if errno == Errno::ENETDOWN { say() } else { Err(errno) }) {
            // A socket whose interface is down has none.
            Err(Errno::ENXIO) => Err(Errno::ENETDOWN.into()),
            said => Ok(said.map(drop)?),
        }
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

/// Classic BPF instructions (include/uapi/linux/bpf_common.h).
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Of IPv4 what has the address for its sender's, of IPv6 the advertisements of the address.
fn filter(ip: IpAddr) -> Vec<SockFilter> {
    let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE_AT)];
    program.extend([SockFilter::new(JUMP_IF_EQUAL, 0, 1, PACKET_OTHERHOST), SockFilter::new(RETURN, 0, 0, 0)]);
    let mut require = |load, at, value| {
        program.push(SockFilter::new(load, 0, 0, at));
        program.push(SockFilter::new(JUMP_IF_EQUAL, 1, 0, value));
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    };
    match ip {
        IpAddr::V4(ip) => require(LOAD_WORD, arp::SENDER_IP_AT, u32::from(ip)),
        IpAddr::V6(ip) => {
            require(LOAD_BYTE, ndp::NEXT_HEADER_AT, ndp::ICMPV6.into());
            require(LOAD_BYTE, ndp::TYPE_AT, ndp::ADVERTISEMENT.into());
            for (at, word) in (ndp::TARGET_AT..).step_by(4).zip(ip.octets().chunks_exact(4)) {
                require(LOAD_WORD, at, word.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)));
            }
        }
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program
}
