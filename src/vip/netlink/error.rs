//! What the kernel refused, said to people.

use std::fmt;
use std::time::Duration;

use nix::errno::Errno;

/// A request to the kernel that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelError {
    /// EPERM: the process lacks CAP_NET_ADMIN.
    NotPermitted { what: String },
    /// There is no interface of this name, or none of this index any more.
    NoSuchLink { what: String, interface: String },
    Other { what: String, problem: String },
}

impl KernelError {
    /// `interface` as the configuration names it.
    pub(super) fn of(what: String, interface: &str, errno: Errno) -> KernelError {
        match errno {
            Errno::EPERM => KernelError::NotPermitted { what },
            Errno::ENODEV => KernelError::NoSuchLink { what, interface: interface.into() },
            // net/ipv6/addrconf.c, addrconf_add_dev: what a disabled IPv6 answers.
            Errno::EACCES => KernelError::Other {
                what,
                problem: format!(
                    "IPv6 is disabled on {interface}; enable it with sysctl net.ipv6.conf.{interface}.disable_ipv6=0"
                ),
            },
            errno => KernelError::Other { what, problem: format!("the kernel says {} ({errno})", errno.desc()) },
        }
    }

    pub(super) fn late(what: String, limit: Duration) -> KernelError {
        let problem = format!("the kernel has not answered for {} ms", limit.as_millis());
        KernelError::Other { what, problem }
    }

    pub(super) fn other(what: String, problem: impl fmt::Display) -> KernelError {
        KernelError::Other { what, problem: problem.to_string() }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelError::NotPermitted { what } => write!(
                f,
                "{what}: not permitted; the process needs CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW)"
            ),
            KernelError::NoSuchLink { what, interface } => {
                write!(f, "{what}: there is no interface {interface} on this host; `ip link` lists those there are")
            }
            KernelError::Other { what, problem } => write!(f, "{what}: {problem}"),
        }
    }
}

impl std::error::Error for KernelError {}
