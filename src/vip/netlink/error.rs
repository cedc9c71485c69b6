//! What the kernel refused, said to people.

use std::fmt;
use std::time::Duration;

use nix::errno::Errno;

/// A request to the kernel that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelError {
    /// EPERM: the process lacks CAP_NET_ADMIN.
    NotPermitted {
        what: String,
    },
    /// There is no interface of this name, or it is gone.
    NoSuchLink {
        what: String,
        interface: String,
    },
    Other {
        what: String,
        problem: String,
    },
}

/// Why there is no answer, or which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The kernel's own words may be empty (extended ACK).
    Errno(Errno, String),
    /// The socket failed; it is opened anew.
    Closed,
    Late(Duration),
    /// The list changed again and again while it was read.
    Unsteady,
    /// Netlink could not be opened.
    Unopened(String),
}

impl KernelError {
    /// `interface`, as the configuration names it, is empty where none is concerned.
    pub(super) fn new(what: String, interface: &str, refusal: Refusal) -> KernelError {
        let problem = match refusal {
            Refusal::Errno(Errno::EPERM, _) => return KernelError::NotPermitted { what },
            Refusal::Errno(Errno::ENODEV, _) if !interface.is_empty() => {
                return KernelError::NoSuchLink { what, interface: interface.into() };
            }
            // net/ipv6/addrconf.c, addrconf_add_dev: IPv6 is disabled there.
            Refusal::Errno(Errno::EACCES, _) if !interface.is_empty() => format!(
                "IPv6 is disabled on {interface}; enable it with `sysctl net.ipv6.conf.{interface}.disable_ipv6=0`"
            ),
            Refusal::Errno(errno, words) if words.is_empty() => format!("the kernel says {errno}"),
            Refusal::Errno(errno, words) => format!("the kernel says {errno} ({words})"),
            Refusal::Closed => "the netlink socket failed; it is opened anew, and the request can be repeated".into(),
            Refusal::Late(limit) => {
                format!(
                    "the kernel has not answered for {} ms; another program may hold its network lock",
                    limit.as_millis()
                )
            }
            Refusal::Unsteady => "the kernel's list changed each time it was read".into(),
            Refusal::Unopened(problem) => problem,
        };
        KernelError::Other { what, problem }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelError::NotPermitted { what } => write!(
                f,
                "{what}: not permitted; this takes CAP_NET_ADMIN, which the process lacks \
                 (systemd: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW)"
            ),
            KernelError::NoSuchLink { what, interface } => {
                write!(f, "{what}: there is no interface {interface} on this host; `ip link` lists those there are")
            }
            KernelError::Other { what, problem } => write!(f, "{what}: {problem}"),
        }
    }
}

impl std::error::Error for KernelError {}
