//! The situations, one after the other on one stage; every driver is in each of them at the same time.

use tokio::task::JoinHandle;

use super::driver::{Driver, Outcome, Session, To};
use super::stage::Stage;
use super::table::{Asked, Table};
use crate::members::secs;

/// What a session is doing when something happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Nothing,
    IdleInTransaction,
    StatementInTransaction,
    Commit,
    Statement,
}

const ALL: [Doing; 5] =
    [Doing::Nothing, Doing::IdleInTransaction, Doing::StatementInTransaction, Doing::Commit, Doing::Statement];

impl Doing {
    fn as_text(self) -> &'static str {
        match self {
            Doing::Nothing => "idle",
            Doing::IdleInTransaction => "idle in a transaction",
            Doing::StatementInTransaction => "a SELECT under way in a transaction",
            Doing::Commit => "a COMMIT under way",
            Doing::Statement => "a statement under way outside a transaction",
        }
    }

    /// product.md, "What the client is told".
    fn asked(self) -> Asked {
        match self {
            Doing::Nothing => Asked::Code("57P01", ""),
            Doing::IdleInTransaction | Doing::StatementInTransaction => Asked::Code("08006", "rolled back"),
            Doing::Commit | Doing::Statement => Asked::Code("08007", "may have been committed"),
        }
    }

    fn is_busy(self) -> bool {
        !matches!(self, Doing::Nothing | Doing::IdleInTransaction)
    }
}

/// One session of one driver that is in the middle of something.
pub struct Engaged {
    pub driver: Driver,
    pub doing: Doing,
    session: Session,
    under_way: Option<JoinHandle<Outcome>>,
}

impl Engaged {
    async fn begin(driver: &Driver, to: &To, doing: Doing) -> Engaged {
        let session = connected(driver, to).await;
        let prelude = match doing {
            Doing::Nothing | Doing::Statement => "SELECT 1",
            Doing::IdleInTransaction | Doing::StatementInTransaction => "BEGIN; INSERT INTO slow SELECT 1 WHERE false",
            Doing::Commit => "BEGIN; INSERT INTO slow VALUES (1)",
        };
        well(session.run(prelude).await);
        let under_way = match doing {
            Doing::Nothing | Doing::IdleInTransaction => None,
            Doing::StatementInTransaction | Doing::Statement => Some(session.start("SELECT pg_sleep(60)")),
            Doing::Commit => Some(session.start("COMMIT")),
        };
        Engaged { driver: driver.clone(), doing, session, under_way }
    }

    /// What its application is told: as the result of what was under way, or of its next statement.
    async fn told(self) -> Outcome {
        match self.under_way {
            Some(under_way) => under_way.await.expect("no panic"),
            None => self.session.run("SELECT 1").await,
        }
    }
}

/// A session of each driver in each state of work, with all that sleeps asleep in the server.
pub async fn engage(stage: &Stage, drivers: &[Driver], to: &To, doing: &[Doing]) -> Vec<Engaged> {
    let mut all = Vec::new();
    for driver in drivers {
        for doing in doing {
            all.push(Engaged::begin(driver, to, *doing).await);
        }
    }
    stage.until_asleep(all.iter().filter(|engaged| engaged.doing.is_busy()).count()).await;
    all
}

async fn connected(driver: &Driver, to: &To) -> Session {
    driver.connect(to).await.unwrap_or_else(|told| panic!("{}: {told:?}", driver.name()))
}

fn well(outcome: Outcome) {
    outcome.unwrap_or_else(|told| panic!("{told:?}"));
}

async fn note_all(table: &mut Table, what: &str, engaged: Vec<Engaged>, asked: impl Fn(Doing) -> Asked) {
    for one in engaged {
        let (driver, doing) = (one.driver.clone(), one.doing);
        let outcome = one.told().await;
        table.note(&format!("{what}: {}", doing.as_text()), asked(doing), &driver, &outcome);
    }
}

