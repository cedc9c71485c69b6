//! The wall clock of this machine's time zone, which the standard library does not know.

use std::mem::MaybeUninit;

use nix::libc;

/// A moment as the clock on the wall shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// 0 is January.
    pub month: usize,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
}

/// None when the C library cannot tell.
pub fn local_time(unix_seconds: i64) -> Option<LocalTime> {
    let mut broken_down = MaybeUninit::<libc::tm>::zeroed();
    let at: libc::time_t = unix_seconds;
    // SAFETY: both pointers are valid for the call, and localtime_r keeps neither of them. A `tm` of
    // zeros is a valid value (its pointer is null), so reading it is sound whatever the call did.
    let (told, tm) = unsafe { (libc::localtime_r(&at, broken_down.as_mut_ptr()), broken_down.assume_init()) };
    if told.is_null() {
        return None;
    }
    let number = |field: libc::c_int| u32::try_from(field).ok();
    Some(LocalTime {
        month: usize::try_from(tm.tm_mon).ok()?,
        day: number(tm.tm_mday)?,
        hour: number(tm.tm_hour)?,
        minute: number(tm.tm_min)?,
        second: number(tm.tm_sec)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_later_is_the_same_time_of_day_or_an_hour_off() {
        let (one, other) = (local_time(1_700_000_000).unwrap(), local_time(1_700_086_400).unwrap());
        assert_eq!((one.minute, one.second), (other.minute, other.second));
        assert_eq!((one.month, other.month), (10, 10));
        assert_eq!(other.day, one.day + 1);
    }
}
