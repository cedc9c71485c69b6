//! The text form of log lines. A session's line is HAProxy's tcplog line, for the parsers that know it:
//! its fields are in it already and are not written a second time.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whose messages are complete.
const SESSIONS: &str = "pgvane::session";

/// Time, level, target, and what there is to say.
#[derive(Debug, Default)]
pub(super) struct Lines(Format<Full>);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        if metadata.target() != SESSIONS {
            return self.0.format_event(context, writer, event);
        }
        SystemTime.format_time(&mut writer)?;
        write!(writer, " {:>5} {SESSIONS}: ", metadata.level())?;
        let mut message = Message { writer: writer.by_ref(), outcome: Ok(()) };
        event.record(&mut message);
        message.outcome?;
        writer.write_char('\n')
    }
}

struct Message<'w> {
    writer: Writer<'w>,
    outcome: fmt::Result,
}

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" && self.outcome.is_ok() {
            self.outcome = write!(self.writer, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sessions_line_is_its_message_and_others_have_their_fields() {
        let page = Page::default();
        let written = page.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).event_format(Lines::default());
        tracing::subscriber::with_default(lines.with_writer(move || written.clone()).finish(), || {
            tracing::info!(target: "pgvane::session", member = "n1", "10.0.0.1:5 [..] a a/n1 0/1/2 3 --");
            tracing::info!(target: "pgvane::member", member = "n1", "n1 is up");
        });
        let text = String::from_utf8(page.0.lock().clone()).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1.trim_start()).collect();
        assert_eq!(
            lines,
            ["INFO pgvane::session: 10.0.0.1:5 [..] a a/n1 0/1/2 3 --", "INFO pgvane::member: n1 is up member=\"n1\""]
        );
    }
}
