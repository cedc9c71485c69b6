//! The kernel's questions and answers about sockets as bytes: include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h.
//! Numbers are in the machine's order, ports and addresses in the network's.

use std::net::IpAddr;

use nix::errno::Errno;
use nix::sys::socket::AddressFamily;

pub(super) const LIST: u16 = 20;
pub(super) const DESTROY: u16 = 21;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST_FLAG: u16 = 0x1;
const ACK_FLAG: u16 = 0x4;
const DUMP_FLAGS: u16 = 0x300;
const HEADER_BYTES: usize = 16;
const TCP: u8 = 6;
/// In an inet_diag_msg, after family, state, timer and retransmissions: ports, addresses, interface and cookie.
const ID_AT: usize = 4;
const ID_BYTES: usize = 48;
const LOCAL_IP_AT: usize = ID_AT + 4;
/// INET_DIAG_REQ_BYTECODE, and its one instruction that looks at the local address: INET_DIAG_BC_S_COND.
const BYTECODE_ATTRIBUTE: u16 = 1;
const IF_LOCAL: u8 = 7;
const ANY_PORT: [u8; 4] = (-1i32).to_ne_bytes();

/// Connections of programs, by the bits of include/net/tcp_states.h: neither closed nor listening, nor waiting for late
/// segments without a program behind it.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 12;

/// A connection as the kernel names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    family: u8,
    id: [u8; ID_BYTES],
}

/// One message of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Socket(Found),
    /// Acknowledged.
    Done,
    Refused(Errno),
}

/// Asks for the connections of one family on `ip`; those of IPv6 may be on an IPv4 address, too.
pub(super) fn list(family: AddressFamily, ip: IpAddr) -> Vec<u8> {
    let mut body = request(family as u8, STATES, &[0; ID_BYTES]);
    body.extend(is_local(ip));
    message(LIST, REQUEST_FLAG | DUMP_FLAGS, &body)
}

/// Asks for the end of one connection.
pub(super) fn destroy(found: &Found) -> Vec<u8> {
    message(DESTROY, REQUEST_FLAG | ACK_FLAG, &request(found.family, u32::MAX, &found.id))
}

/// inet_diag_req_v2
fn request(family: u8, states: u32, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let mut request = vec![family, TCP, 0, 0];
    request.extend(states.to_ne_bytes());
    request.extend(id);
    request
}

/// The attribute that has the kernel look at local addresses itself.
fn is_local(ip: IpAddr) -> Vec<u8> {
    let (family, octets) = match ip {
        IpAddr::V4(ip) => (AddressFamily::Inet, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AddressFamily::Inet6, ip.octets().to_vec()),
    };
    let bits = octets.len() as u8 * 8;
    // Instruction (4 bytes) and its operand (8, and the address).
    let length = 4 + 8 + octets.len() as u8;
    // Yes: on behind it, which is the end. No: 4 beyond the end, which rejects.
    let mut code = vec![IF_LOCAL, length];
    code.extend(u16::from(length + 4).to_ne_bytes());
    code.extend([family as u8, bits, 0, 0]);
    code.extend(ANY_PORT);
    code.extend(octets);
    let mut attribute = (4 + code.len() as u16).to_ne_bytes().to_vec();
    attribute.extend(BYTECODE_ATTRIBUTE.to_ne_bytes());
    attribute.extend(code);
    attribute
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = ((HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and sender: one question at a time, and the kernel knows who asks.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The messages of one datagram; what is not understood ends them.
pub(super) fn answers(mut datagram: &[u8], ip: IpAddr) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(header) = datagram.first_chunk::<HEADER_BYTES>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = datagram.get(HEADER_BYTES..length) else { break };
        match kind {
            DONE => answers.push(Answer::Done),
            ERROR => answers.push(outcome(body)),
            _ => answers.extend(found(body, ip).map(Answer::Socket)),
        }
        // Messages begin at multiples of 4.
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

fn outcome(body: &[u8]) -> Answer {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Answer::Done,
        Some(code) => Answer::Refused(Errno::from_raw(code.saturating_neg())),
        None => Answer::Refused(Errno::EBADMSG),
    }
}

/// The kernel was asked for no others; whoever is about to cut looks himself.
fn found(body: &[u8], ip: IpAddr) -> Option<Found> {
    let family = *body.first()?;
    let id = *body.get(ID_AT..)?.first_chunk()?;
    let local = body.get(LOCAL_IP_AT..)?.first_chunk::<16>()?;
    let has = if family == AddressFamily::Inet as u8 {
        IpAddr::from([local[0], local[1], local[2], local[3]])
    } else {
        IpAddr::from(*local).to_canonical()
    };
    (has == ip.to_canonical()).then_some(Found { family, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));

    fn socket(family: AddressFamily, local: &[u8]) -> Vec<u8> {
        let mut body = vec![family as u8, 1, 0, 0, 0x15, 0x38, 0xaa, 0xaa];
        body.extend(local);
        body.resize(72, 0);
        message(LIST, 2, &body)
    }

    #[test]
    fn only_connections_on_the_address_are_taken_be_they_of_either_family() {
        let mut datagram = socket(AddressFamily::Inet, &[192, 0, 2, 10]);
        datagram.extend(socket(AddressFamily::Inet, &[192, 0, 2, 11]));
        datagram.extend(socket(AddressFamily::Inet6, &Ipv4Addr::new(192, 0, 2, 10).to_ipv6_mapped().octets()));
        datagram.extend(message(DONE, 2, &[0; 4]));
        let answers = answers(&datagram, IP);
        assert!(matches!(&answers[..], [Answer::Socket(a), Answer::Socket(b), Answer::Done]
            if a.family == AddressFamily::Inet as u8 && b.family == AddressFamily::Inet6 as u8));
    }

    #[test]
    fn a_refusal_has_its_errno() {
        let refused = message(ERROR, 0, &(-(Errno::EPERM as i32)).to_ne_bytes());
        assert_eq!(answers(&refused, IP), [Answer::Refused(Errno::EPERM)]);
        assert_eq!(answers(&message(ERROR, 0, &[0; 4]), IP), [Answer::Done]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            answers(&bytes, IP);
        }

        #[test]
        fn a_damaged_answer_is_read(at in 0..88usize, byte: u8, cut in 0..=88usize) {
            let mut datagram = socket(AddressFamily::Inet, &[192, 0, 2, 10]);
            datagram[at] = byte;
            answers(&datagram[..cut], IP);
        }
    }
}
