//! The clients: one thread that checks every answer it gets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::poll::{self, BOTH, EDGES, IN, Poll, nanos};
use super::usage::{Meter, Used, Watched};
use super::wire::{self, CopyOut, LENGTH};

/// Nothing here takes so long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(30);
const SCRATCH_BYTES: usize = 256 * 1024;
/// Before each measurement, in the same sessions.
const WARM: Duration = Duration::from_millis(100);

/// A session that has been welcomed, as a blocking socket.
pub fn session(at: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(at).with_context(|| format!("connecting to {at}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&wire::startup())?;
    let mut heard = Vec::new();
    while !heard.ends_with(wire::READY) {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).context("the welcome")?;
        ensure!(count > 0, "closed instead of a welcome: {:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&bytes[..count]);
    }
    Ok(stream)
}

fn ask(stream: &mut TcpStream, number: u32) -> Result<()> {
    let mut answer = [0; LENGTH];
    stream.write_all(&wire::ask(number))?;
    stream.read_exact(&mut answer).context("an answer")?;
    ensure!(answer == wire::answer(number), "a wrong answer: {answer:?}");
    Ok(())
}

/// The answer to a query of the backend's own, one column of one row.
pub fn question(at: SocketAddr, text: &str) -> Result<String> {
    let mut stream = session(at)?;
    stream.write_all(&wire::message(b'Q', format!("{text}\0").as_bytes()))?;
    let mut heard = Vec::new();
    while !heard.ends_with(wire::READY) {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes)?;
        ensure!(count > 0, "closed instead of an answer");
        heard.extend_from_slice(&bytes[..count]);
    }
    // Behind RowDescription: type, length and number of columns, then the length of the value.
    let data = 1 + u32::from_be_bytes(heard[1..5].try_into()?) as usize;
    let length = u32::from_be_bytes(heard[data + 7..data + 11].try_into()?) as usize;
    Ok(String::from_utf8(heard[data + 11..data + 11 + length].to_vec())?)
}

/// One session that asks again and again: how long each answer took, in nanoseconds.
pub fn one(at: SocketAddr, watched: &Watched, lasting: Duration) -> Result<(Vec<u64>, Used)> {
    let mut stream = session(at)?;
    let warm_until = nanos() + u64::try_from(WARM.as_nanos())?;
    while nanos() < warm_until {
        ask(&mut stream, 0)?;
    }
    let mut waits = Vec::with_capacity(1 << 17);
    let meter = Meter::start(watched)?;
    let until = nanos() + u64::try_from(lasting.as_nanos())?;
    let mut before = nanos();
    while before < until {
        ask(&mut stream, u32::try_from(waits.len() % 1_000_000)?)?;
        let after = nanos();
        waits.push(after - before);
        before = after;
    }
    let used = meter.stop()?;
    stream.write_all(wire::TERMINATE)?;
    Ok((waits, used))
}

/// Sessions that are waited for together, by their place.
fn open(at: SocketAddr, sessions: usize) -> Result<(Poll, Vec<TcpStream>)> {
    let (poll, mut streams) = (Poll::new()?, Vec::new());
    for token in 0..sessions {
        let stream = session(at)?;
        stream.set_nonblocking(true)?;
        poll.add(&stream, token, IN)?;
        streams.push(stream);
    }
    Ok((poll, streams))
}

/// So many sessions, each of which asks as soon as it has its answer: how many answers came.
pub fn many(at: SocketAddr, sessions: usize, watched: &Watched, lasting: Duration) -> Result<(u64, Used)> {
    let (mut poll, streams) = open(at, sessions)?;
    let mut asked = vec![Asked::default(); sessions];
    trips(&mut poll, &streams, &mut asked, WARM)?;
    let meter = Meter::start(watched)?;
    let count = trips(&mut poll, &streams, &mut asked, lasting)?;
    let used = meter.stop()?;
    for mut stream in streams {
        stream.write_all(wire::TERMINATE)?;
    }
    Ok((count, used))
}

/// What one session has asked, and how much of the answer has come.
#[derive(Debug, Clone)]
struct Asked {
    number: u32,
    heard: [u8; LENGTH],
    length: usize,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked { number: 0, heard: [0; LENGTH], length: 0 }
    }
}

/// Answers until the time is over; every session has its answer at the end.
fn trips(poll: &mut Poll, streams: &[TcpStream], asked: &mut [Asked], lasting: Duration) -> Result<u64> {
    let until = nanos() + u64::try_from(lasting.as_nanos())?;
    for (token, (stream, asked)) in streams.iter().zip(asked.iter_mut()).enumerate() {
        asked.number = u32::try_from(token * 50_000)?;
        send(stream, &wire::ask(asked.number))?;
    }
    let (mut count, mut waiting) = (0, streams.len());
    while waiting > 0 {
        let ready = poll.wait(Some(u16::try_from(PATIENCE.as_millis())?))?;
        ensure!(!ready.is_empty(), "no answer within {PATIENCE:?}");
        let goes_on = nanos() < until;
        for (token, _) in ready {
            let (stream, asked) = (&streams[token], &mut asked[token]);
            let Some(more) = poll::read(stream, &mut asked.heard[asked.length..])? else { continue };
            ensure!(more > 0, "closed in the middle of an answer");
            asked.length += more;
            if asked.length < LENGTH {
                continue;
            }
            ensure!(asked.heard == wire::answer(asked.number), "a wrong answer: {:?}", asked.heard);
            asked.length = 0;
            count += 1;
            if goes_on {
                asked.number = (asked.number + 1) % 1_000_000;
                send(stream, &wire::ask(asked.number))?;
            } else {
                waiting -= 1;
            }
        }
    }
    Ok(count)
}

