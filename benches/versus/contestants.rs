//! What stands between the load and the backend: each as its users run it, one process group each.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::load;
use super::members::member::Member;
use super::members::ports::Port;
use super::members::process::Process;
use super::poll::nanos;
use super::usage::{Watched, family};

const READY_MAX: Duration = Duration::from_secs(30);
/// Of the simulated member that all of them check.
const TIMELINE: u32 = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Direct,
    Bare,
    BareSplice,
    Nginx,
    HaProxy,
    HaProxySplice,
    Pgvane(PathBuf),
}

/// Who takes part, under which name.
#[derive(Debug, Clone)]
pub struct Entry {
    pub label: String,
    pub kind: Kind,
}

/// One of them, running.
#[derive(Debug)]
pub struct Contestant {
    pub label: String,
    pub kind: Kind,
    /// Where clients come in.
    pub at: SocketAddr,
    pub watched: Watched,
    _children: Option<Children>,
    process: Option<Process>,
    _port: Option<Port>,
    folder: TempDir,
    _member: Member,
}

impl Contestant {
    /// Starts it in front of a server and waits until a session goes through. `threads` is for those that
    /// can be told; else each has its default.
    pub fn start(entry: &Entry, to: SocketAddr, stand: &[Pid], threads: Option<usize>) -> Result<Contestant> {
        let folder = tempfile::tempdir()?;
        let member = Member::in_front_of("m1", "versus", 1, to.port());
        member.promote(TIMELINE);
        let launch = Launch { folder: folder.path(), to, member: &member, threads };
        let (at, process, port) = match &entry.kind {
            Kind::Direct => (to, None, None),
            Kind::Bare => launch.bare(false)?,
            Kind::BareSplice => launch.bare(true)?,
            Kind::Nginx => launch.nginx()?,
            Kind::HaProxy => launch.haproxy("")?,
            Kind::HaProxySplice => launch.haproxy("    option splice-response\n")?,
            Kind::Pgvane(program) => launch.pgvane(program)?,
        };
        let (label, kind) = (entry.label.clone(), entry.kind.clone());
        let watched = Watched { proxy: Vec::new(), stand: stand.to_vec() };
        let mut contestant =
            Contestant { label, kind, at, watched, _children: None, process, _port: port, folder, _member: member };
        contestant.until_serves()?;
        if let Some(process) = &contestant.process {
            contestant.watched.proxy = family(process.id())?;
            contestant._children = Children::of(&contestant.watched.proxy)?;
        }
        Ok(contestant)
    }

