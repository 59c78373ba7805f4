//! The sentences in which a miss is told.

use std::fmt;

use super::{Change, MissReason};
use crate::cache::key::{DIGEST, OFF, ON, VARIABLE};

/// Values longer than this are cut in messages.
const SHOWN: usize = 60;
/// How much of what two long values have in common is shown before what differs.
const CONTEXT: usize = 15;

/// A text on one line, nothing in which can move the cursor of a terminal.
pub(super) fn line(value: &str) -> Vec<char> {
    value.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// A value from one of its characters on, cut where it is long.
fn quoted(value: &[char], from: usize) -> String {
    let rest = &value[from..];
    let head = if from > 0 { "…" } else { "" };
    if rest.len() <= SHOWN {
        let text: String = rest.iter().collect();
        return match head {
            "" => format!("{text:?}"),
            _ => format!("\"{head}{text}\""),
        };
    }
    let cut: String = rest[..SHOWN - 1].iter().collect();
    format!("\"{head}{cut}…\"")
}

/// Two values, long ones from shortly before the place where they differ.
fn both(old: &str, new: &str) -> (String, String) {
    let (old, new) = (line(old), line(new));
    let same = old.iter().zip(&new).take_while(|(before, now)| before == now).count();
    let is_long = old.len().max(new.len()) > SHOWN;
    let from = if is_long { same.saturating_sub(CONTEXT) } else { 0 };
    (quoted(&old, from), quoted(&new, from))
}

/// A value as it stands in a sentence.
fn shown(value: &str) -> String {
    quoted(&line(value), 0)
}

/// How a value changed. No text is a value for a variable only; everything else is not given then.
fn changed(name: &str, old: &str, new: &str) -> String {
    let is_switch = |value: &str| matches!(value, ON | OFF);
    if is_switch(old) && is_switch(new) && !name.starts_with(VARIABLE) {
        return format!("{name} was {old}, is {new}");
    }
    let (mut before, mut now) = both(old, new);
    if !name.starts_with(VARIABLE) {
        for (value, text) in [(old, &mut before), (new, &mut now)] {
            if value.is_empty() {
                "unset".clone_into(text);
            }
        }
    }
    format!("{name} was {before}, is {now}")
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MissReason::First => f.write_str("not built before"),
            MissReason::Disabled => f.write_str("the cache is switched off for it"),
            MissReason::Removed => f.write_str("its result was removed from the store"),
            MissReason::Replaced { before } if before.is_empty() => f.write_str("another instruction was here before"),
            MissReason::Replaced { before } => write!(f, "another instruction was here before: {}", shown(before)),
            MissReason::NotNoted => f.write_str("something changed that an earlier version of rbuild did not note"),
            MissReason::Parent => f.write_str("the step before it changed"),
            MissReason::Order { before, now } => {
                let (before, now) = both(before, now);
                write!(f, "it came after {before}, comes after {now}")
            }
            MissReason::Changed(changes) => {
                let texts: Vec<String> = changes.iter().map(Change::to_string).collect();
                f.write_str(&texts.join("; "))
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Value { name, old, new } if name == DIGEST => write!(f, "digest moved from {old} to {new}"),
            Change::Value { name, old, new } => f.write_str(&changed(name, old, new)),
            Change::Added { name, new } if new.is_empty() && !name.starts_with(VARIABLE) => write!(f, "{name} is new"),
            Change::Added { name, new } => write!(f, "{name} is new: {}", shown(new)),
            Change::Removed { name } => write!(f, "{name} is gone"),
            Change::Files { of, changes } => {
                if let Some(of) = of {
                    write!(f, "{of}: ")?;
                }
                match changes {
                    Some(changes) => changes.fmt(f),
                    None => f.write_str("its files changed"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_hostile_values_are_cut_and_cleaned() {
        let text = shown(&format!("a\u{1b}[31m\n{}", "x".repeat(200)));
        assert!(text.chars().count() <= SHOWN + 2 && !text.contains('\u{1b}') && !text.contains('\n'));
    }

    #[test]
    fn of_long_values_the_place_where_they_differ_is_shown() {
        let long = "make ".repeat(40);
        let (old, new) = (format!("{long}one"), format!("{long}two"));
        assert_eq!(changed("command", &old, &new), "command was \"…make make make one\", is \"…make make make two\"");
        let early = changed("command", &format!("one {long}"), &format!("two {long}"));
        assert!(early.starts_with("command was \"one make") && early.ends_with("…\""), "{early}");
    }

    #[test]
    fn switches_and_what_is_not_given_have_their_words() {
        assert_eq!(changed("--link", "off", "on"), "--link was off, is on");
        assert_eq!(changed("--chown", "", "1"), "--chown was unset, is \"1\"");
        assert_eq!(changed("variable A", "off", "on"), "variable A was \"off\", is \"on\"");
        assert_eq!(changed("variable A", "1", ""), "variable A was \"1\", is \"\"");
        assert_eq!(
            Change::Added { name: "tmpfs mount at /t".to_owned(), new: String::new() }.to_string(),
            "tmpfs mount at /t is new"
        );
    }
}