/// There is nobody to go to.
pub async fn without_a_primary(stage: &Stage, drivers: &[Driver], table: &mut Table) {
    stage.have_primary(false).await;
    let first = drivers[1].clone();
    let to = stage.to("full");
    let waiting = tokio::spawn(async move { first.connect(&to).await.map(|_| ()) });
    stage.until_held("full", 1).await;
    for driver in drivers {
        let outcome = refused(driver, &stage.to("short")).await;
        let asked = Asked::AtConnect("57P03", "Service short: ");
        table.note("no primary within the hold time", asked, driver, &outcome);
        let since = outcome.err().map_or_else(String::new, |told| told.text);
        assert!(since.contains(", for ") && since.contains(" s. Waited 0."), "{}: {since}", driver.name());
        let outcome = refused(driver, &stage.to("full")).await;
        table.note("hold full", Asked::AtConnect("57P03", "too many clients are waiting already"), driver, &outcome);
        let outcome = refused(driver, &stage.to("off")).await;
        table.note("hold off", Asked::AtConnect("57P03", "holding is off"), driver, &outcome);
    }
    // libpq since 14 goes on to the next host for 57P03; tokio-postgres does for everything.
    for driver in &drivers[..2] {
        let here = stage.to("off").ports[0];
        let to = To { ports: vec![here, stage.leader().address().port()], tls: false };
        let outcome = driver.connect(&to).await.map(|_| ());
        table.note("hold off, and a second host in the connection string", Asked::Served, driver, &outcome);
    }
    stage.have_primary(true).await;
    well(waiting.await.expect("no panic"));
}

async fn refused(driver: &Driver, to: &To) -> Outcome {
    driver.connect(to).await.map(|_| ())
}

/// A hold that ends well, with a word about it.
pub async fn noticed(stage: &Stage, drivers: &[Driver], table: &mut Table) {
    stage.have_primary(false).await;
    let to = stage.to("noticed");
    let waiting: Vec<_> = drivers
        .iter()
        .map(|driver| {
            let (driver, to) = (driver.clone(), to.clone());
            tokio::spawn(async move { (driver.connect(&to).await, driver) })
        })
        .collect();
    let text = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", to.ports[0]);
    let psql = tokio::process::Command::new("psql").args(["-X", "-At", "-c", "SELECT 'served'", &text]).output();
    let psql = tokio::spawn(psql);
    stage.until_held("noticed", drivers.len() + 1).await;
    stage.have_primary(true).await;
    for waiting in waiting {
        let (session, driver) = waiting.await.expect("no panic");
        let outcome = match &session {
            Ok(session) => session.run("SELECT 1").await,
            Err(told) => Err(told.clone()),
        };
        // By its first answer the driver has seen what came before it.
        let notices = session.as_ref().map(Session::notices).unwrap_or_default();
        table.note("held, and served with a NOTICE", Asked::Served, &driver, &outcome);
        let tells = matches!(driver, Driver::TokioPostgres);
        assert!(!tells || notices.iter().any(|notice| notice.contains("waited")), "{notices:?}");
    }
    let said = psql.await.expect("no panic").expect("psql");
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(out.trim() == "served" && err.contains("NOTICE:"), "psql: {out} {err}");
}

/// One place, and somebody has it.
pub async fn crowded(stage: &Stage, drivers: &[Driver], table: &mut Table) {
    let to = stage.to("narrow");
    let holder = connected(&drivers[1], &to).await;
    for driver in drivers {
        let outcome = refused(driver, &to).await;
        table.note("maxconn and queue full", Asked::AtConnect("53300", "too many connections"), driver, &outcome);
    }
    well(holder.run("SELECT 1").await);
}

/// A cancel finds its statement, and the session goes on.
pub async fn cancelled(stage: &Stage, drivers: &[Driver], table: &mut Table) {
    for driver in drivers {
        let session = connected(driver, &stage.to("primary")).await;
        let outcome = match (driver, &session) {
            (Driver::Asyncpg(agent), Session::Led(_, name)) => {
                let order = serde_json::json!({ "session": name, "run": "SELECT pg_sleep(60)", "timeout": 0.3 });
                agent.order(order).await
            }
            _ => {
                let sleeping = session.start("SELECT pg_sleep(60)");
                stage.until_asleep(1).await;
                session.cancel().await;
                sleeping.await.expect("no panic")
            }
        };
        let asked = match driver {
            // It cancels for its own time-out, and calls it that.
            Driver::Asyncpg(_) => Asked::NoWords,
            _ => Asked::Code("57014", "canceling statement due to user request"),
        };
        table.note("cancelled by its client", asked, driver, &outcome);
        stage.until_asleep(0).await;
        table.note(
            "cancelled by its client: the next statement",
            Asked::Served,
            driver,
            &session.run("SELECT 1").await,
        );
    }
}

