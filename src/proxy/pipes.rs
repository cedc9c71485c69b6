//! Pipes for bulk data: a direction that streams borrows one, and its bytes go from socket to socket unseen.
//!
//! A pipe costs two descriptors and up to 1 MiB of the kernel's memory, so there are few of them: each thread
//! keeps a handful of empty ones, and the process has at most [`PIPES_MAX`] in use. Whoever gets none copies.

mod duct;
#[cfg(test)]
mod tests;
mod trial;

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

pub use crate::model::Splice as Mode;
use crate::model::SpliceSnapshot;
use duct::Duct;
pub use duct::Filled;

/// What a pipe is to hold. It is `fs.pipe-max-size` as kernels come, the most that an unprivileged user gets.
pub const PIPE_BYTES: usize = 1024 * 1024;
/// A smaller pipe moves less with each system call than copying does, and is given back.
pub const PIPE_BYTES_MIN: usize = 64 * 1024;
/// Empty pipes that each thread keeps.
pub const POOL_MAX: usize = 8;
/// Pipes in use in this process. As many of [`PIPE_BYTES`] are what `fs.pipe-user-pages-soft` lets a user have.
pub const PIPES_MAX: usize = 64;

static MODE: AtomicU8 = AtomicU8::new(Mode::Auto as u8);
/// What the last trial has found, if it has found something.
static UNUSABLE: Mutex<Option<String>> = Mutex::new(None);
static USABLE: AtomicBool = AtomicBool::new(true);
static IN_USE: AtomicUsize = AtomicUsize::new(0);
static SPLICED: AtomicU64 = AtomicU64::new(0);
/// That a pipe could not be had was said.
static SAID: AtomicBool = AtomicBool::new(false);

thread_local! {
    static POOL: RefCell<Vec<Duct>> = const { RefCell::new(Vec::new()) };
}

/// From here on directions that begin to stream go by this; those that have a pipe keep it while they stream.
pub fn set(mode: Mode) {
    MODE.store(mode as u8, Relaxed);
}

/// How bulk data goes: as configured, and `Off` where splice was found not to work.
pub fn mode() -> Mode {
    if USABLE.load(Relaxed) { configured() } else { Mode::Off }
}

fn configured() -> Mode {
    [Mode::Always, Mode::Off].into_iter().find(|mode| *mode as u8 == MODE.load(Relaxed)).unwrap_or(Mode::Auto)
}

/// Pipes on loan now.
pub fn in_use() -> usize {
    IN_USE.load(Relaxed)
}

pub fn snapshot() -> SpliceSnapshot {
    SpliceSnapshot { configured: configured(), unusable: UNUSABLE.lock().clone(), bytes: SPLICED.load(Relaxed) }
}

/// Sends a pattern through splice within this machine and compares it; takes a few milliseconds, and little more
/// than a second at most, and blocks. It changes nothing: see [`judge`].
///
/// # Errors
/// What went wrong, as the middle of a sentence.
pub fn try_out() -> Result<(), String> {
    trial::run(trial::by_splice())
}

/// Goes by what [`try_out`] has found: after an error [`take`] gives nothing, until a later trial is judged.
/// Returns whether splice was usable before.
pub fn judge(tried: Result<(), String>) -> bool {
    let mut unusable = UNUSABLE.lock();
    *unusable = tried.err();
    USABLE.swap(unusable.is_none(), Relaxed)
}

/// An empty pipe: from this thread's pool, or a new one. None when splice is off, was found not to work, or when
/// there can be no more pipes; then bytes are copied.
pub fn take() -> Option<Pipe> {
    if mode() == Mode::Off {
        POOL.with_borrow_mut(Vec::clear);
        return None;
    }
    let place = Place::take()?;
    let kept = POOL.with_borrow_mut(Vec::pop);
    let duct = match kept {
        Some(duct) => duct,
        None => open()?,
    };
    Some(Pipe { duct: Some(duct), _place: place })
}

