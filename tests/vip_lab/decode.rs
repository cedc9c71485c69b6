//! Frames of ARP (RFC 826) and neighbour discovery (RFC 4861), read without the program's own code.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const BROADCAST: Mac = Mac([0xff; 6]);
/// ff02::1 on Ethernet (RFC 2464, section 7).
pub const ALL_NODES: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const ETHERNET: usize = 14;
const IPV6: usize = 40;
const ICMPV6: u8 = 58;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const TARGET_LINK_ADDRESS: u8 = 2;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&bytes.join(":"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub to: Mac,
    pub from: Mac,
    /// With its header, as it came.
    pub bytes: usize,
    pub said: Said,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Arp(Arp),
    Advertisement(Advertisement),
    Solicitation { source: Ipv6Addr, target: Ipv6Addr, hop_limit: u8, is_intact: bool },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Arp {
    /// Else a reply.
    pub is_request: bool,
    pub sender: (Mac, Ipv4Addr),
    pub target: (Mac, Ipv4Addr),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Advertisement {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub hop_limit: u8,
    pub is_router: bool,
    pub is_solicited: bool,
    pub overrides: bool,
    pub target: Ipv6Addr,
    pub link: Option<Mac>,
    /// Its checksum is right and its lengths agree.
    pub is_intact: bool,
}

impl Frame {
    /// Tells neighbours that `ip` is at this frame's sender, and asks nothing.
    pub fn announces(&self, ip: IpAddr) -> bool {
        match (&self.said, ip) {
            (Said::Arp(arp), IpAddr::V4(ip)) => {
                self.to == BROADCAST && arp.sender.1 == ip && arp.target.1 == ip && arp.sender.0 == self.from
            }
            (Said::Advertisement(it), IpAddr::V6(ip)) => it.target == ip && self.to == ALL_NODES && !it.is_solicited,
            _ => false,
        }
    }

    /// RFC 5227's form of an announcement, of which RFC 826 leaves the target open.
    pub fn is_request_for_nobody(&self) -> bool {
        matches!(&self.said, Said::Arp(arp) if arp.is_request && arp.target.0 == Mac([0; 6]))
    }

    /// Asks whether anybody has `ip`, without a claim of its own (RFC 5227, RFC 4862).
    pub fn probes(&self, ip: IpAddr) -> bool {
        match (&self.said, ip) {
            (Said::Arp(arp), IpAddr::V4(ip)) => {
                arp.is_request && arp.sender.1.is_unspecified() && arp.target.1 == ip && arp.target.0 == Mac([0; 6])
            }
            (Said::Solicitation { source, target, .. }, IpAddr::V6(ip)) => source.is_unspecified() && *target == ip,
            _ => false,
        }
    }

    /// Whether a Linux neighbour that knows `ip` already believes it at once (net/ipv4/arp.c, `arp_is_garp`;
    /// net/ipv6/ndisc.c, `ndisc_recv_na`).
    pub fn convinces(&self, ip: IpAddr) -> bool {
        self.announces(ip)
            && match &self.said {
                Said::Arp(arp) => arp.is_request || arp.target.0 == arp.sender.0,
                Said::Advertisement(it) => {
                    it.overrides && it.hop_limit == 255 && it.link == Some(self.from) && it.is_intact
                }
                Said::Solicitation { .. } => false,
            }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.said {
            Said::Arp(arp) => {
                let op = if arp.is_request { "ARP request" } else { "ARP reply" };
                let ((sender, spa), (target, tpa)) = (arp.sender, arp.target);
                write!(f, "{op} {sender} {spa} for {target} {tpa}")
            }
            Said::Advertisement(it) => {
                let link = it.link.map_or_else(|| "no link address".to_owned(), |mac| mac.to_string());
                let flags = [(it.is_router, 'R'), (it.is_solicited, 'S'), (it.overrides, 'O')];
                let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter).collect();
                write!(f, "NA {} is at {link} [{flags}] hop limit {}", it.target, it.hop_limit)
            }
            Said::Solicitation { source, target, .. } => write!(f, "NS {source} asks for {target}"),
        }?;
        write!(f, " ({} to {})", self.from, self.to)
    }
}

/// None: neither of the two protocols, or not whole.
pub fn decode(frame: &[u8]) -> Option<Frame> {
    let (to, from) = (mac(frame, 0)?, mac(frame, 6)?);
    let said = match frame.get(12..ETHERNET)? {
        [0x08, 0x06] => Said::Arp(arp(frame.get(ETHERNET..)?)?),
        [0x86, 0xdd] => discovery(frame.get(ETHERNET..)?)?,
        _ => return None,
    };
    Some(Frame { to, from, bytes: frame.len(), said })
}

fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    Some(Mac(bytes.get(at..at + 6)?.try_into().ok()?))
}

fn ipv4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?))
}

fn ipv6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?))
}

/// Ethernet and IPv4: hardware 1, protocol 0x0800, lengths 6 and 4.
fn arp(body: &[u8]) -> Option<Arp> {
    let [0, 1, 8, 0, 6, 4, 0, op @ 1..=2] = body.get(..8)? else { return None };
    Some(Arp {
        is_request: *op == 1,
        sender: (mac(body, 8)?, ipv4(body, 14)?),
        target: (mac(body, 18)?, ipv4(body, 24)?),
    })
}

fn discovery(packet: &[u8]) -> Option<Said> {
    let (payload, next, hop_limit) = (packet.get(4..6)?, *packet.get(6)?, *packet.get(7)?);
    let length = usize::from(u16::from_be_bytes([payload[0], payload[1]]));
    let (source, destination) = (ipv6(packet, 8)?, ipv6(packet, 24)?);
    let message = packet.get(IPV6..IPV6 + length)?;
    if next != ICMPV6 {
        return None;
    }
    let is_intact = checksum(source, destination, message) == 0 && length.is_multiple_of(8) && message[1] == 0;
    let target = ipv6(message, 8);
    match message[0] {
        NEIGHBOR_SOLICITATION => Some(Said::Solicitation { source, target: target?, hop_limit, is_intact }),
        NEIGHBOR_ADVERTISEMENT => Some(Said::Advertisement(Advertisement {
            source,
            destination,
            hop_limit,
            is_router: message[4] & 0x80 != 0,
            is_solicited: message[4] & 0x40 != 0,
            overrides: message[4] & 0x20 != 0,
            target: target?,
            link: link_address(message.get(24..)?),
            is_intact,
        })),
        _ => None,
    }
}

fn link_address(mut options: &[u8]) -> Option<Mac> {
    while let [kind, eights, ..] = *options {
        let length = usize::from(eights) * 8;
        if kind == TARGET_LINK_ADDRESS && length == 8 {
            return mac(options, 2);
        }
        options = options.get(length.max(8)..)?;
    }
    None
}

/// RFC 4443, section 2.3: 0 over a message with the right sum in it.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).expect("a short packet").to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMPV6], message].concat();
    let words = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("folded")
}
