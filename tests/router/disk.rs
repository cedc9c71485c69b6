//! A disk without space, under the log and the state file. Needs root, for a disk of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::members::client::Client;
use crate::members::crowd::open_sessions;
use crate::members::router::Router;
use crate::members::stage::{Stage, TIMELINE};
use crate::members::{secs, until};

/// Mounts a small disk where only the router sees it, fills it, and becomes the router. It goes with it.
const ON_A_FULL_DISK: &str = r#"
    mount -t tmpfs -o size=64k tmpfs "$1" || exit 1
    : >"$1/log"
    cat /dev/zero >"$1/filler" 2>/dev/null
    exec "$2" run -c "$3" 2>>"$1/log"
"#;

struct FullDisk {
    router: Router,
    /// As this process reaches it.
    root: PathBuf,
}

impl FullDisk {
    fn start(stage: &Stage) -> FullDisk {
        let mut setup = stage.setup();
        setup.state_file = true;
        let disk = setup.folder.path().join("disk");
        fs::create_dir(&disk).expect("a folder");
        let text = setup.text().replace(path(&setup.state_path()), path(&disk.join("state.json")));
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", ON_A_FULL_DISK, "sh", path(&disk), env!("CARGO_BIN_EXE_pgvane")]);
        command.arg(setup.config_path());
        let router = Router::start_as(setup, &text, &mut command);
        let root =
            Path::new("/proc").join(router.id().to_string()).join("root").join(path(&disk).trim_start_matches('/'));
        FullDisk { router, root }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.root.join(name)).unwrap_or_default()
    }

    fn make_space(&self) {
        fs::remove_file(self.root.join("filler")).expect("the filler");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_nobody() {
    let stage = Stage::start().await;
    let disk = FullDisk::start(&stage);
    let router = &disk.router;
    router.until_ready().await;
    router.until_open("n1").await;
    let port = router.write_port(0);
    let mut client = open_sessions(port, 1).await.remove(0);
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    stage.fail_over_to_n2().await;
    router.until_open("n2").await;
    let mut client = Client::connect(port, secs(30)).await.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(client.who().await.unwrap_or_else(|failure| panic!("{failure}")), "n2");
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(
        fs::write(disk.root.join("more"), "x").map_err(|error| error.kind()),
        Err(std::io::ErrorKind::StorageFull)
    );
    // It was begun, and could not be ended.
    until("the state file was tried", secs(60), || async { disk.root.join("state.json.new").exists() }).await;
    assert_eq!((disk.read("log"), disk.read("state.json")), (String::new(), String::new()));
    disk.make_space();
    let mark = (TIMELINE + 1).to_string();
    until("the state file is written after all", secs(60), || async { disk.read("state.json").contains(&mark) }).await;
    client.write().await.unwrap_or_else(|failure| panic!("{failure}"));
    drop(client);
    let _session = Client::connect(port, secs(30)).await;
    router.terminate();
    until("the log is written again", secs(60), || async { !disk.read("log").is_empty() }).await;
}
