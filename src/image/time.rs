//! Times in images: RFC 3339 in UTC.

use std::ops::RangeInclusive;

/// The seconds since 1970 that an image can be dated with: the years 1 to 9999. RFC 3339 has four digits for a year, and
/// Go's `time` refuses to read more.
pub const DATES: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Writes a time; the fraction in nanoseconds is left out where it is none.
pub fn rfc3339(seconds: i64, nanoseconds: Option<u32>) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let fraction = match nanoseconds {
        Some(nanoseconds) => format!(".{nanoseconds:09}"),
        None => String::new(),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The seconds since 1970 of a time; `None` of what is none.
pub fn seconds(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (date, clock) =
        ((number(0..4)?, number(5..7)?, number(8..10)?), (number(11..13)?, number(14..16)?, number(17..19)?));
    let zone = text.get(19..)?.trim_start_matches(|character: char| character == '.' || character.is_ascii_digit());
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), ..] if zone.len() == 6 => {
            let minutes = zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?;
            if *sign == b'+' { minutes * 60 } else { -minutes * 60 }
        }
        _ => return None,
    };
    Some(days(date) * 86_400 + clock.0 * 3600 + clock.1 * 60 + clock.2 - offset)
}

/// The inverse of [`civil`] (`days_from_civil`).
fn days((year, month, day): (i64, i64, i64)) -> i64 {
    let shifted = year - i64::from(month <= 2);
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(rfc3339(0, None), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400, None), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_255_845, Some(5)), "2026-11-21T10:10:45.000000005Z");
        assert_eq!(rfc3339(-1, None), "1969-12-31T23:59:59Z");
        assert_eq!(rfc3339(*DATES.start(), None), "0001-01-01T00:00:00Z");
        assert_eq!(rfc3339(*DATES.end(), None), "9999-12-31T23:59:59Z");
    }
    #[test]
    fn times_are_read_as_they_are_written() {
        for time in [0, -1, 951_782_400, 1_795_255_845, 4_102_444_799] {
            assert_eq!(seconds(&rfc3339(time, None)), Some(time));
            assert_eq!(seconds(&rfc3339(time, Some(7))), Some(time));
        }
        assert_eq!(seconds("1970-01-01T02:00:00.5+02:00"), Some(0));
        for text in
            ["", "1970", "1970-01-01T00:00:00", "1970-01-01T00:00:00+2", "x970-01-01T00:00:00Z", "1970-01-01T00:00:0éZ"]
        {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