    fn until_serves(&mut self) -> Result<()> {
        let until = nanos() + u64::try_from(READY_MAX.as_nanos())?;
        while let Err(error) = load::session(self.at) {
            let has_ended = self.process.as_mut().is_some_and(|process| process.exited().is_some());
            if has_ended || nanos() > until {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!("{} does not serve: {error:#}\n{log}", self.label);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// nginx's workers would outlive a master that is killed: they end when this does, or the bench.
#[derive(Debug)]
struct Children(Child);

impl Children {
    fn of(family: &[Pid]) -> Result<Option<Children>> {
        if family.len() < 2 {
            return Ok(None);
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", "read -r _; kill -9 \"$@\"", "sh"]).args(family.iter().map(Pid::to_string));
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Some(Children(shell)))
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        // The end of its standard input is what it waits for.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

type Launched = Result<(SocketAddr, Option<Process>, Option<Port>)>;

struct Launch<'a> {
    folder: &'a Path,
    to: SocketAddr,
    member: &'a Member,
    threads: Option<usize>,
}

impl Launch<'_> {
    fn bare(&self, splices: bool) -> Launched {
        let role = if splices { "bare-splice" } else { "bare" };
        let (process, ports) = role_process(&[role, &self.to.to_string()])?;
        Ok((SocketAddr::from(([127, 0, 0, 1], ports[0])), Some(process), None))
    }

    /// Debian's main file with `stream` in place of `http`.
    fn nginx(&self) -> Launched {
        let port = Port::reserve();
        let (path, to, at) = (self.folder.display(), self.to, port.address());
        let workers = self.threads.map_or_else(|| "auto".to_owned(), |threads| threads.to_string());
        let text = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nworker_processes {workers};\n\
             daemon off;\nerror_log {path}/log;\npid {path}/pid;\nworker_rlimit_nofile 20000;\n\
             events {{ worker_connections 10000; }}\nstream {{\n    access_log off;\n    upstream primary {{ server {to}; }}\n    \
             server {{ listen {at}; proxy_pass primary; proxy_connect_timeout 3s; proxy_timeout 24h; }}\n}}\n"
        );
        let config = self.write("nginx.conf", &text)?;
        // Its workers have another user, who must reach its folder.
        fs::set_permissions(self.folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let process = self.run(Command::new("nginx").arg("-c").arg(config).args(["-e", &format!("{path}/log")]))?;
        Ok((port.address(), Some(process), Some(port)))
    }

    /// What Pigsty 4 generates for a primary service (roles/pgsql/templates/service.cfg, its `defaults` section
    /// for the rest), with neither logs nor the page of statistics.
    fn haproxy(&self, option: &str) -> Launched {
        let port = Port::reserve();
        let (at, api) = (port.address(), self.api_port()?);
        let threads = self.threads.map_or_else(String::new, |threads| format!("    nbthread {threads}\n"));
        let text = format!(
            "global\n    maxconn 5000\n{threads}defaults\n    mode tcp\n    retries 3\n    timeout queue 3s\n    \
             timeout connect 3s\n    timeout client 24h\n    timeout server 24h\n    timeout check 3s\n\
             listen pg-test-primary\n    bind {at}\n    mode tcp\n    maxconn 5000\n    balance roundrobin\n\
             {option}    option httpchk\n    option http-keep-alive\n    \
             http-check send meth OPTIONS uri /primary\n    http-check expect status 200\n    \
             default-server inter 2s fastinter 1s downinter 2s rise 3 fall 3 on-marked-down shutdown-sessions \
             slowstart 30s maxconn 3000 maxqueue 128 weight 100\n    \
             server pg-test-1 {} check port {api} weight 100\n",
            self.to
        );
        let config = self.write("haproxy.cfg", &text)?;
        let process = self.run(Command::new("haproxy").args(["-db", "-f"]).arg(config))?;
        Ok((port.address(), Some(process), Some(port)))
    }

    /// The same in pgvane's words (conf/pigsty-rest.yml).
    fn pgvane(&self, program: &Path) -> Launched {
        let port = Port::reserve();
        let (at, to, api) = (port.address(), self.to.port(), self.api_port()?);
        let text = format!(
            "defaults:\n  check: {{ inter: 2s, fastinter: 1s, downinter: 2s, rise: 3, fall: 3, timeout: 3s, expect: 200 }}\n  \
             close_on_down: true\n  slowstart: 30s\n  maxconn: 3000\n  queue: {{ max: 128, timeout: 3s }}\n  \
             clients_max: 5000\n  balance: roundrobin\n  connect_timeout: 3s\n  retries: 3\nclusters:\n  \
             - name: versus\n    trust: rest\n    members:\n      \
             m1: {{ host: 127.0.0.1, port: {to}, api: \"http://127.0.0.1:{api}\" }}\n    services:\n      \
             primary: {{ listen: \"{at}\", role: primary }}\n"
        );
        let config = self.write("pgvane.yml", &text)?;
        let mut command = Command::new(program);
        command.args(["run", "-c"]).arg(config);
        let process = self.run(&mut command)?;
        Ok((port.address(), Some(process), Some(port)))
    }

    fn api_port(&self) -> Result<u16> {
        let url = self.member.api();
        let port = url.trim_end_matches("/patroni").rsplit(':').next().and_then(|port| port.parse().ok());
        port.with_context(|| format!("no port in {url}"))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn run(&self, command: &mut Command) -> Result<Process> {
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        Ok(Process::start(command.stdout(log.try_clone()?).stderr(log)))
    }
}

/// This program in another role, and the ports that it opened.
pub fn role_process(arguments: &[&str]) -> Result<(Process, Vec<u16>)> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--role").args(arguments).stdout(writer);
    let process = Process::start(&mut command);
    // The last writer must be the child, or a dead child would leave this waiting.
    drop(command);
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line)?;
    let ports: Vec<u16> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    if ports.is_empty() {
        bail!("{arguments:?} did not start");
    }
    Ok((process, ports))
}
