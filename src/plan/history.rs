//! The texts of history entries, letter for letter as BuildKit writes them, which means as Go's `fmt` prints.

use std::rc::Rc;

use super::{CopyInstruction, HistoryEntry, Parents, StepId};
use crate::image::config::{Healthcheck, History};

/// Who writes the entries of instructions.
const COMMENT: &str = "buildkit.dockerfile.v0";
/// Who writes the entry of a layer that no instruction made.
const EXPORTER_COMMENT: &str = "buildkit.exporter.image.v0";

/// The entry of an instruction, shared by all stages that are built on it.
pub(super) fn entry(created_by: String, layer: Option<StepId>) -> Rc<HistoryEntry> {
    let entry = History { created_by, comment: COMMENT.to_owned(), empty_layer: layer.is_none(), ..History::default() };
    Rc::new(HistoryEntry { entry, layer })
}

/// The entry of a layer that stands in for a base: a directory given by `--build-context`.
pub(super) fn base_layer(layer: StepId) -> Rc<HistoryEntry> {
    let entry = History { comment: EXPORTER_COMMENT.to_owned(), ..History::default() };
    Rc::new(HistoryEntry { entry, layer: Some(layer) })
}

/// RUN with the stage's ARGs before the command.
pub(super) fn run(args: &[String], build_args: &[(String, String)]) -> String {
    let mut words: Vec<String> = Vec::new();
    if !build_args.is_empty() {
        words.push(format!("|{}", build_args.len()));
        words.extend(build_args.iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(args.iter().cloned());
    format!("RUN {} # buildkit", words.join(" "))
}

/// What the entry of COPY and ADD shows.
pub(super) struct CopyText<'a> {
    pub(super) instruction: CopyInstruction,
    pub(super) parents: Parents,
    pub(super) chown: Option<&'a str>,
    pub(super) chmod: Option<&'a str>,
    /// As written, expanded; here-documents as `<<NAME`.
    pub(super) sources: Vec<String>,
    /// As written, expanded.
    pub(super) destination: &'a str,
}

/// COPY and ADD.
pub(super) fn copy(text: &CopyText<'_>) -> String {
    let name = match text.instruction {
        CopyInstruction::Copy => "COPY",
        CopyInstruction::Add => "ADD",
    };
    let mut words = vec![name.to_owned()];
    if text.parents == Parents::Keep {
        words.push("--parents".to_owned());
    }
    words.extend(text.chown.map(|chown| format!("--chown={chown}")));
    words.extend(text.chmod.map(|chmod| format!("--chmod={chmod}")));
    words.extend(text.sources.iter().cloned());
    words.push(text.destination.to_owned());
    format!("{} # buildkit", words.join(" "))
}

/// A list as `%v` prints it.
pub(super) fn plain_list(items: &[String]) -> String {
    format!("[{}]", items.join(" "))
}

/// A list as `%q` prints it.
pub(super) fn quoted_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quote(item)).collect();
    format!("[{}]", items.join(" "))
}

/// HEALTHCHECK, the struct as `%+v` prints it.
pub(super) fn healthcheck(check: &Healthcheck) -> String {
    format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&check.test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries
    )
}

/// A text as Go's `strconv.Quote` writes it.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            character if is_printable(character) => out.push(character),
            character if character.is_ascii() => out.push_str(&format!("\\x{:02x}", u32::from(character))),
            character if u32::from(character) > 0xffff => out.push_str(&format!("\\U{:08x}", u32::from(character))),
            character => out.push_str(&format!("\\u{:04x}", u32::from(character))),
        }
    }
    out.push('"');
    out
}

/// Rust escapes what Unicode does not call printable, as Go does; a combining mark only where it comes first, so that
/// something is put before it. Of the white space, Go counts the ASCII space alone.
fn is_printable(character: char) -> bool {
    character == ' '
        || !character.is_whitespace() && !format!("a{character}").escape_debug().to_string().contains("\\u{")
}

/// A duration as Go's `time.Duration` prints it.
fn duration(nanoseconds: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < SECOND {
        let (unit, name) = match nanoseconds {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{}{name}", decimal(nanoseconds, unit));
    }
    let minutes = nanoseconds / (60 * SECOND);
    let seconds = decimal(nanoseconds % (60 * SECOND), SECOND);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` with as many decimals as it needs; the unit is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let width = unit.ilog10() as usize;
    match value % unit {
        0 => (value / unit).to_string(),
        rest => format!("{}.{}", value / unit, format!("{rest:0width$}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (30_000_000_000, "30s"),
            (60_000_000_000, "1m0s"),
            (5_430_000_000_000, "1h30m30s"),
            (3_600_000_000_001, "1h0m0.000000001s"),
        ] {
            assert_eq!(duration(nanoseconds), text);
        }
    }

    #[test]
    fn words_are_quoted_as_go_quotes_them() {
        let words = ["a b", "\"\\", "\t\u{1}\u{7f}", "é日\u{301}", "\u{a0}\u{200b}"].map(str::to_owned);
        assert_eq!(
            quoted_list(&words),
            r#"["a b" "\"\\" "\t\x01\x7f" "é日"#.to_owned() + "\u{301}" + r#"" "\u00a0\u200b"]"#
        );
    }
}
