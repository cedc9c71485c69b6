//! One log line as one syslog datagram.
//!
//! Local daemons get what the C library's `syslog()` sends (RFC 3164 without the host, which they fill
//! in); over the network it is RFC 5424.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::Level;

use crate::config::Facility;

/// Longer datagrams are cut. RFC 5424, section 6.1: receivers should take 2048 octets. RFC 3164's limit
/// of 1024 was for relays; daemons on the same machine take more, and a session's line as JSON needs it.
pub(super) const DATAGRAM_BYTES_MAX: usize = 2048;

/// What begins every datagram of one target.
#[derive(Debug, Clone)]
pub(super) enum Form {
    Rfc3164,
    Rfc5424 { host: String },
}

/// Makes datagrams for one target.
#[derive(Debug, Clone)]
pub(super) struct Framer {
    pub form: Form,
    pub facility: Facility,
    pub pid: u32,
}

impl Framer {
    /// `line` is as written to stderr; `at` is seconds since 1970.
    pub fn frame(&self, level: Level, at: f64, line: &[u8]) -> Vec<u8> {
        let priority = u32::from(self.facility.0) * 8 + severity(level);
        let pid = self.pid;
        let mut text = match &self.form {
            Form::Rfc3164 => format!("<{priority}>{} pgvane[{pid}]: ", local(at)),
            Form::Rfc5424 { host } => format!("<{priority}>1 {} {host} pgvane {pid} - - ", universal(at)),
        };
        text.push_str(&message(line));
        cut(&mut text, DATAGRAM_BYTES_MAX);
        text.into_bytes()
    }
}

/// RFC 5424, table 2.
fn severity(level: Level) -> u32 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// The line without colours and, where it begins with one, without its time: the datagram has its own.
fn message(line: &[u8]) -> String {
    let plain = without_colours(&String::from_utf8_lossy(line));
    let trimmed = plain.trim();
    let rest = match trimmed.split_once(' ') {
        Some((time, rest)) if time.ends_with('Z') && time.starts_with(|c: char| c.is_ascii_digit()) => {
            rest.trim_start()
        }
        _ => trimmed,
    };
    rest.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Leaves out `ESC [ ... letter`.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        plain.push_str(&part[end..]);
    }
    plain
}

/// At a character.
fn cut(text: &mut String, bytes_max: usize) {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// `Oct 11 22:14:15`, RFC 3164, section 4.1.2: the local time.
fn local(at: f64) -> String {
    timestamp(at).to_zoned(TimeZone::system()).strftime("%b %e %H:%M:%S").to_string()
}

/// `2003-10-11T22:14:15.003Z`.
fn universal(at: f64) -> String {
    timestamp(at).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// `at` is in seconds since 1970.
fn timestamp(at: f64) -> Timestamp {
    Timestamp::from_millisecond((at * 1000.0).round() as i64).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framer(form: Form) -> Framer {
        Framer { form, facility: Facility(16), pid: 7 }
    }

    fn network() -> Framer {
        framer(Form::Rfc5424 { host: "db1".to_owned() })
    }

    fn text(framer: &Framer, level: Level, line: &str) -> String {
        String::from_utf8(framer.frame(level, 1_065_910_455.003, line.as_bytes())).unwrap()
    }

    #[test]
    fn the_network_form_is_rfc_5424s() {
        let line = "2026-01-02T03:04:05.678901Z  WARN pgvane::member: n1 is down\n";
        let told = "<132>1 2003-10-11T22:14:15.003Z db1 pgvane 7 - - WARN pgvane::member: n1 is down";
        assert_eq!(text(&network(), Level::WARN, line), told);
    }

    #[test]
    fn the_local_form_is_the_c_librarys() {
        let told = text(&framer(Form::Rfc3164), Level::ERROR, "2026-01-02T03:04:05Z ERROR a: b\n");
        assert!(told.starts_with("<131>Oct ") && told.ends_with(" pgvane[7]: ERROR a: b"), "{told}");
        assert_eq!(told.find(" pgvane"), Some("<131>Oct 11 22:14:15".len()), "{told}");
    }

    #[test]
    fn severities_are_syslogs() {
        let first = |level| text(&network(), level, "x")[..6].to_owned();
        let all = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE].map(first);
        assert_eq!(all, ["<131>1", "<132>1", "<134>1", "<135>1", "<135>1"]);
    }

    #[test]
    fn colours_and_line_ends_stay_behind() {
        let coloured = "\u{1b}[2m2026-01-02T03:04:05Z\u{1b}[0m \u{1b}[32m INFO\u{1b}[0m one\ntwo\n";
        assert!(text(&network(), Level::INFO, coloured).ends_with(" - - INFO one two"));
        assert!(text(&network(), Level::INFO, "{\"a\": 1}\n").ends_with(" - - {\"a\": 1}"));
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        for pad in 0..3 {
            let told = text(&network(), Level::INFO, &format!("{}{}", "x".repeat(pad), "€".repeat(2000)));
            assert!(told.len() <= DATAGRAM_BYTES_MAX && told.len() > DATAGRAM_BYTES_MAX - 3, "{}", told.len());
        }
    }
}
