//! The signals that STOPSIGNAL may name (Linux, signal(7)).

/// Names without `SIG`, as moby/sys/signal knows them.
const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether a text is a signal: a number other than zero, or a name in any case with or without `SIG`.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    NAMES.contains(&name) || is_real_time(name)
}

/// `RTMIN+1` … `RTMIN+15`, `RTMAX-14` … `RTMAX-1`.
fn is_real_time(name: &str) -> bool {
    let offset = |prefix: &str, most: u8| {
        name.strip_prefix(prefix)
            .filter(|digits| !digits.starts_with('0'))
            .and_then(|digits| digits.parse::<u8>().ok())
            .is_some_and(|offset| offset <= most)
    };
    offset("RTMIN+", 15) || offset("RTMAX-", 14)
}

/// The names to choose from, for a suggestion.
pub(super) fn names() -> impl Iterator<Item = String> {
    NAMES.iter().map(|name| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_numbers_or_names() {
        for text in ["9", "SIGTERM", "term", "SigQuit", "RTMIN+3", "SIGRTMAX-14", "37"] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["", "0", "SIG", "FOO", "RTMIN+16", "RTMIN+03", "RTMAX+1", "9x", "$SIG"] {
            assert!(!is_signal(text), "{text}");
        }
    }
}
