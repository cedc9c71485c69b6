//! One log line as one syslog datagram.
//!
//! Local daemons get what the C library's `syslog()` sends (RFC 3164 without the host, which they fill
//! in); over the network it is RFC 5424.

use tracing::Level;

use crate::config::Facility;
use crate::sys::local_time::{LocalTime, local_time};

/// Longer datagrams are cut. RFC 5424, section 6.1: receivers should take 2048 octets. RFC 3164's limit
/// of 1024 was for relays; daemons on the same machine take more, and a session's line as JSON needs it.
pub(super) const DATAGRAM_BYTES_MAX: usize = 2048;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY_SECONDS: i64 = 86_400;

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
    let Some(LocalTime { month, day, hour, minute, second }) = local_time(at as i64) else {
        return "Jan  1 00:00:00".to_owned();
    };
    let month = MONTHS.get(month).unwrap_or(&MONTHS[0]);
    format!("{month} {day:>2} {hour:02}:{minute:02}:{second:02}")
}

/// `2003-10-11T22:14:15.003Z`.
fn universal(at: f64) -> String {
    let millis = (at * 1000.0) as i64;
    let (seconds, millis) = (millis.div_euclid(1000), millis.rem_euclid(1000));
    let (days, of_day) = (seconds.div_euclid(DAY_SECONDS), seconds.rem_euclid(DAY_SECONDS));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month from 1 and day from 1 of a day since 1970 (H. Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
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

    #[test]
    fn days_are_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(-1), (1969, 12, 31));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(19_783), (2024, 3, 1));
    }
}
