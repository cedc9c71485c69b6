//! A thread that writes log lines, so that nobody who routes clients ever waits for whoever reads them.

use std::io::{self, BufWriter, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::config::SyslogSpec;

use super::syslog::Syslog;

/// Lines that may wait for a slow reader: those of ten thousand sessions cut at once. One that finds
/// no place is lost and counted.
const LINES_MAX: usize = 16_384;
const BUFFER_BYTES: usize = 64 * 1024;

static LOST: AtomicU64 = AtomicU64::new(0);
static QUEUE: OnceLock<Queue> = OnceLock::new();

enum Word {
    Line(Level, Vec<u8>),
    /// About the log itself, for stderr alone.
    Aside(String),
    /// From here on lines go there, too, or nowhere else.
    Syslog(Option<Syslog>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Where lines go in; cheap to clone.
#[derive(Clone)]
pub(super) struct Queue(SyncSender<Word>);

/// Starts the thread.
pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Queue> {
    let (sender, words) = sync_channel(LINES_MAX);
    thread::Builder::new().name("pgvane-log".to_owned()).spawn(move || write_out(&words, out))?;
    Ok(QUEUE.get_or_init(|| Queue(sender)).clone())
}

/// Every line after this goes to this daemon, too; None: to none.
pub(super) fn to_syslog(spec: Option<SyslogSpec>) -> io::Result<()> {
    let Some(queue) = QUEUE.get() else { return Ok(()) };
    let aside = queue.0.clone();
    // Whoever says something about the log must not wait for the log.
    let say = move |text| drop(aside.try_send(Word::Aside(text)));
    let syslog = spec.map(|spec| Syslog::start(spec, say)).transpose()?;
    queue.0.try_send(Word::Syslog(syslog)).map_err(|_| io::Error::other("the log is too busy to be told"))
}

/// Waits until all lines are written, at most `limit`.
pub(super) fn flush(limit: Duration) {
    let Some(Queue(sender)) = QUEUE.get() else { return };
    let (done, written) = sync_channel(1);
    // A queue that is full now has a reader that is stuck.
    if sender.try_send(Word::Flush(done)).is_ok() {
        let _in_time = written.recv_timeout(limit);
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line { queue: self, level: *meta.level() }
    }
}

/// Takes one line of this level.
pub(super) struct Line<'a> {
    queue: &'a Queue,
    level: Level,
}

impl Write for Line<'_> {
    /// The formatter hands over each line whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.0.try_send(Word::Line(self.level, line.to_vec())).is_err() {
            LOST.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is there is written in one go. A reader that went away does not end the router.
fn write_out(words: &Receiver<Word>, out: impl Write) {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
    let mut syslog: Option<Syslog> = None;
    while let Ok(first) = words.recv() {
        let mut flushed = Vec::new();
        for word in std::iter::once(first).chain(words.try_iter().take(LINES_MAX)) {
            match word {
                Word::Line(level, line) => {
                    if let Some(syslog) = &mut syslog {
                        syslog.line(level, &line);
                    }
                    drop(out.write_all(&line));
                }
                Word::Aside(text) => drop(writeln!(out, "pgvane::log: {text}")),
                Word::Syslog(other) => syslog = other,
                Word::Flush(done) => flushed.push(done),
            }
        }
        let lost = LOST.swap(0, Relaxed);
        if lost > 0 {
            let told = format!("pgvane::log: {lost} lines were lost because nobody read them in time\n");
            drop(out.write_all(told.as_bytes()));
        }
        drop(out.flush());
        for done in flushed {
            match &syslog {
                Some(syslog) => syslog.flush(done),
                None => {
                    let _nobody_waits = done.try_send(());
                }
            }
        }
    }
}