fn send(stream: &TcpStream, bytes: &[u8]) -> Result<()> {
    let count = poll::write(stream, bytes)?;
    ensure!(count == Some(bytes.len()), "no room for {} bytes", bytes.len());
    Ok(())
}

/// So many sessions that get about `bytes` by COPY in all: how many bytes came. `all` has every byte compared.
pub fn copy(at: SocketAddr, sessions: usize, bytes: u64, watched: &Watched, all: bool) -> Result<(u64, Used)> {
    let wanted = CopyOut::of_bytes(bytes / sessions as u64);
    let (mut poll, streams) = open(at, sessions)?;
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut heard = vec![0; sessions];
    let meter = Meter::start(watched)?;
    for stream in &streams {
        send(stream, &wanted.query())?;
    }
    let mut waiting = sessions;
    while waiting > 0 {
        let ready = poll.wait(Some(u16::try_from(PATIENCE.as_millis())?))?;
        ensure!(!ready.is_empty(), "a COPY stands still: {heard:?} of {} bytes each", wanted.total());
        for (token, _) in ready {
            let Some(count) = poll::read(&streams[token], &mut scratch)? else { continue };
            ensure!(count > 0, "closed after {} of {} bytes of a COPY", heard[token], wanted.total());
            let is_right = wanted.matches(heard[token], &scratch[..count], all);
            ensure!(is_right, "wrong bytes in a COPY, {count} from {} on", heard[token]);
            heard[token] += count as u64;
            waiting -= usize::from(heard[token] == wanted.total());
        }
    }
    let used = meter.stop()?;
    for mut stream in streams {
        stream.set_nonblocking(false)?;
        // Nothing came behind the end, and the session is as good as before.
        ask(&mut stream, 1)?;
        stream.write_all(wire::TERMINATE)?;
    }
    Ok((wanted.total() * sessions as u64, used))
}

#[derive(Debug)]
enum Step {
    Connecting,
    Starting,
    Asking,
}

/// A client that connects, starts, asks once, and then leaves or stays.
#[derive(Debug)]
struct Comer {
    stream: TcpStream,
    step: Step,
    number: u32,
    heard: Vec<u8>,
}

/// Opens sessions, so many at a time, with one query each.
#[derive(Debug)]
pub struct Opener {
    at: SocketAddr,
    poll: Poll,
    coming: Vec<Option<Comer>>,
    number: u32,
}

impl Opener {
    pub fn new(at: SocketAddr, at_a_time: usize) -> Result<Opener> {
        Ok(Opener { at, poll: Poll::new()?, coming: (0..at_a_time).map(|_| None).collect(), number: 0 })
    }

    /// Clients that leave with Terminate as soon as they have their answer, until the time is over.
    pub fn come_and_go(&mut self, lasting: Duration) -> Result<u64> {
        let until = nanos() + u64::try_from(lasting.as_nanos())?;
        let mut count = 0;
        self.open(|mut stream| {
            stream.write_all(wire::TERMINATE)?;
            count += 1;
            Ok(nanos() < until)
        })?;
        Ok(count)
    }

    /// So many sessions that stay.
    pub fn stay(&mut self, count: usize) -> Result<Vec<TcpStream>> {
        let mut staying = Vec::with_capacity(count);
        let most = self.coming.len();
        self.open(|stream| {
            staying.push(stream);
            Ok(staying.len() + most <= count)
        })?;
        ensure!(staying.len() == count, "{} sessions instead of {count}", staying.len());
        Ok(staying)
    }

    /// `done` gets each session, and says whether another client may come in its place.
    fn open(&mut self, mut done: impl FnMut(TcpStream) -> Result<bool>) -> Result<()> {
        for place in 0..self.coming.len() {
            self.begin(place)?;
        }
        let mut under_way = self.coming.len();
        while under_way > 0 {
            let ready = self.poll.wait(Some(u16::try_from(PATIENCE.as_millis())?))?;
            ensure!(!ready.is_empty(), "a client waits for more than {PATIENCE:?}: {:?}", self.coming);
            for (place, _) in ready {
                let Some(mut comer) = self.coming[place].take() else { continue };
                if !comer.go_on().with_context(|| format!("a new client, {:?}", comer.step))? {
                    self.coming[place] = Some(comer);
                } else if done(comer.stream)? {
                    self.begin(place)?;
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, place: usize) -> Result<()> {
        let stream = poll::connect(self.at)?;
        self.poll.add(&stream, place, BOTH | EDGES)?;
        self.number = (self.number + 1) % 1_000_000;
        let heard = Vec::with_capacity(1024);
        self.coming[place] = Some(Comer { stream, step: Step::Connecting, number: self.number, heard });
        Ok(())
    }
}

impl Comer {
    /// True when it has its answer.
    fn go_on(&mut self) -> Result<bool> {
        if matches!(self.step, Step::Connecting) {
            if let Some(error) = self.stream.take_error()? {
                bail!("{error}");
            }
            send(&self.stream, &wire::startup())?;
            self.step = Step::Starting;
            return Ok(false);
        }
        let mut bytes = [0; 1024];
        while let Some(count) = poll::read(&self.stream, &mut bytes)? {
            ensure!(count > 0, "closed after {:?}", String::from_utf8_lossy(&self.heard));
            self.heard.extend_from_slice(&bytes[..count]);
            if count < bytes.len() {
                break;
            }
        }
        match self.step {
            Step::Starting if self.heard.ends_with(wire::READY) => {
                self.heard.clear();
                send(&self.stream, &wire::ask(self.number))?;
                self.step = Step::Asking;
            }
            Step::Asking if self.heard.len() >= LENGTH => {
                ensure!(self.heard == wire::answer(self.number), "a wrong answer: {:?}", self.heard);
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }
}
