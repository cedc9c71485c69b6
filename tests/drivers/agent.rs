//! A Python program that leads sessions of its driver as it is told.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

use super::driver::{Outcome, Told};

type Answers = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

#[derive(Debug)]
pub struct Agent {
    orders: tokio::sync::Mutex<ChildStdin>,
    answers: Answers,
    next: AtomicU64,
    _program: Child,
}

impl Agent {
    /// One of the programs beside this file, on Debian's Python with Debian's modules.
    pub async fn start(program: &str) -> Arc<Agent> {
        let path = format!("{}/tests/drivers/{program}", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-I", "-u", &path]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("Debian's python3: scripts/setup test");
        let orders = child.stdin.take().expect("a pipe");
        let answers = Answers::default();
        tokio::spawn(hear(child.stdout.take().expect("a pipe"), answers.clone()));
        Arc::new(Agent { orders: orders.into(), answers, next: AtomicU64::new(1), _program: child })
    }

    pub fn new_name(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    pub async fn ask(&self, session: &str, verb: &str, what: &str) -> Outcome {
        self.order(json!({ "session": session, verb: what })).await
    }

    pub async fn order(&self, mut order: Value) -> Outcome {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        order["id"] = json!(id);
        let (sender, answer) = oneshot::channel();
        self.answers.lock().insert(id, sender);
        let line = format!("{order}\n");
        self.orders.lock().await.write_all(line.as_bytes()).await.expect("the driver's program lives");
        let answer = answer.await.expect("the driver's program lives: scripts/setup test installs its module");
        let Some(text) = answer["text"].as_str() else { return Ok(()) };
        Err(Told { code: answer["code"].as_str().map(str::to_owned), text: text.trim().to_owned() })
    }
}

async fn hear(from: ChildStdout, answers: Answers) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer: Value = serde_json::from_str(&line).expect("an answer in JSON");
        let asked = answer["id"].as_u64().and_then(|id| answers.lock().remove(&id));
        if let Some(asked) = asked {
            // Whoever asked may have lost patience.
            let _ = asked.send(answer);
        }
    }
    answers.lock().clear();
}
