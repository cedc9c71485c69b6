//! Durations and sizes as people write them, and back.

use std::time::Duration;

/// Reads `3s`, `0.5s`, `250ms`, `1.5m`, `2h`, `1d`, `10us`. The error is a sentence that says what to write.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let unit_nanos: u64 = match unit {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        "d" => 86_400 * 1_000_000_000,
        "" if !number.is_empty() => {
            return Err(format!("`{text}` has no unit: write {number}s, or {number}ms as HAProxy reads it"));
        }
        _ => {
            return Err(format!(
                "`{text}` is not a duration: write a number and one of us, ms, s, m, h, d, such as 3s"
            ));
        }
    };
    let nanos = scaled(number, unit_nanos)
        .ok_or_else(|| format!("`{text}` is not a duration: write a number and a unit, such as 3s or 0.5s"))?;
    let nanos = u64::try_from(nanos).map_err(|_| format!("`{text}` is longer than anyone can wait"))?;
    Ok(Duration::from_nanos(nanos))
}

/// Reads `16MB`, `512kB`, `1GB`, `16MiB` or bare bytes. As in PostgreSQL, kB is 1024 bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let power = match unit {
        "" | "B" => 0,
        "kB" | "KB" | "KiB" | "kiB" => 1,
        "MB" | "MiB" => 2,
        "GB" | "GiB" => 3,
        "TB" | "TiB" => 4,
        _ => {
            return Err(format!(
                "`{text}` is not a size: write bytes, or a number and one of kB, MB, GB, TB (as in PostgreSQL, 1kB is 1024 bytes)"
            ));
        }
    };
    let bytes = scaled(number, 1u64 << (10 * power))
        .ok_or_else(|| format!("`{text}` is not a size: write a number and a unit, such as 16MB"))?;
    u64::try_from(bytes).map_err(|_| format!("`{text}` is more than fits in 64 bits"))
}

/// Reads `200`, `200-399` or `200,206` as inclusive ranges of HTTP statuses.
pub(super) fn statuses(text: &str) -> Result<Vec<(u16, u16)>, String> {
    text.split(',').map(|part| status_range(part.trim())).collect()
}

fn status_range(text: &str) -> Result<(u16, u16), String> {
    let known = 100..=599;
    let number = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|status| digits && known.contains(status))
    };
    let (from, to) = text.split_once('-').map_or((text, text), |(from, to)| (from.trim(), to.trim()));
    match (number(from), number(to)) {
        (Some(from), Some(to)) if from <= to => Ok((from, to)),
        (Some(from), Some(to)) => Err(format!("`{text}` is empty: write {to}-{from}")),
        _ => {
            let class = text
                .strip_suffix("xx")
                .or(text.strip_suffix("XX"))
                .filter(|class| number(&format!("{class}00")).is_some());
            let meant = class.map(|class| format!("; write {class}00-{class}99")).unwrap_or_default();
            Err(format!("`{text}` is not an HTTP status from 100 to 599 or a range such as 200-399{meant}"))
        }
    }
}

/// The shortest exact way to write a duration: `3s`, `1.5s`, `250ms`, `2h`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let units: [(u128, &str); 6] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    if nanos == 0 {
        return "0s".to_string();
    }
    let whole = units.iter().find(|(unit, _)| nanos.is_multiple_of(*unit));
    match whole {
        Some((unit, name)) if !(nanos > 1_000_000_000 && *unit < 1_000_000_000) => format!("{}{name}", nanos / unit),
        _ => format!("{}s", duration.as_secs_f64()),
    }
}

/// The largest unit that divides a size: `16MB`, `1000B`.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(1u64 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")];
    match units.iter().find(|(unit, _)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// The leading number and what follows it.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// A decimal number times `unit`, rounded down; None when it is not one.
fn scaled(number: &str, unit: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction_is_short = fraction.len() <= 15 && fraction.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !fraction_is_short || number.ends_with('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = u128::from(part) * u128::from(unit) / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(u128::from(whole) * u128::from(unit) + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let good = [("3s", 3_000_000), ("0.5s", 500_000), ("250ms", 250_000), ("1.5m", 90_000_000), ("10us", 10)];
        for (text, micros) in good {
            assert_eq!(duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("3"), Err("`3` has no unit: write 3s, or 3ms as HAProxy reads it".to_string()));
        for text in ["", "s", "-1s", "1m30s", "1..5s", ".5s", "5.s", "3 sec", "٣s", "1e3s", "99999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(duration("18446744073709551615d").unwrap_err().contains("longer than anyone"));
    }

    #[test]
    fn sizes_are_postgres_sizes() {
        let good = [("16MB", 16 << 20), ("512kB", 512 << 10), ("1GiB", 1 << 30), ("1.5MB", 3 << 19), ("8192", 8192)];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(size("16mb").unwrap_err().contains("1kB is 1024 bytes"));
        assert!(size("99999999999TB").is_err());
        assert!(size("lots").is_err());
    }

    #[test]
    fn statuses_are_ranges() {
        assert_eq!(statuses("200"), Ok(vec![(200, 200)]));
        assert_eq!(statuses("200-399"), Ok(vec![(200, 399)]));
        assert_eq!(statuses("200, 204 - 206"), Ok(vec![(200, 200), (204, 206)]));
        assert!(statuses("399-200").unwrap_err().contains("write 200-399"));
        assert!(statuses("2xx").unwrap_err().contains("write 200-299"));
        for text in ["", "99", "600", "200-", "-200", "0200", "200,", "+20", "200-300-400", "9xx"] {
            assert!(statuses(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in ["3s", "1.5s", "250ms", "90s", "2h", "1d", "10us", "0s", "1.000001s"] {
            let read = duration(text).unwrap();
            assert_eq!(duration(&show_duration(read)), Ok(read), "{text}");
        }
        assert_eq!(show_duration(Duration::from_millis(1500)), "1.5s");
        assert_eq!(show_size(16 << 20), "16MB");
        assert_eq!(show_size(1000), "1000B");
    }
}
