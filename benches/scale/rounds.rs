//! How many instructions the router itself executes for one round trip and for one connection, counted by valgrind:
//! the same on a busy machine as on an idle one. The kernel's part is not among them.
//!
//! Each figure is the difference between a run with twice as much work and one with half of it, so that starting,
//! checking and stopping cancel out.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgvane::runtime::clock;

const ROUND_TRIPS: u64 = 4_000;
const CONNECTIONS: u64 = 400;
/// Functions named.
const TOP: usize = 25;
/// A router under valgrind starts slowly.
const START_MAX: Duration = Duration::from_secs(120);
/// As HAProxy's figures are for 64-byte queries and answers.
const MESSAGE_BYTES: usize = 64;

const STARTUP: &[u8] = b"\0\0\0\x1d\0\x03\0\0user\0me\0database\0db\0\0";
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";
const DONE: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";
const TERMINATE: &[u8] = b"X\0\0\0\x04";
const REST: &[u8] = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Instructions by function.
type Counts = HashMap<String, u64>;

pub fn report(page: &mut String) {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        let _ = writeln!(page, "\nNo instruction counts: there is no valgrind (Debian: apt-get install valgrind)");
        return;
    }
    let _ = writeln!(page, "\nInstructions of the router in user space, by valgrind --tool=callgrind");
    let stand = Stand::new();
    difference(page, "round trip of 64 bytes each way", ROUND_TRIPS, |n| stand.run(|at| round_trips(at, n)));
    difference(page, "connect, startup, one query, Terminate", CONNECTIONS, |n| stand.run(|at| connections(at, n)));
}

fn difference(page: &mut String, what: &str, count: u64, run: impl Fn(u64) -> Counts) {
    let (once, mut twice) = (run(count), run(2 * count));
    for (function, instructions) in &mut twice {
        *instructions = instructions.saturating_sub(once.get(function).copied().unwrap_or(0));
    }
    let each = |instructions: u64| instructions as f64 / count as f64;
    let _ = writeln!(page, "\n  {what}: {:.0} instructions, over {count}", each(twice.values().sum()));
    let mut functions: Vec<_> = twice.into_iter().collect();
    functions.sort_by_key(|(_, instructions)| std::cmp::Reverse(*instructions));
    for (function, instructions) in functions.into_iter().take(TOP) {
        let _ = writeln!(page, "  {:>10.0}  {function}", each(instructions));
    }
}

fn round_trips(at: SocketAddr, count: u64) -> io::Result<()> {
    let mut session = Session::open(at)?;
    (0..count).try_for_each(|_| session.ask())?;
    session.end()
}

fn connections(at: SocketAddr, count: u64) -> io::Result<()> {
    (0..count).try_for_each(|_| {
        let mut session = Session::open(at)?;
        session.ask()?;
        session.end()
    })
}

struct Session(TcpStream);

impl Session {
    fn open(at: SocketAddr) -> io::Result<Session> {
        let mut stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        stream.write_all(STARTUP)?;
        stream.read_exact(&mut [0; WELCOME.len()])?;
        Ok(Session(stream))
    }

    fn ask(&mut self) -> io::Result<()> {
        self.0.write_all(&query())?;
        self.0.read_exact(&mut [0; MESSAGE_BYTES])
    }

    /// Until the router has closed it.
    fn end(mut self) -> io::Result<()> {
        self.0.write_all(TERMINATE)?;
        self.0.read_to_end(&mut Vec::new()).map(drop)
    }
}

fn query() -> [u8; MESSAGE_BYTES] {
    let mut query = [b' '; MESSAGE_BYTES];
    query[..5].copy_from_slice(&[b'Q', 0, 0, 0, MESSAGE_BYTES as u8 - 1]);
    query[MESSAGE_BYTES - 1] = 0;
    query
}

/// One row, and the end.
fn answer() -> Vec<u8> {
    let row = (MESSAGE_BYTES - DONE.len()) as u8;
    let mut answer = vec![b'D', 0, 0, 0, row - 1, 0, 1, 0, 0, 0, row - 11];
    answer.resize(usize::from(row), b'x');
    answer.extend_from_slice(DONE);
    answer
}

