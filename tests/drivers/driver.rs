//! Drivers as one: what each makes of the words it is told.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::poll_fn;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Error, NoTls};

use super::agent::Agent;

/// For one answer on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// For words that came to the driver when its connection ended.
const LAST_WORDS_MAX: Duration = Duration::from_secs(10);
pub const USER: &str = "postgres";

/// What an application is told instead of a result.
#[derive(Debug, Clone)]
pub struct Told {
    /// SQLSTATE, where the driver was told one and says so.
    pub code: Option<String>,
    pub text: String,
}

impl Told {
    /// The driver speaks for itself: without a SQLSTATE, or with 08003 of its own, as asyncpg does.
    pub fn is_drivers_own(&self) -> bool {
        self.code.as_deref().is_none_or(|code| code == "08003")
    }
}

pub type Outcome = Result<(), Told>;

/// Whom to connect to.
#[derive(Debug, Clone)]
pub struct To {
    /// On loopback, one after the other.
    pub ports: Vec<u16>,
    pub tls: bool,
}

impl To {
    pub fn port(port: u16) -> To {
        To { ports: vec![port], tls: false }
    }

    fn conninfo(&self) -> String {
        let hosts = vec!["127.0.0.1"; self.ports.len()].join(",");
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let sslmode = if self.tls { "require" } else { "disable" };
        let (ports, name) = (ports.join(","), self.name());
        format!("host={hosts} port={ports} user={USER} dbname=postgres sslmode={sslmode} application_name={name}")
    }

    /// What servers know these sessions by.
    pub fn name(&self) -> String {
        format!("to-{}", self.ports[0])
    }
}

#[derive(Debug, Clone)]
pub enum Driver {
    Libpq(Arc<Agent>),
    TokioPostgres,
    Asyncpg(Arc<Agent>),
}

/// One session of one driver.
#[derive(Clone)]
pub enum Session {
    Led(Arc<Agent>, String),
    Own(Arc<Own>),
}

/// Of tokio-postgres.
pub struct Own {
    client: Client,
    /// Why it ended; what the server said last is there and nowhere else.
    connection: tokio::sync::Mutex<JoinHandle<Result<(), Error>>>,
    notices: Arc<Mutex<Vec<String>>>,
}

impl Driver {
    /// libpq, tokio-postgres and asyncpg.
    pub async fn all() -> Vec<Driver> {
        let libpq = Agent::start("libpq.py").await;
        let asyncpg = Agent::start("asyncpg_driver.py").await;
        vec![Driver::Libpq(libpq), Driver::TokioPostgres, Driver::Asyncpg(asyncpg)]
    }

    pub fn name(&self) -> &'static str {
        match self {
            Driver::Libpq(_) => "libpq",
            Driver::TokioPostgres => "tokio-postgres",
            Driver::Asyncpg(_) => "asyncpg",
        }
    }

    pub async fn connect(&self, to: &To) -> Result<Session, Told> {
        let connecting = async {
            match self {
                Driver::TokioPostgres => Ok(Session::Own(Arc::new(own(&to.conninfo()).await?))),
                Driver::Libpq(agent) | Driver::Asyncpg(agent) => {
                    let name = agent.new_name();
                    agent.ask(&name, "connect", &to.conninfo()).await?;
                    Ok(Session::Led(agent.clone(), name))
                }
            }
        };
        timeout(ANSWER_MAX, connecting).await.unwrap_or_else(|_| Err(silent()))
    }
}

impl Session {
    /// A statement, or several of them in one query.
    pub async fn run(&self, sql: &str) -> Outcome {
        let running = async {
            match self {
                Session::Led(agent, name) => agent.ask(name, "run", sql).await,
                Session::Own(own) => match own.client.batch_execute(sql).await {
                    Ok(()) => Ok(()),
                    Err(error) => Err(own.last_words(error).await),
                },
            }
        };
        timeout(ANSWER_MAX, running).await.unwrap_or_else(|_| Err(silent()))
    }

    /// The same while other things happen.
    pub fn start(&self, sql: &str) -> JoinHandle<Outcome> {
        let (session, sql) = (self.clone(), sql.to_owned());
        tokio::spawn(async move { session.run(&sql).await })
    }

    /// Asks for the end of its statement, each driver in its own way.
    pub async fn cancel(&self) {
        match self {
            Session::Led(agent, name) => drop(agent.ask(name, "cancel", "").await),
            Session::Own(own) => own.client.cancel_token().cancel_query(NoTls).await.expect("a cancel is sent"),
        }
    }

    pub fn notices(&self) -> Vec<String> {
        match self {
            Session::Led(..) => Vec::new(),
            Session::Own(own) => own.notices.lock().clone(),
        }
    }
}

fn silent() -> Told {
    Told { code: None, text: format!("no answer within {ANSWER_MAX:?}") }
}

async fn own(conninfo: &str) -> Result<Own, Told> {
    let (client, mut connection) = tokio_postgres::connect(conninfo, NoTls).await.map_err(told)?;
    let notices = Arc::new(Mutex::new(Vec::new()));
    let noted = notices.clone();
    let driving = async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message? {
                noted.lock().push(notice.to_string());
            }
        }
        Ok(())
    };
    Ok(Own { client, connection: tokio::sync::Mutex::new(tokio::spawn(driving)), notices })
}

impl Own {
    async fn last_words(&self, error: Error) -> Told {
        if !error.is_closed() {
            return told(error);
        }
        let mut connection = self.connection.lock().await;
        match timeout(LAST_WORDS_MAX, &mut *connection).await {
            Ok(Ok(Err(reason))) => told(reason),
            _ => told(error),
        }
    }
}

fn told(error: Error) -> Told {
    let code = error.code().map(|code| code.code().to_owned());
    let text = error.as_db_error().map_or_else(
        || error.to_string(),
        |words| format!("{}: {} {}", words.severity(), words.message(), words.detail().unwrap_or("")),
    );
    Told { code, text }
}
