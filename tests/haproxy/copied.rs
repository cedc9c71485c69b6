//! HAProxy does what is copied: pages of its arithmetic with the numbers worked out by hand, played
//! at the real one and at pgvane.

use std::net::SocketAddr;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;

use crate::arithmetic::{Timing, course};
use crate::compare::{DRIFT, LATE, TOLERANCE};
use crate::lag::Lag;
use crate::members::ms;
use crate::record::{Front, Record, Stage, conduct};
use crate::script::{MEMBERS, Script, Timeline};
use crate::stand::node::State;
use crate::stand::pgvane::Pgvane;

const TIMING: Timing = Timing { inter: 400, fastinter: 200, downinter: 500, rise: 3, fall: 3, timeout: 450 };
const OK: State = State::Status(200);
const NO: State = State::Status(503);
/// For pages on which the machine was late.
const AGAIN_MAX: usize = 2;

/// What `m1` does, and what comes of it; the other two are well.
struct Page {
    rule: &'static str,
    timing: Timing,
    states: &'static [(u64, State)],
    /// Checks that a listener can see, up to the end of the page.
    checks: &'static [u64],
    moves: &'static [(u64, bool)],
    end: u64,
    /// From here on nothing answers a SYN.
    hole: Option<u64>,
}

const fn page(rule: &'static str, states: &'static [(u64, State)]) -> Page {
    Page { rule, timing: TIMING, states, checks: &[], moves: &[], end: 0, hole: None }
}

