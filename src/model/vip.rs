//! A virtual IP address: what is configured, what the kernel shows of it, and what the DCS says of it.

use core::net::IpAddr;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{MemberName, Reason, Role};

/// Below this the kernel, which counts whole seconds and may be one late, has no room to renew in.
pub const VIP_LEASE_MIN: Duration = Duration::from_secs(3);
pub const VIP_LEASE_DEFAULT: Duration = Duration::from_secs(5);
/// How long before the end of the leader's lease an address must be gone: the kernel removes it up to a
/// second late (net/ipv4/devinet.c, `check_lifetime`), and clocks do not agree.
pub const VIP_LEASE_MARGIN: Duration = Duration::from_secs(2);
/// What a route protocol number is to routes, this is to addresses (`IFA_PROTO`, Linux 5.18): ours.
pub const VIP_PROTOCOL: u8 = 118;

/// An address and how many bits of it are its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipAddress {
    pub ip: IpAddr,
    pub prefix: u8,
}

impl VipAddress {
    /// The address alone: /32 or /128.
    pub fn single(ip: IpAddr) -> VipAddress {
        VipAddress { ip, prefix: if ip.is_ipv4() { 32 } else { 128 } }
    }
}

impl fmt::Display for VipAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// When the DCS cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VipOnDcsLoss {
    /// Keep it while the local Patroni's REST API says 200, at most 1 s ago.
    KeepWhilePatroniLeads,
    /// Let it go, after `grace`.
    Release,
    /// Keep it, whatever happens elsewhere: a partition may give it two holders.
    Hold,
}

impl VipOnDcsLoss {
    pub fn as_str(self) -> &'static str {
        match self {
            VipOnDcsLoss::KeepWhilePatroniLeads => "keep_while_patroni_leads",
            VipOnDcsLoss::Release => "release",
            VipOnDcsLoss::Hold => "hold",
        }
    }
}

/// What the end of the process does to an address that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VipOnExit {
    Release,
    /// Leave it for the next process, which adopts it, for so long and never beyond the leader's lease.
    Keep(Duration),
}

/// One address that follows a role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipSpec {
    pub address: VipAddress,
    pub interface: Arc<str>,
    /// What logs and metrics call the cluster.
    pub cluster: Arc<str>,
    /// Whose role it follows. None: of the member whose address is on this host.
    pub member: Option<MemberName>,
    pub role: Role,
    pub on_dcs_loss: VipOnDcsLoss,
    /// How long a DCS that does not answer changes nothing, counted from the moment the view is stale.
    pub grace: Duration,
    /// Whole seconds, at least [`VIP_LEASE_MIN`]: how long the kernel keeps the address without us.
    pub lease: Duration,
    pub on_exit: VipOnExit,
    /// Reset other programs' connections on the address before it goes (SOCK_DESTROY).
    pub close_sockets: bool,
    /// Announce it again and again, with this pause.
    pub refresh: Option<Duration>,
    /// Take over an address that is on the interface already and is not tagged as ours.
    pub adopt: bool,
}

impl VipSpec {
    pub fn new(address: VipAddress, interface: &str, cluster: &str) -> VipSpec {
        VipSpec {
            address,
            interface: interface.into(),
            cluster: cluster.into(),
            member: None,
            role: Role::Primary,
            on_dcs_loss: VipOnDcsLoss::KeepWhilePatroniLeads,
            grace: Duration::from_secs(1),
            lease: VIP_LEASE_DEFAULT,
            on_exit: VipOnExit::Release,
            close_sockets: false,
            refresh: None,
            adopt: false,
        }
    }

    /// Several members may fit any other role at a time: then the mark in the DCS, taken by one of
    /// them for as long as it is alive, decides which of them has the address.
    pub fn is_exclusive_by_mark(&self) -> bool {
        self.role != Role::Primary && self.role != Role::StandbyLeader
    }
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The hand-over key of one address, `pgvane/vip/<address>` below the cluster's prefix: whoever holds the
/// address writes it before and deletes it after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipMark {
    /// A member's name.
    pub holder: Arc<str>,
    /// How long the holder's kernel keeps the address without the holder. None: it does not say.
    pub lease: Option<Duration>,
    /// Tells one writing from the next.
    pub mod_revision: i64,
}

/// Whom the address belongs to by what is known last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VipClaim {
    /// Nothing is known yet.
    Unknown,
    Ours,
    NotOurs,
}

/// What is known about who is to have an address; each supersedes the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipRight {
    pub claim: VipClaim,
    /// Why.
    pub reason: Reason,
    /// Whom the leader key names (of other roles: None).
    pub leader: Option<MemberName>,
    /// Send time of the last linearizable read that agreed with all of this. None: there was none.
    pub confirmed_at: Option<Instant>,
    /// When the leader's lease runs out; while that is being asked, a moment that it lasts beyond. None: it has none.
    pub lease_end: Option<Instant>,
    /// False: the key names its leader by another lease than before, and how long that lasts is being asked.
    pub is_lease_known: bool,
    /// When the local Patroni was asked the last time that it said 200 for the role.
    pub vouched_at: Option<Instant>,
    /// The hand-over key; None: it is not there, or cannot be read.
    pub mark: Option<VipMark>,
}

impl VipRight {
    pub fn unknown(reason: Reason) -> VipRight {
        VipRight {
            claim: VipClaim::Unknown,
            reason,
            leader: None,
            confirmed_at: None,
            lease_end: None,
            is_lease_known: true,
            vouched_at: None,
            mark: None,
        }
    }
}

/// What the kernel shows of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VipLink {
    pub index: u32,
    pub mac: Mac,
    /// Administratively up, with a carrier.
    pub is_running: bool,
}

/// One entry of the kernel's list whose address is the virtual one, on whatever interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipEntry {
    pub interface: Arc<str>,
    pub index: u32,
    pub prefix: u8,
    /// Tagged with [`VIP_PROTOCOL`], or by its label where the kernel has no such tag.
    pub is_ours: bool,
    /// Whole seconds that are left; None: for ever.
    pub valid_for: Option<Duration>,
    /// IPv6: duplicate address detection failed, so the kernel does not answer for it.
    pub is_failed: bool,
}
