//! Which of the two capabilities that virtual addresses take this process lacks.

/// With their bits (include/uapi/linux/capability.h): one to change addresses, one to send and hear frames.
const NEEDED: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13)];

/// Those of CAP_NET_ADMIN and CAP_NET_RAW that are not effective. None where /proc does not tell: the kernel will,
/// with the first request.
pub fn missing() -> Vec<&'static str> {
    std::fs::read_to_string("/proc/self/status").map(|status| lacking(&status)).unwrap_or_default()
}

fn lacking(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()) else {
        return Vec::new();
    };
    NEEDED.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_tells() {
        let status = |effective: &str| format!("Name:\tpgvane\nCapPrm:\t0000000000003000\nCapEff:\t{effective}\n");
        assert_eq!(lacking(&status("0000000000003000")), Vec::<&str>::new());
        assert_eq!(lacking(&status("000001ffffffffff")), Vec::<&str>::new());
        assert_eq!(lacking(&status("0000000000001000")), ["CAP_NET_RAW"]);
        assert_eq!(lacking(&status("0000000000002000")), ["CAP_NET_ADMIN"]);
        assert_eq!(lacking(&status("0000000000000000")), ["CAP_NET_ADMIN", "CAP_NET_RAW"]);
        assert_eq!(lacking("nothing of the kind"), Vec::<&str>::new());
    }
}