/// Reference: HAProxy src/check.c `set_server_check_status` (counter), src/server.c `srv_getinter`
/// (interval), src/check.c `process_chk_conn` (gap), src/tcpcheck.c `tcpcheck_eval_connect` (limits).
fn pages() -> Vec<Page> {
    vec![
        Page {
            checks: &[0, 400, 800, 1200, 1400, 1600, 2100, 2600, 3100, 3300, 3500, 3900],
            moves: &[(1600, false), (3500, true)],
            end: 4200,
            ..page(
                "inter, then fastinter to the third failure, downinter, fastinter to the third success",
                &[(0, OK), (1000, NO), (2850, OK)],
            )
        },
        Page {
            checks: &[0, 400, 800, 1200, 1400, 1600, 2000, 2200, 2400, 2800, 3200],
            end: 3500,
            ..page(
                "one success while up forgives everything",
                &[(0, OK), (1000, NO), (1500, OK), (1800, NO), (2300, OK)],
            )
        },
        Page {
            checks: &[0, 400, 800, 1000, 1200, 1700, 1900, 2100, 2600, 2800, 3000, 3400],
            moves: &[(1200, false), (3000, true)],
            end: 3700,
            ..page("one failure on the way up begins again", &[(0, OK), (600, NO), (1450, OK), (2000, NO), (2350, OK)])
        },
        Page {
            checks: &[0, 400, 800, 1450, 2100, 3050, 4000, 4200, 4400, 4800],
            moves: &[(2550, false), (4400, true)],
            end: 5100,
            ..page(
                "an interval counts from the end of a check; silence ends at the time-out",
                &[(0, OK), (600, State::Hung), (3750, OK)],
            )
        },
        Page {
            checks: &[0, 400, 800, 1350, 1900, 2450, 3000],
            end: 3300,
            ..page("a slow success is a success", &[(0, OK), (600, State::Slow(150))])
        },
        Page {
            checks: &[0, 400, 800, 2100, 2300, 2500, 2900],
            moves: &[(1600, false), (2500, true)],
            end: 3200,
            ..page("a refused connect fails at once", &[(0, OK), (1000, State::Refused), (1850, OK)])
        },
        Page {
            checks: &[0, 400, 800, 1200, 1400, 1600, 2100],
            moves: &[(1600, false)],
            end: 2500,
            ..page(
                "what is not HTTP fails, and so does a reset",
                &[(0, OK), (1000, State::Garbage), (1300, State::Reset), (1500, State::Garbage)],
            )
        },
        Page {
            checks: &[0, 500, 1000, 1500, 1700, 1900, 2300],
            moves: &[(1900, true)],
            end: 2600,
            ..page("one failure at the start is down", &[(0, NO), (1250, OK)])
        },
        Page {
            checks: &[0, 400],
            moves: &[(2400, false)],
            end: 2700,
            hole: Some(700),
            ..page(
                "a connect that nobody answers is given up after inter, whatever the state",
                &[(0, OK), (600, State::Refused)],
            )
        },
        Page {
            timing: Timing { rise: 2, fall: 1, ..TIMING },
            checks: &[0, 400, 800, 1200, 1700, 2200, 2400, 2800],
            moves: &[(1200, false), (2400, true)],
            end: 3100,
            ..page("fall 1, rise 2", &[(0, OK), (1000, NO), (1950, OK)])
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_does_what_is_copied() {
    play_all(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgvane_keeps_to_the_same_numbers() {
    play_all(true).await;
}

#[test]
fn the_arithmetic_of_the_timelines_is_the_same() {
    for page in pages().into_iter().filter(|page| page.hole.is_none()) {
        let course = course(&Script(page.states.to_vec()), page.timing, 0, page.end);
        assert_eq!(course.seen().collect::<Vec<_>>(), page.checks, "{}", page.rule);
        let later = course.moves.into_iter().filter(|(at, _)| *at > 0);
        assert_eq!(later.collect::<Vec<_>>(), page.moves, "{}", page.rule);
    }
}

/// Servers are spread over the smallest interval of a second and more, or else over their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_checks_are_spread_alike() {
    for (inter, fastinter, expected) in [(400, 240, [0, 80, 160]), (2000, 1200, [0, 400, 800])] {
        let timing = Timing { inter, fastinter, timeout: inter + 50, ..TIMING };
        for is_pgvane in [false, true] {
            let all_well = || page("spread", &[(0, OK)]);
            let page = Page { timing, end: 1100, ..all_well() };
            let mut again = 0;
            loop {
                let record = play(&page, is_pgvane).await;
                let firsts: Vec<f64> = record.checks.iter().map(|checks| checks[0].0).collect();
                let near = |(at, wanted): (&f64, u64)| (at - wanted as f64).abs() <= TOLERANCE;
                let agree = firsts.iter().zip(expected).all(near);
                if agree || record.late.most <= LATE || again == AGAIN_MAX {
                    assert!(agree, "pgvane: {is_pgvane}; {firsts:?}, not {expected:?}");
                    break;
                }
                again += 1;
            }
        }
    }
}

async fn play_all(is_pgvane: bool) {
    let mut todo = pages();
    let mut wrong = Vec::new();
    for attempt in 0..=AGAIN_MAX {
        let mut playing = JoinSet::new();
        for page in std::mem::take(&mut todo) {
            playing.spawn(async move {
                let record = play(&page, is_pgvane).await;
                (page, record)
            });
        }
        for (page, record) in playing.join_all().await {
            let Err(why) = agrees(&page, &record) else { continue };
            println!("{} in attempt {attempt}: {why}", page.rule);
            if record.late.most > LATE && attempt < AGAIN_MAX {
                todo.push(page);
            } else {
                wrong.push(format!("{}: {why}\n{record}", page.rule));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn play(page: &Page, is_pgvane: bool) -> Record {
    let well = Script(vec![(0, OK)]);
    let timeline = Timeline {
        seed: 0,
        timing: page.timing,
        scripts: [Script(page.states.to_vec())].into_iter().chain(vec![well; MEMBERS - 1]).collect(),
        orders: Vec::new(),
        batches: Vec::new(),
        end: page.end,
    };
    let stage = Stage::new(&timeline);
    let front = if is_pgvane {
        Front::Pgvane(Arc::new(Pgvane::start(&stage.pgvane_cluster("page", &timeline)).await), "page".to_owned())
    } else {
        stage.haproxy(&timeline).await
    };
    let lag = Lag::watch();
    let hole = async {
        match page.hole {
            Some(at) => Some(open_hole(&stage, at).await),
            None => None,
        }
    };
    let (record, _kept_open) = tokio::join!(conduct(&stage, front, &timeline, &lag), hole);
    record
}

/// Checks and transitions at their moments; what the first check did is not compared.
fn agrees(page: &Page, record: &Record) -> Result<(), String> {
    let near = |at: f64, wanted: u64| (at - wanted as f64).abs() <= TOLERANCE + record.late.total + DRIFT * at;
    let checks: Vec<f64> = record.checks[0].iter().map(|(at, _)| *at).collect();
    if checks.len() != page.checks.len() || !checks.iter().zip(page.checks).all(|(at, wanted)| near(*at, *wanted)) {
        return Err(format!("checks at {checks:.0?}, not {:?}", page.checks));
    }
    let moves: Vec<(f64, bool)> = record.moves[0].iter().copied().filter(|(at, _)| *at > checks[1] - 50.0).collect();
    let agree = |(moved, wanted): (&(f64, bool), &(u64, bool))| moved.1 == wanted.1 && near(moved.0, wanted.0);
    if moves.len() != page.moves.len() || !moves.iter().zip(page.moves).all(agree) {
        return Err(format!("transitions {moves:.0?}, not {:?}", page.moves));
    }
    Ok(())
}

/// The first member's REST port listens, and its queue is full: further SYNs are dropped.
async fn open_hole(stage: &Stage, at: u64) -> Vec<Socket> {
    let zero = stage.first_check().await;
    tokio::time::sleep_until((zero + ms(at)).into()).await;
    let to = stage.nodes[0].rest.at();
    let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    listener.set_reuse_address(true).expect("SO_REUSEADDR");
    listener.bind(&to.into()).expect("nobody listens there now");
    listener.listen(0).expect("a listening socket");
    let mut sockets = vec![listener];
    // One connection has a place there.
    sockets.push(connect(to));
    sockets
}

fn connect(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    socket.connect(&to.into()).expect("the queue has one place");
    socket
}
