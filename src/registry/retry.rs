//! When a request is tried again, and after how long.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

/// How patient the client is.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// How often a request is tried again after its first try.
    pub retries: u32,
    /// Before the first retry; doubles with each one.
    pub first_delay: Duration,
    /// No delay of ours is longer.
    pub longest_delay: Duration,
    /// A registry's `Retry-After` is followed up to this.
    pub longest_retry_after: Duration,
    /// A transfer without a byte for this long is cut and tried again.
    pub stall: Duration,
    /// How long a registry may take to answer after it has a whole blob or manifest: some copy it to an object store.
    pub commit: Duration,
    /// For connecting, over all addresses of a host.
    pub connect: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            retries: 5,
            first_delay: Duration::from_millis(250),
            longest_delay: Duration::from_secs(15),
            longest_retry_after: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            commit: Duration::from_secs(300),
            connect: Duration::from_secs(20),
        }
    }
}

impl RetryPolicy {
    /// The wait before a retry, counted from 0: half of it fixed, half random, so that many builders that were refused
    /// at once do not come back at once.
    pub(super) fn delay(&self, retry: u32) -> Duration {
        let full = self.first_delay.saturating_mul(1 << retry.min(16)).min(self.longest_delay);
        full / 2 + full.mul_f64(random_fraction() / 2.0)
    }

    /// The wait before a retry, where the registry's `Retry-After` (seconds or a date, RFC 9110 §10.2.3) was this.
    pub(super) fn delay_after(&self, retry: u32, retry_after: Option<&str>, now: SystemTime) -> Duration {
        let own = self.delay(retry);
        let told = retry_after.and_then(|text| match text.trim().parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => http_date(text).map(|date| date.duration_since(now).unwrap_or_default()),
        });
        told.map_or(own, |told| told.min(self.longest_retry_after).max(own))
    }
}

/// From the seed of the standard library's hash maps: good enough for jitter, and no dependency.
fn random_fraction() -> f64 {
    (RandomState::new().hash_one(0_u8) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, the one form of a date that servers may send (RFC 9110 §5.6.7).
pub(super) fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = parts.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    let (day, year) = (day.parse::<u64>().ok()?, year.parse::<u64>().ok()?);
    let clock: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock.as_slice() else { return None };
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || *hour > 23 || *minute > 59 || *second > 60 {
        return None;
    }
    // Days from the civil calendar, with the year beginning in March (Howard Hinnant's algorithm).
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (shifted_year / 400, shifted_year % 400);
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        let seconds = |text| http_date(text).map(|date| date.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        for text in ["", "soon", "Sun, 06 Nov 1994", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 8:49 GMT"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn retry_after_is_followed_but_not_for_ever() {
        let policy = RetryPolicy { first_delay: Duration::ZERO, ..RetryPolicy::default() };
        let now = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let after = |text| policy.delay_after(0, text, now).as_secs();
        assert_eq!(after(Some("7")), 7);
        assert_eq!(after(Some("86400")), 60);
        assert_eq!(after(Some("Sun, 06 Nov 1994 08:49:47 GMT")), 10);
        assert_eq!(after(Some("Sun, 06 Nov 1994 08:00:00 GMT")), 0);
        assert_eq!(after(Some("whenever")), 0);
        assert_eq!(after(None), 0);
    }

    #[test]
    fn delays_grow_up_to_a_limit() {
        let policy = RetryPolicy::default();
        for retry in 0..40 {
            let full = policy.first_delay.saturating_mul(1 << retry.min(16)).min(policy.longest_delay);
            let delay = policy.delay(retry);
            assert!(delay >= full / 2 && delay <= full, "{retry}: {delay:?}");
        }
    }
}
