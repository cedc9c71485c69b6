//! The demo's cluster, for real: etcd, Patroni and PostgreSQL on loopback. Needs what
//! `scripts/setup demo` installs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pgvane::cli::demo::cluster::{Cluster, ClusterOptions};
use pgvane::cli::demo::processes::{living, wait_until};
use pgvane::runtime::clock;
use tokio_postgres::NoTls;

const SWITCHOVER_MAX: Duration = Duration::from_secs(30);
const READY_MAX: Duration = Duration::from_secs(60);
const GUARDIAN_MAX: Duration = Duration::from_secs(15);

fn options() -> ClusterOptions {
    ClusterOptions::new(env!("CARGO_BIN_EXE_pgvane"))
}

async fn write(cluster: &Cluster, member: &str) -> Result<u64, tokio_postgres::Error> {
    let (client, connection) = cluster.member(member).unwrap().client_settings().connect(NoTls).await?;
    tokio::spawn(connection);
    client.execute("INSERT INTO demo (client) VALUES (1)", &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_switches_over_and_leaves_nothing() {
    let began = clock::now();
    let cluster = Cluster::start(options()).await.unwrap();
    eprintln!("started in {:?}", began.elapsed());
    let leader = cluster.leader().await.unwrap();
    assert_eq!(write(&cluster, &leader).await.unwrap(), 1);
    let replica = cluster.members().iter().find(|member| member.name != leader).unwrap().name.clone();
    assert_eq!(write(&cluster, &replica).await.unwrap_err().code().unwrap().code(), "25006");

    let answer = cluster.switchover(&leader, Some(&replica)).unwrap();
    assert_eq!(cluster.wait_leader(Some(&leader), SWITCHOVER_MAX).await.unwrap(), replica);
    answer.await.unwrap().unwrap();
    assert_eq!(write(&cluster, &replica).await.unwrap(), 1);
    cluster.wait_ready(READY_MAX).await.unwrap();

    let dir = cluster.dir().to_owned();
    assert!(living(&dir).len() > 10, "etcd, three Patronis and their PostgreSQLs");
    let began = clock::now();
    drop(cluster);
    eprintln!("cleared away in {:?}", began.elapsed());
    assert_nothing_left(&dir);
}

#[test]
fn a_killed_holder_leaves_nothing() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "holds_a_cluster"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines().map_while(Result::ok);
    let dir = lines.filter_map(|line| line.strip_prefix("holding ").map(PathBuf::from)).next();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let dir = dir.expect("the holder tells its directory");
    assert!(wait_until(GUARDIAN_MAX, || !dir.exists()), "{} is still there", dir.display());
    assert_nothing_left(&dir);
}

#[tokio::test]
#[ignore = "started by a_killed_holder_leaves_nothing, which kills it"]
async fn holds_a_cluster() {
    let cluster = Cluster::start(ClusterOptions { members: 1, ..options() }).await.unwrap();
    println!("\nholding {}", cluster.dir().display());
    tokio::time::sleep(READY_MAX).await;
}

fn assert_nothing_left(dir: &Path) {
    assert!(!dir.exists());
    assert_eq!(living(dir), []);
}
