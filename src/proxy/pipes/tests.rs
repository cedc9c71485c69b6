//! Bytes through real sockets. What is process-wide here is each test's own only with a process for each test; the
//! others take turns.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;

use parking_lot::{Mutex, MutexGuard};
use proptest::prelude::*;
use tokio::io::Interest;

use super::trial::{self, Step};
use super::*;

/// The mode, the places and the verdict are the process's.
static TURN: Mutex<()> = Mutex::new(());

/// Splice is on and works, and this thread's pool is empty.
fn turn() -> MutexGuard<'static, ()> {
    let turn = TURN.lock();
    set(Mode::Auto);
    judge(Ok(()));
    POOL.with_borrow_mut(Vec::clear);
    turn
}

fn pooled() -> usize {
    POOL.with_borrow(Vec::len)
}

/// Our end does not block, theirs does.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nodelay(true).unwrap();
    (ours, theirs)
}

/// Fills once there is something or an end.
fn fill(pipe: &mut Pipe, from: &TcpStream) -> Filled {
    loop {
        match pipe.fill(from.as_fd()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

fn is_waiting<T: std::fmt::Debug>(outcome: &io::Result<T>) -> bool {
    matches!(outcome, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn an_empty_socket_would_block_and_an_end_is_an_end() {
    let _turn = turn();
    let (ours, mut theirs) = connection();
    let mut pipe = take().unwrap();
    assert!(is_waiting(&pipe.fill(ours.as_fd())));
    theirs.write_all(b"last").unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    assert_eq!(fill(&mut pipe, &ours), Filled::Bytes(4));
    assert_eq!(fill(&mut pipe, &ours), Filled::End);
    assert_eq!(pipe.len(), 4, "the end of the stream takes nothing from what is inside");
    let mut read = [0; 64];
    assert_eq!(pipe.read(&mut read).unwrap(), 4);
    assert_eq!(&read[..4], b"last");
    assert_eq!((pipe.read(&mut read).unwrap(), pipe.drain(ours.as_fd(), 9).unwrap()), (0, 0), "there is nothing");
}

#[test]
fn a_socket_with_bytes_inside_the_pipe_is_empty_only_if_it_is() {
    let _turn = turn();
    let (ours, mut theirs) = connection();
    let mut pipe = take().unwrap();
    theirs.write_all(&[7; 1000]).unwrap();
    while pipe.len() < 1000 {
        fill(&mut pipe, &ours);
    }
    assert!(is_waiting(&pipe.fill(ours.as_fd())), "there is room, so it is the socket");
}

/// Each segment of one byte takes a slot, if the kernel has not joined it with the one before: the sender's
/// writes are as far apart as the receiver's acknowledgements.
#[test]
fn thousands_of_segments_of_one_byte_fill_a_pipe_and_stall_nobody() {
    const SEGMENTS: usize = 5000;
    let _turn = turn();
    let (ours, mut theirs) = connection();
    let mut pipe = take().unwrap();
    let mut came = Vec::new();
    let mut times_full = 0;
    for index in 0..SEGMENTS {
        theirs.write_all(&[index as u8]).unwrap();
        // Nothing is drained until it is full, as with a tail that is held back.
        match fill(&mut pipe, &ours) {
            Filled::Bytes(n) => assert_eq!(n, 1),
            Filled::Full => {
                times_full += 1;
                assert!(pipe.len() < 1024, "{} bytes", pipe.len());
                let mut tail = [0; 1024];
                let n = pipe.read(&mut tail).unwrap();
                assert!(pipe.is_empty());
                came.extend_from_slice(&tail[..n]);
                assert_eq!(fill(&mut pipe, &ours), Filled::Bytes(1), "what came meanwhile was not forgotten");
            }
            Filled::End => panic!("it has not ended"),
        }
    }
    let mut tail = vec![0; SEGMENTS];
    let n = pipe.read(&mut tail).unwrap();
    came.extend_from_slice(&tail[..n]);
    assert!(times_full > 10, "full {times_full} times");
    assert!(came.len() == SEGMENTS && came.iter().enumerate().all(|(at, byte)| *byte == at as u8));
}

/// The stall itself: with WouldBlock for a full pipe the runtime would forget that the socket has something.
#[test]
fn a_full_pipe_does_not_make_the_runtime_forget_its_socket() {
    const SEGMENTS: usize = 600;
    let _turn = turn();
    let (ours, mut theirs) = connection();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let ours = tokio::net::TcpStream::from_std(ours).unwrap();
    let mut pipe = take().unwrap();
    let (mut came, mut times_full) = (0, 0);
    let all = async {
        for sent in 1..=SEGMENTS {
            theirs.write_all(b"x").unwrap();
            while came + pipe.len() < sent {
                ours.readable().await.unwrap();
                match ours.try_io(Interest::READABLE, || pipe.fill(ours.as_fd())) {
                    Ok(Filled::Full) => {
                        times_full += 1;
                        came += pipe.read(&mut [0; 1024]).unwrap();
                    }
                    Ok(filled) => assert_eq!(filled, Filled::Bytes(1)),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        }
    };
    let limit = std::time::Duration::from_secs(60);
    let all = async { tokio::time::timeout(limit, all).await };
    assert!(runtime.block_on(all).is_ok(), "stalled, full {times_full} times");
    assert!(times_full > 0);
}

#[test]
fn a_pipe_takes_no_more_bytes_than_its_capacity() {
    let _turn = turn();
    let (ours, theirs) = connection();
    let mut duct = Duct::open(PIPE_BYTES_MIN).unwrap();
    let size = duct.capacity;
    theirs.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while duct.len < size {
        sent += (&theirs).write(&[1; 32 * 1024]).unwrap_or(0);
        match duct.fill(ours.as_fd()) {
            // Full by its slots.
            Ok(Filled::Full) => break,
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert!(duct.len <= size && duct.len <= sent, "{} of {size}", duct.len);
    assert_eq!(duct.fill(ours.as_fd()).unwrap(), Filled::Full);
    let mut all = vec![0; size];
    assert_eq!(duct.read(&mut all).unwrap(), all.iter().filter(|byte| **byte == 1).count());
    assert!(duct.is_surely_empty());
}

#[test]
fn a_socket_that_takes_nothing_would_block_and_loses_nothing() {
    let _turn = turn();
    let (from, mut source) = connection();
    let (to, mut sink) = connection();
    let mut pipe = take().unwrap();
    let feeder = std::thread::spawn(move || {
        // Until the other end is closed.
        let mut sent = 0_usize;
        while sent < 64 * PIPE_BYTES && source.write_all(&[sent as u8; 4096]).is_ok() {
            sent += 4096;
        }
    });
    let mut moved = 0;
    loop {
        if pipe.is_empty() {
            fill(&mut pipe, &from);
        }
        match pipe.drain(to.as_fd(), usize::MAX) {
            Ok(n) => moved += n,
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    let inside = pipe.len();
    assert!(inside > 0 && is_waiting(&pipe.drain(to.as_fd(), inside)) && pipe.len() == inside);
    sink.read_exact(&mut vec![0; moved]).unwrap();
    drop(from);
    feeder.join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What goes in comes out, whatever the sizes and whichever way it leaves.
    #[test]
    fn bytes_in_are_bytes_out(
        sizes in prop::collection::vec((1_usize..40_000, 0_usize..50_000, any::<bool>()), 1..30),
    ) {
        let _turn = turn();
        let (from, mut source) = connection();
        let (to, sink) = connection();
        sink.set_nonblocking(true).unwrap();
        let mut pipe = take().unwrap();
        let (mut wanted, mut got) = (Vec::new(), Vec::new());
        let mut next = 0_u32;
        for (size, most, by_read) in sizes {
            let chunk: Vec<u8> = (0..size).map(|_| { next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); (next >> 24) as u8 }).collect();
            source.write_all(&chunk).unwrap();
            wanted.extend(chunk);
            let mut came = 0;
            while came < size {
                if let Filled::Bytes(n) = fill(&mut pipe, &from) { came += n; }
                prop_assert!(pipe.len() <= pipe.capacity());
                move_on(&mut pipe, &to, &sink, most.max(1), by_read, &mut got);
            }
        }
        while !pipe.is_empty() {
            move_on(&mut pipe, &to, &sink, usize::MAX, false, &mut got);
        }
        prop_assert_eq!(wanted, got);
    }
}

/// Takes up to `most` bytes out, through a socket or by reading, and waits for them on the other side.
fn move_on(pipe: &mut Pipe, to: &TcpStream, mut sink: &TcpStream, most: usize, by_read: bool, got: &mut Vec<u8>) {
    if by_read {
        let mut bytes = vec![0; most];
        let n = pipe.read(&mut bytes).unwrap();
        return got.extend(&bytes[..n]);
    }
    let n = match pipe.drain(to.as_fd(), most) {
        Ok(n) => n,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            0
        }
    };
    let mut bytes = vec![0; n];
    let mut came = 0;
    while came < n {
        match sink.read(&mut bytes[came..]) {
            Ok(more) => came += more,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    got.extend(bytes);
}

#[test]
fn an_empty_pipe_is_kept_and_one_with_bytes_is_not() {
    let _turn = turn();
    let (ours, mut theirs) = connection();
    drop(take().unwrap());
    assert_eq!(pooled(), 1);
    let mut pipe = take().unwrap();
    assert_eq!(pooled(), 0);
    theirs.write_all(b"of this session").unwrap();
    fill(&mut pipe, &ours);
    drop(pipe);
    assert_eq!(pooled(), 0, "nobody else may see these bytes");
    let mut pipe = take().unwrap();
    theirs.write_all(b"and these").unwrap();
    fill(&mut pipe, &ours);
    assert_eq!(pipe.read(&mut [0; 64]).unwrap(), 9);
    drop(pipe);
    assert_eq!(pooled(), 1);
}

#[test]
fn pipes_in_use_have_an_end_and_places_are_given_back() {
    let _turn = turn();
    // Places alone: as many pipes are all that a user may have, and other tests have some.
    let mut others: Vec<Place> = (2..PIPES_MAX).map(|_| Place::take().unwrap()).collect();
    let (first, second) = (take().unwrap(), take().unwrap());
    assert!(take().is_none());
    drop(first);
    let third = take().unwrap();
    assert!(take().is_none());
    others.pop();
    let elsewhere = take().unwrap();
    std::thread::spawn(move || drop(elsewhere)).join().unwrap();
    drop((second, third, others));
    assert_eq!(IN_USE.load(Relaxed), 0);
}

#[test]
fn a_thread_keeps_a_handful() {
    let _turn = turn();
    let all: Vec<Pipe> = (0..=POOL_MAX).map(|_| take().unwrap()).collect();
    drop(all);
    assert_eq!(pooled(), POOL_MAX);
}

#[test]
fn nobody_gets_one_while_it_is_off_or_does_not_work() {
    let _turn = turn();
    drop(take().unwrap());
    set(Mode::Off);
    assert!(take().is_none() && mode() == Mode::Off);
    assert_eq!(pooled(), 0, "what nobody will use again is closed");
    set(Mode::Always);
    let lent = take().unwrap();
    assert!(judge(Err("byte 3 came out wrong".to_owned())));
    assert!(take().is_none() && mode() == Mode::Off);
    let told = snapshot();
    assert_eq!(
        (told.configured, told.state(), told.unusable.as_deref()),
        (Mode::Always, "unusable", Some("byte 3 came out wrong"))
    );
    drop(lent);
    assert_eq!(pooled(), 0);
    assert!(!judge(Ok(())));
    assert!(take().is_some() && snapshot().state() == "always");
}

#[test]
fn what_was_spliced_is_counted_and_what_was_read_is_not() {
    let _turn = turn();
    let (ours, mut theirs) = connection();
    let mut pipe = take().unwrap();
    theirs.write_all(&[1; 100]).unwrap();
    while pipe.len() < 100 {
        fill(&mut pipe, &ours);
    }
    let before = snapshot().bytes;
    assert_eq!(pipe.drain(ours.as_fd(), 60).unwrap(), 60);
    assert_eq!(pipe.read(&mut [0; 64]).unwrap(), 40);
    assert_eq!(snapshot().bytes - before, 60);
}

/// What a user gets who has `fs.pipe-user-pages-soft` pages of pipes already: two pages (pipe(7)).
#[test]
fn a_pipe_that_the_kernel_made_small_is_not_used() {
    let mut small = Duct::open(PIPE_BYTES).unwrap();
    small.capacity = 8192;
    let why = large_enough(Ok(small)).unwrap_err();
    assert!(why.contains("8192 bytes") && why.contains("fs.pipe-user-pages-soft"), "{why}");
    let given = large_enough(Duct::open(PIPE_BYTES_MIN)).unwrap();
    assert!(given.capacity >= PIPE_BYTES_MIN);
    let why = large_enough(Err(io::Error::from_raw_os_error(nix::libc::EMFILE))).unwrap_err();
    assert!(why.starts_with("cannot open one: Too many open files"), "{why}");
}

/// What `trial::run` says of splice with something in its way.
fn tried(mut meddle: impl FnMut(&TcpStream, &TcpStream, usize) -> Option<io::Result<Step>>) -> String {
    let (mut splice, mut turns) = (trial::by_splice(), 0);
    let outcome = trial::run(|from, to| {
        turns += 1;
        meddle(from, to, turns).unwrap_or_else(|| splice(from, to))
    });
    outcome.unwrap_err()
}

#[test]
fn the_trial_succeeds_here() {
    assert_eq!(try_out(), Ok(()));
}

#[test]
fn the_trial_notices_a_byte_that_changed() {
    let mut seen = 0;
    let why = trial::run(|from, to| {
        let (mut from, mut to) = (from, to);
        let mut bytes = [0; 1000];
        match from.read(&mut bytes) {
            Ok(0) => Ok(Step::Ended),
            Ok(n) => {
                if (seen..seen + n).contains(&70_000) {
                    bytes[70_000 - seen] ^= 1;
                }
                seen += n;
                to.write_all(&bytes[..n]).map(|()| Step::Moved)
            }
            Err(_) => Ok(Step::Waits),
        }
    });
    assert_eq!(why, Err("byte 70000 of 262145 came out wrong".to_owned()));
}

#[test]
fn the_trial_notices_bytes_that_are_lost_or_too_many() {
    let mut swallowed = 0;
    let swallow = |mut from: &TcpStream, _: &TcpStream, turn: usize| {
        if turn > 1 && swallowed == 0 {
            swallowed = from.read(&mut [0; 100]).unwrap_or(0);
        }
        None
    };
    let why = tried(swallow);
    assert!(why.contains("came out wrong"), "{why}");
    let repeat =
        |_: &TcpStream, mut to: &TcpStream, turn: usize| (turn == 3).then(|| to.write(b"again").map(|_| Step::Moved));
    let why = tried(repeat);
    assert!(why.contains("came out wrong"), "{why}");
    let end_early = |_: &TcpStream, _: &TcpStream, turn: usize| (turn == 3).then_some(Ok(Step::Ended));
    let why = tried(end_early);
    assert!(why.starts_with("the stream ended after ") && why.ends_with(" of 262145 bytes"), "{why}");
}

#[test]
fn the_trial_ends_by_itself_and_tells_what_the_kernel_said() {
    let why = tried(|_, _, turn| (turn > 2).then_some(Ok(Step::Waits)));
    assert!(why.starts_with("it took longer than 1000 ms, and "), "{why}");
    let why = tried(|_, _, turn| (turn > 2).then(|| Err(io::Error::from_raw_os_error(nix::libc::ENOSYS))));
    assert!(why.starts_with("a call failed after ") && why.contains("not implemented"), "{why}");
}
