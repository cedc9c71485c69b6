//! Two capabilities are enough, and whichever is missing is named.

use std::process::Command;

use pgvane::vip::capabilities;
use pgvane::vip::netlink::{KernelError, Netlink};
use pgvane::vip::packet::Segment;
use pgvane::vip::sockets;

use super::bed::{BOTH, Bed, VIP, single, within};

/// Tells the part that runs as an ordinary user what it has.
const HAS: &str = "PGVANE_TEST_HAS";
const NOBODY: &str = "65534";

/// This very test again, as nobody with these capabilities.
fn as_nobody(bed: &Bed, has: &str) {
    // Where nobody can read it.
    let program = tempfile::Builder::new().prefix("vip-kernel-").tempdir_in("/tmp").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(program.path(), mode).unwrap();
    let copy = program.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let sets = if has.is_empty() { "-all".to_owned() } else { format!("-all,{has}") };
    let mut command: Command = bed.command("a", "setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--no-new-privs", "--bounding-set", &sets]);
    command.args(["--inh-caps", &sets, "--ambient-caps", &sets]).arg(copy);
    command.args(["--exact", "vip_kernel::capabilities::an_ordinary_user_needs_two_capabilities", "--nocapture"]);
    let done = command.env(HAS, has).output().expect("setpriv: install the package util-linux");
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "with {has:?}: {said}");
}

#[tokio::test]
async fn an_ordinary_user_needs_two_capabilities() {
    if let Ok(has) = std::env::var(HAS) {
        return as_an_ordinary_user(&has).await;
    }
    let bed = Bed::new(&["a", "b"]);
    bed.node("b").await.put(VIP, Some(60)).await;
    for has in ["+net_admin,+net_raw", "+net_admin", "+net_raw", ""] {
        as_nobody(&bed, has);
    }
}

async fn as_an_ordinary_user(has: &str) {
    assert_ne!(nix::unistd::geteuid().as_raw(), 0);
    let mut missing = Vec::new();
    missing.extend((!has.contains("net_admin")).then_some("CAP_NET_ADMIN"));
    missing.extend((!has.contains("net_raw")).then_some("CAP_NET_RAW"));
    assert_eq!(capabilities::missing(), missing);

    let (netlink, _changes) = Netlink::open().await.unwrap();
    let link = netlink.link("eth0").await.unwrap().unwrap();
    for ip in BOTH {
        let put = netlink.put(link.index, "eth0", single(ip), Some(60)).await;
        if has.contains("net_admin") {
            put.unwrap();
            let entries = netlink.entries(ip).await.unwrap();
            netlink.remove(&entries[0], ip).await.unwrap();
            assert_eq!(sockets::destroy(ip).unwrap(), 0);
        } else {
            let refused = put.unwrap_err();
            assert!(matches!(refused, KernelError::NotPermitted { .. }), "{refused:?}");
            assert!(refused.to_string().contains("CAP_NET_ADMIN"), "{refused}");
        }
    }
    match Segment::open(&link, VIP) {
        Ok(segment) if has.contains("net_raw") => {
            segment.announce().unwrap();
            segment.probe().unwrap();
            within("the holder's answer", segment.heard()).await.unwrap();
        }
        Err(refused) if !has.contains("net_raw") => {
            assert!(refused.to_string().contains("CAP_NET_RAW"), "{refused}");
        }
        other => panic!("with {has:?}: {other:?}"),
    }
}