/// A member that lets everybody in, its REST API, and the router's configuration.
struct Stand {
    folder: tempfile::TempDir,
    at: SocketAddr,
}

impl Stand {
    fn new() -> Stand {
        let postgres = serve(|stream| _ = postgres(stream));
        let rest = serve(|mut stream| _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(REST)));
        let at = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port on loopback");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = format!(
            "defaults: {{ check: {{ inter: 1h, rise: 1, timeout: 60s }}, connect_timeout: 60s, session_log: off }}\n\
             clusters:\n  - name: pg\n    trust: rest\n    members:\n      \
             a: {{ host: 127.0.0.1, port: {}, api: \"http://{rest}\" }}\n    services:\n      \
             replica: {{ listen: \"{at}\", role: replica }}\n",
            postgres.port()
        );
        std::fs::write(folder.path().join("pgvane.yml"), text).expect("a file in a folder of one's own");
        Stand { folder, at }
    }

    /// What the router executes while `work` is done, and at its start and its end.
    fn run(&self, work: impl Fn(SocketAddr) -> io::Result<()>) -> Counts {
        let out = self.folder.path().join("callgrind.out");
        let mut router = self.start(&out);
        let until = clock::now() + START_MAX;
        while round_trips(self.at, 1).is_err() {
            assert!(clock::now() < until, "the router has not served anybody");
            let has_ended = router.try_wait().is_ok_and(|ended| ended.is_some());
            assert!(!has_ended, "the router has ended:\n{}", std::fs::read_to_string(self.log()).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(100));
        }
        work(self.at).expect("the router serves");
        kill(Pid::from_raw(router.id() as i32), Signal::SIGTERM).expect("it runs");
        router.wait().expect("it has ended");
        counts(&out)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("router.log")
    }

    fn start(&self, out: &Path) -> Child {
        let log = std::fs::File::create(self.log()).expect("a file in a folder of one's own");
        let tool = ["--tool=callgrind", "--fair-sched=yes", "--quiet"];
        Command::new("valgrind")
            .args(tool)
            .arg(format!("--callgrind-out-file={}", out.display()))
            .args([env!("CARGO_BIN_EXE_pgvane"), "run", "-c"])
            .arg(self.folder.path().join("pgvane.yml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("valgrind was there a moment ago")
    }
}

/// Each function's own instructions, as callgrind_annotate prints them: `12,345 ( 1.2%)  file:function [object]`.
fn counts(out: &PathBuf) -> Counts {
    let annotate = Command::new("callgrind_annotate").args(["--threshold=100", "--auto=no"]).arg(out).output();
    let text = annotate.expect("it comes with valgrind").stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut counts = Counts::new();
    for line in text.lines().filter(|line| line.contains("%)") && line.contains(':')) {
        let Some((count, rest)) = line.trim_start().split_once(' ') else { continue };
        let (Ok(count), Some((_, place))) = (count.replace(',', "").parse::<u64>(), rest.split_once("%)")) else {
            continue;
        };
        let function = place.trim().split_once(':').map_or(place, |(_, function)| function);
        let function = function.rsplit_once(" [").map_or(function, |(function, _)| function);
        *counts.entry(function.to_owned()).or_default() += count;
    }
    counts
}

/// A thread for each connection, for as long as the process lives.
fn serve(session: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let at = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || session(stream));
        }
    });
    at
}

fn postgres(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = answer();
    stream.read_exact(&mut [0; STARTUP.len()])?;
    stream.write_all(WELCOME)?;
    let mut bytes = [0; MESSAGE_BYTES];
    loop {
        stream.read_exact(&mut bytes[..TERMINATE.len()])?;
        if bytes.starts_with(TERMINATE) {
            return Ok(());
        }
        stream.read_exact(&mut bytes[TERMINATE.len()..])?;
        stream.write_all(&answer)?;
    }
}