/// The key names the other member: no mercy for anybody.
pub async fn leader_moves(stage: &mut Stage, drivers: &[Driver], table: &mut Table) {
    let engaged = engage(stage, drivers, &stage.to("primary"), &ALL).await;
    stage.move_leader().await;
    note_all(table, "the key names another member", engaged, Doing::asked).await;
    stage.wake_sleepers().await;
}

/// Nobody can say a word where TLS passes through.
pub async fn leader_moves_under_tls(stage: &mut Stage, drivers: &[Driver], table: &mut Table) {
    stage.offer_tls().await;
    let to = To { tls: true, ..stage.to("primary") };
    // tokio-postgres brings no TLS of its own.
    let with_tls: Vec<Driver> = drivers.iter().filter(|it| !matches!(it, Driver::TokioPostgres)).cloned().collect();
    let engaged = engage(stage, &with_tls, &to, &[Doing::Nothing, Doing::Statement]).await;
    stage.move_leader().await;
    note_all(table, "the key names another member, TLS passes through", engaged, |_| Asked::NoWords).await;
    stage.wake_sleepers().await;
}

/// Backends that wait for their client say so; those at work go without a word, and the router knows what
/// they were at.
pub async fn postmaster_killed(stage: &mut Stage, drivers: &[Driver], table: &mut Table) {
    let engaged = engage(stage, drivers, &stage.to("primary"), &ALL).await;
    stage.kill_leader();
    let asked = |doing: Doing| match doing.is_busy() {
        false => Asked::Code("57P01", "terminating connection due to unexpected postmaster exit"),
        true => doing.asked(),
    };
    note_all(table, "the postmaster is killed", engaged, asked).await;
    stage.restart_leader().await;
}

/// The server has words of its own, and they are the ones that arrive.
pub async fn server_stops(stage: &mut Stage, drivers: &[Driver], table: &mut Table) {
    let engaged = engage(stage, drivers, &stage.to("primary"), &ALL).await;
    stage.stop_leader().await;
    let asked = |_| Asked::Code("57P01", "terminating connection due to administrator command");
    note_all(table, "the server stops", engaged, asked).await;
    stage.restart_leader().await;
}

/// Taken out on purpose: whoever is in a transaction has some time.
pub async fn taken_out(stage: &mut Stage, drivers: &[Driver], table: &mut Table) {
    let to = stage.to("primary");
    let finishing = engage(stage, drivers, &to, &[Doing::IdleInTransaction]).await;
    let engaged = engage(stage, drivers, &to, &ALL).await;
    stage.order("maint").await;
    stage.until_none_idle(&to).await;
    drained(table, "maintenance is ordered", finishing, engaged).await;
    stage.wake_sleepers().await;
    stage.order("ready").await;
    stage.router.until_open(stage.leader_name()).await;
}

/// The router itself goes.
pub async fn router_ends(stage: &mut Stage, drivers: &[Driver], table: &mut Table) {
    let to = stage.to("primary");
    let finishing = engage(stage, drivers, &to, &[Doing::IdleInTransaction]).await;
    let engaged = engage(stage, drivers, &to, &ALL).await;
    stage.router.terminate();
    stage.until_none_idle(&to).await;
    drained(table, "the router ends", finishing, engaged).await;
    assert!(stage.router.exit(secs(30)).await.is_some_and(|status| status.success()), "the router does not end");
    stage.wake_sleepers().await;
}

/// Idle sessions go at once, transactions that end in time end well, and the others are cut.
async fn drained(table: &mut Table, what: &str, finishing: Vec<Engaged>, engaged: Vec<Engaged>) {
    for one in finishing {
        let outcome = one.session.run("COMMIT").await;
        table.note(&format!("{what}: in a transaction that commits in time"), Asked::Served, &one.driver, &outcome);
        let outcome = one.session.run("SELECT 1").await;
        let after = format!("{what}: and after it");
        table.note(&after, Asked::Code("57P01", "no transaction was open"), &one.driver, &outcome);
    }
    // Whoever is idle in a transaction would go on if it were asked now.
    let (idle, others): (Vec<_>, Vec<_>) = engaged.into_iter().partition(|one| one.doing == Doing::IdleInTransaction);
    note_all(table, what, others, Doing::asked).await;
    note_all(table, what, idle, Doing::asked).await;
}
