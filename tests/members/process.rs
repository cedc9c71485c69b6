//! A child process that does not outlive the test, however the test ends.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgvane::runtime::clock;

use super::holds_within;

#[derive(Debug)]
pub struct Process {
    child: Child,
    guard: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    pub fn start(command: &mut Command) -> Process {
        let child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // Its standard input ends with this process, killed or not.
        let guard = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\"", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        Process { child, guard, ended: None }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        assert!(self.ended.is_none(), "it has ended already");
        kill(pid, signal).expect("a child of ours takes signals");
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child of ours can be waited for");
        }
        self.ended
    }

    /// How it ended, if it did within `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        holds_within(limit, || std::future::ready(self.exited().is_some())).await;
        self.ended
    }

    /// Waits without a runtime, for destructors; killed when that takes longer.
    pub fn end_within(&mut self, limit: Duration) {
        let deadline = clock::now() + limit;
        while self.exited().is_none() && clock::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }

    pub fn kill(&mut self) {
        if self.exited().is_none() {
            // It may have ended in between.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // First the guard, so that it cannot meet another process under the same pid.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        self.kill();
    }
}