/// A new pipe that is large enough. That there is none is said once: streams begin thousands of times a second.
fn open() -> Option<Duct> {
    let opened = large_enough(Duct::open(PIPE_BYTES));
    if let Err(why) = &opened
        && !SAID.swap(true, Relaxed)
    {
        tracing::warn!(target: "pgvane::session", "no pipe for bulk data, which is copied whenever that is so: {why}");
    }
    opened.ok()
}

fn large_enough(opened: io::Result<Duct>) -> Result<Duct, String> {
    let duct = opened.map_err(|error| format!("cannot open one: {error}"))?;
    if duct.capacity >= PIPE_BYTES_MIN {
        return Ok(duct);
    }
    Err(format!(
        "the kernel gives one of {} bytes, and less than {PIPE_BYTES_MIN} are no use; raise fs.pipe-user-pages-soft \
         (sysctl), or write `splice: off`",
        duct.capacity
    ))
}

/// One of [`PIPES_MAX`].
#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let more = |taken| (taken < PIPES_MAX).then_some(taken + 1);
        IN_USE.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        IN_USE.fetch_sub(1, Relaxed);
    }
}

/// A pipe on loan, empty at first. When it is dropped, an empty one goes back to the pool of the thread, and one
/// with bytes in it is closed: they would come out in another session.
#[derive(Debug)]
pub struct Pipe {
    /// Some until it is dropped.
    duct: Option<Duct>,
    _place: Place,
}

impl Pipe {
    /// Moves what the socket has into the pipe, without waiting. The socket must not block.
    ///
    /// Splice says EAGAIN for two reasons: the socket is empty, or the pipe is full. To take the second for the
    /// first is the classic stall: the runtime is told that the socket is empty, forgets its readiness, and
    /// hears nothing more of what is waiting there already. And a pipe is full sooner than its bytes tell: it
    /// has one slot for each 4 KiB of its capacity, and each piece of a received packet takes one, however
    /// small, so 256 pieces of one byte fill 1 MiB. Hence EAGAIN of a pipe that has bytes in it is not
    /// believed: the kernel is asked for a free slot, and if there is none it is [`Filled::Full`].
    ///
    /// So WouldBlock means that the socket was empty, always. And whoever holds back the last bytes of a stream in
    /// the pipe may find it full with nothing else in it: then they have to be read out, too.
    ///
    /// One more EAGAIN is the kernel's: splice stops before an urgent byte (`net/ipv4/tcp.c`, `tcp_read_sock`), which
    /// a read steps over. A direction that goes back to reading when its socket seems empty is not stopped by it.
    pub fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<Filled> {
        self.duct.as_mut().map_or(Ok(Filled::Full), |duct| duct.fill(from))
    }

    /// Moves at most `most` of the bytes inside to a socket that does not block; how many went. WouldBlock means that
    /// the socket takes nothing at present, always: with nothing to move it is not asked, and 0 went.
    pub fn drain(&mut self, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        let moved = self.duct.as_mut().map_or(Ok(0), |duct| duct.drain(to, most))?;
        SPLICED.fetch_add(moved as u64, Relaxed);
        Ok(moved)
    }

    /// Takes bytes out to look at them; 0 when there are none, or no room in `into`. It never waits, and gives less
    /// than there is only when `into` is full.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.duct.as_mut().map_or(Ok(0), |duct| duct.read(into))
    }

    /// Bytes inside.
    pub fn len(&self) -> usize {
        self.duct.as_ref().map_or(0, |duct| duct.len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that there is room for when it is empty, in pieces of 4 KiB or more.
    pub fn capacity(&self) -> usize {
        self.duct.as_ref().map_or(0, |duct| duct.capacity)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(duct) = self.duct.take().filter(Duct::is_surely_empty) else { return };
        // A thread that ends has no pool any more, and the pipe is closed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < POOL_MAX && mode() != Mode::Off {
                pool.push(duct);
            }
        });
    }
}
