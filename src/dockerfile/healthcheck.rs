//! HEALTHCHECK, and Go's notation for durations.

use super::ast::{Command, Healthcheck};
use super::flags::{Flags, Takes};
use super::instruction::{self, Statement};
use super::problems::Problems;
use crate::diagnostic::Diagnostic;

const FLAGS: [(&str, Takes); 5] = [
    ("interval", Takes::Value),
    ("timeout", Takes::Value),
    ("start-period", Takes::Value),
    ("start-interval", Takes::Value),
    ("retries", Takes::Value),
];

const MILLISECOND: i64 = 1_000_000;

/// Parses HEALTHCHECK.
pub(super) fn parse(statement: &Statement<'_>) -> Result<Healthcheck, Problems> {
    let letters = statement.arguments.as_str();
    if letters.is_empty() {
        return Err(statement.error("HEALTHCHECK requires at least one argument").into());
    }
    let end = letters.find(char::is_whitespace).unwrap_or(letters.len());
    let kind = statement.arguments.slice(0..end);
    let arguments = statement.arguments.tail(end).trim_start();
    match kind.as_str().to_uppercase().as_str() {
        // BuildKit looks at no flags here.
        "NONE" if arguments.is_empty() => Ok(Healthcheck::None),
        "NONE" => Err(Diagnostic::error(arguments.span(), "HEALTHCHECK NONE takes no arguments").into()),
        "CMD" => {
            let flags = statement.check_flags(&FLAGS)?;
            let command = instruction::command(arguments)?;
            if matches!(&command, Command::Exec(words) if words.is_empty()) || arguments.is_empty() {
                return Err(statement.error("Missing command after HEALTHCHECK CMD").into());
            }
            check(&flags, command)
        }
        name => {
            let message = format!("Unknown type {name:?} in HEALTHCHECK (try CMD)");
            Err(Diagnostic::error(kind.span(), message).into())
        }
    }
}

fn check(flags: &Flags<'_, '_>, command: Command) -> Result<Healthcheck, Problems> {
    let mut problems = Vec::new();
    let mut interval_of = |name| {
        interval(flags, name).unwrap_or_else(|problem| {
            problems.push(problem);
            0
        })
    };
    let interval = interval_of("interval");
    let timeout = interval_of("timeout");
    let start_period = interval_of("start-period");
    let start_interval = interval_of("start-interval");
    let retries = retries(flags).unwrap_or_else(|problem| {
        problems.push(problem);
        0
    });
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    Ok(Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries })
}

fn interval(flags: &Flags<'_, '_>, name: &str) -> Result<u64, Diagnostic> {
    let Some(word) = flags.word(name) else { return Ok(0) };
    let nanoseconds = duration(&word.value).map_err(|message| Diagnostic::error(word.span, message))?;
    match u64::try_from(nanoseconds) {
        Ok(0) => Ok(0),
        Ok(given) if nanoseconds >= MILLISECOND => Ok(given),
        _ => Err(Diagnostic::error(word.span, format!("Interval {name:?} cannot be less than 1ms"))),
    }
}

fn retries(flags: &Flags<'_, '_>) -> Result<u64, Diagnostic> {
    let Some(word) = flags.word("retries") else { return Ok(0) };
    let text = word.value.as_str();
    let fault = |what: &str| Diagnostic::error(word.span, format!("strconv.ParseInt: parsing {text:?}: {what}"));
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(fault("invalid syntax"));
    }
    let retries: i32 = text.parse().map_err(|_| fault("value out of range"))?;
    u64::try_from(retries)
        .map_err(|_| Diagnostic::error(word.span, format!("--retries cannot be negative ({retries})")))
}

/// Reads a duration as Go's `time.ParseDuration` does (`1h15m30.5s`), into nanoseconds.
fn duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let scale = unit_scale(unit).ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        total += scaled(whole, fraction, scale).ok_or_else(invalid)?;
        if total > i128::from(i64::MAX) {
            return Err(invalid());
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

fn unit_scale(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => MILLISECOND,
        "s" => 1_000 * MILLISECOND,
        "m" => 60_000 * MILLISECOND,
        "h" => 3_600_000 * MILLISECOND,
        _ => return None,
    })
}

/// `whole.fraction` times `scale`; digits of the fraction that are below a nanosecond of an hour are dropped.
fn scaled(whole: &str, fraction: &str, scale: i64) -> Option<i128> {
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = &fraction[..fraction.len().min(15)];
    let numerator: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let denominator = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    Some(i128::from(whole) * i128::from(scale) + numerator * i128::from(scale) / denominator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let second = 1_000 * MILLISECOND;
        let cases = [
            ("0", Ok(0)),
            ("5s", Ok(5 * second)),
            ("1m30s", Ok(90 * second)),
            ("1.5h", Ok(5_400 * second)),
            (".5s", Ok(500 * MILLISECOND)),
            ("1.s", Ok(second)),
            ("-3ms", Ok(-3 * MILLISECOND)),
            ("+2us", Ok(2_000)),
            ("3µs", Ok(3_000)),
            ("", Err("time: invalid duration \"\"")),
            ("-", Err("time: invalid duration \"-\"")),
            ("s", Err("time: invalid duration \"s\"")),
            (".s", Err("time: invalid duration \".s\"")),
            ("5", Err("time: missing unit in duration \"5\"")),
            ("5x", Err("time: unknown unit \"x\" in duration \"5x\"")),
            ("99999999999h", Err("time: invalid duration \"99999999999h\"")),
            ("99999999999999999999s", Err("time: invalid duration \"99999999999999999999s\"")),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text), expected.map_err(str::to_owned), "{text}");
        }
    }
}
