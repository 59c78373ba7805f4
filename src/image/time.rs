//! Times in images: RFC 3339 in UTC.

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

/// Whether a text is a time as [`rfc3339`] writes it.
pub fn is_rfc3339(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00:00:00";
    let Some((moment, rest)) = text.as_bytes().split_at_checked(FORM.len()) else { return false };
    let is_formed = moment.iter().zip(FORM).all(|(found, form)| match form {
        b'0' => found.is_ascii_digit(),
        form => found == form,
    });
    let fraction = rest.strip_suffix(b"Z").map(|rest| rest.strip_prefix(b".").unwrap_or(rest));
    is_formed
        && fraction.is_some_and(|fraction| fraction.len() <= 9 && fraction.iter().all(u8::is_ascii_digit))
        && number(&moment[5..7]).is_some_and(|month| (1..=12).contains(&month))
        && number(&moment[8..10]).is_some_and(|day| (1..=31).contains(&day))
        && number(&moment[11..13]).is_some_and(|hour| hour < 24)
        && [&moment[14..16], &moment[17..19]].iter().all(|part| number(part).is_some_and(|number| number < 60))
}

fn number(digits: &[u8]) -> Option<u8> {
    std::str::from_utf8(digits).ok()?.parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(rfc3339(0, None), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400, None), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_255_845, Some(5)), "2026-11-21T10:10:45.000000005Z");
        assert_eq!(rfc3339(-1, None), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn what_is_written_is_a_time_and_little_else() {
        for time in [rfc3339(0, None), rfc3339(1_795_255_845, Some(5)), "2026-11-21T10:10:45.5Z".to_owned()] {
            assert!(is_rfc3339(&time), "{time}");
        }
        let wrong =
            ["", "Z", "2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01 00:00:00Z", "é026-01-01T00:00:00Z"];
        for text in wrong.into_iter().chain([
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.0123456789Z",
            "2026-01-01T00:00:00+1Z",
        ]) {
            assert!(!is_rfc3339(text), "{text}");
        }
    }
}
