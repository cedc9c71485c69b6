//! Whether a router can afford to end its connections to servers itself.
//!
//! Whoever sends the first FIN keeps the port for a minute (TIME_WAIT), and there are 28,000 of them for one server
//! (`net.ipv4.ip_local_port_range`). Linux gives such a port to a new connection after a second where
//! `net.ipv4.tcp_tw_reuse` allows it: 1 to every address, 2 (its default) on loopback, and that by TCP timestamps
//! alone (Documentation/networking/ip-sysctl.rst; net/ipv4/tcp_ipv4.c, `tcp_twsk_unique`).
//! A server that does not use those is found out when ports run out.

use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

const NEVER: u8 = 0;
const ON_LOOPBACK: u8 = 1;
const ALWAYS: u8 = 2;

/// Which of its ports the kernel gives back at once, as far as known.
#[derive(Debug, Default)]
pub(super) struct Reuse(AtomicU8);

impl Reuse {
    /// As this network namespace is set now. None of them where that cannot be read.
    pub fn of_kernel() -> Reuse {
        let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
        Reuse::of(&read("tcp_tw_reuse"), &read("tcp_timestamps"))
    }

    fn of(tw_reuse: &str, timestamps: &str) -> Reuse {
        Reuse(AtomicU8::new(match (tw_reuse.trim(), timestamps.trim()) {
            ("1", "1" | "2") => ALWAYS,
            ("2", "1" | "2") => ON_LOOPBACK,
            _ => NEVER,
        }))
    }

    /// Of a connection to this address.
    pub fn covers(&self, ip: IpAddr) -> bool {
        match self.0.load(Relaxed) {
            ALWAYS => true,
            ON_LOOPBACK => ip.to_canonical().is_loopback(),
            _ => false,
        }
    }

    /// There was no port for a connection: from here on it is left to the servers to keep them.
    pub fn ran_out(&self) {
        self.0.store(NEVER, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_comes_back_as_the_kernel_is_set() {
        let (here, there): (IpAddr, IpAddr) = ([127, 0, 0, 7].into(), [192, 0, 2, 7].into());
        let mapped = "::ffff:127.0.0.1".parse().unwrap();
        let covered = |tw_reuse, timestamps| {
            let reuse = Reuse::of(tw_reuse, timestamps);
            (reuse.covers(here), reuse.covers(mapped), reuse.covers(there))
        };
        assert_eq!(covered("1\n", "1\n"), (true, true, true));
        assert_eq!(covered("2\n", "1\n"), (true, true, false));
        assert_eq!(covered("2\n", "2\n"), (true, true, false));
        for nothing in [("0\n", "1\n"), ("1\n", "0\n"), ("", "1\n"), ("1\n", ""), ("3\n", "1\n")] {
            assert_eq!(covered(nothing.0, nothing.1), (false, false, false), "{nothing:?}");
        }
        let reuse = Reuse::of("1", "1");
        reuse.ran_out();
        assert!(!reuse.covers(here));
    }
}
