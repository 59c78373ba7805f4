//! `--chmod`: an octal number, or symbolic changes as BSD's `chmod` reads them.

/// A mode, or changes to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chmod {
    text: String,
    form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Octal(u32),
    Symbolic(Vec<Change>),
}

/// One change of bits; `who` is 0 where none was written, which here (umask 0) means all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Clear(u32),
    Set(u32),
    /// Set where it is a directory or was executable for anyone before all changes.
    SetExecute(u32),
    /// Set, clear or assign the bits that another class has now.
    Copy {
        from: u32,
        operator: u8,
        who: u32,
    },
}

/// Says why a text is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChmod {
    /// It looks like a number (the words are BuildKit's).
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Number(String),
    /// It is neither a number nor changes.
    #[error("invalid chmod parameter: '{0}': expected changes such as u=rwX,go=rX")]
    Symbolic(String),
}

const SET_IDS: u32 = 0o6000;
const STICKY: u32 = 0o1000;
const STANDARD: u32 = SET_IDS | 0o777;

impl Chmod {
    /// Reads what stands after `--chmod=`.
    ///
    /// # Errors
    /// The text is neither octal up to 07777 nor symbolic.
    pub fn parse(text: &str) -> Result<Chmod, InvalidChmod> {
        let form = if text.starts_with(|first: char| first.is_ascii_digit()) {
            let number = u32::from_str_radix(text, 8).ok().filter(|number| *number <= 0o7777);
            Form::Octal(number.ok_or_else(|| InvalidChmod::Number(text.to_owned()))?)
        } else {
            Form::Symbolic(symbolic(text.as_bytes()).ok_or_else(|| InvalidChmod::Symbolic(text.to_owned()))?)
        };
        Ok(Chmod { text: text.to_owned(), form })
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The mode that a directory gets which is made on the way: an octal mode applies to it (without its special bits,
    /// as Go's `os.FileMode` drops them), changes do not.
    pub fn implicit_directory(&self) -> Option<u32> {
        match &self.form {
            Form::Octal(mode) => Some(mode & 0o777),
            Form::Symbolic(_) => None,
        }
    }

    /// The mode that an entry with this mode gets.
    pub fn apply(&self, mode: u32, kind: Executable) -> u32 {
        match &self.form {
            Form::Octal(mode) => *mode,
            Form::Symbolic(changes) => {
                let executable = kind == Executable::Directory || mode & 0o111 != 0;
                changes.iter().fold(mode, |mode, change| change.apply(mode, executable))
            }
        }
    }
}

/// What `X` needs to know of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executable {
    /// A directory: `X` applies.
    Directory,
    /// Anything else: `X` applies where an execute bit is set.
    File,
}

impl Change {
    fn apply(self, mode: u32, executable: bool) -> u32 {
        match self {
            Change::Clear(bits) => mode & !bits,
            Change::Set(bits) => mode | bits,
            Change::SetExecute(bits) if executable => mode | bits,
            Change::SetExecute(_) => mode,
            Change::Copy { from, operator, who } => {
                let bits = (mode >> from & 0o7) * 0o111 & who;
                match operator {
                    b'+' => mode | bits,
                    b'-' => mode & !bits,
                    _ => mode & !(who & 0o777) | bits,
                }
            }
        }
    }
}

/// Reads `[ugoa…][+-=][rwxXstugo…]…,…`; `None` for anything else.
fn symbolic(text: &[u8]) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    for clause in text.split(|byte| *byte == b',') {
        let mut rest = clause;
        let mut who = 0;
        while let Some((byte, after)) = rest.split_first() {
            who |= match byte {
                b'a' => STANDARD,
                b'u' => 0o4700,
                b'g' => 0o2070,
                b'o' => 0o007,
                _ => break,
            };
            rest = after;
        }
        if rest.is_empty() {
            return None;
        }
        while let Some((operator, after)) = rest.split_first() {
            if !matches!(operator, b'+' | b'-' | b'=') {
                return None;
            }
            let length = after.iter().position(|byte| matches!(byte, b'+' | b'-' | b'=')).unwrap_or(after.len());
            action(*operator, who, &after[..length], &mut changes)?;
            rest = &after[length..];
        }
    }
    Some(changes)
}

/// One operator and its permissions, in the order in which BSD's `setmode` applies them: letters are collected until one
/// copies another class's bits.
///
/// BSD gives `X` a meaning after `+` only. Dockerfile's reference says that `u=rwX,go=rX` makes directories 755 and
/// files 644, so here it has one after `=` too.
fn action(operator: u8, who: u32, permissions: &[u8], changes: &mut Vec<Change>) -> Option<()> {
    let mut letters = Letters { operator, who, bits: 0, execute: 0, sticky: 0, assigned: false };
    for permission in permissions {
        match permission {
            b'r' => letters.bits |= 0o444,
            b'w' => letters.bits |= 0o222,
            b'x' => letters.bits |= 0o111,
            b'X' if operator != b'-' => letters.execute = 0o111,
            b'X' => {}
            // For others alone, set-id and sticky mean nothing.
            b's' if who != 0o007 => letters.bits |= SET_IDS,
            b't' if who != 0o007 => letters.sticky = STICKY,
            b's' | b't' => {}
            b'u' => letters.copy(6, changes),
            b'g' => letters.copy(3, changes),
            b'o' => letters.copy(0, changes),
            _ => return None,
        }
    }
    letters.flush(changes);
    if operator == b'=' && !letters.assigned {
        changes.push(Change::Clear(letters.everyone()));
    }
    Some(())
}

/// Permissions that were read and are not among the changes yet.
struct Letters {
    operator: u8,
    who: u32,
    bits: u32,
    execute: u32,
    sticky: u32,
    /// Whether `=` has cleared the old bits.
    assigned: bool,
}

impl Letters {
    fn everyone(&self) -> u32 {
        if self.who == 0 { STANDARD } else { self.who }
    }

    fn flush(&mut self, changes: &mut Vec<Change>) {
        let set = self.bits & self.everyone() | self.sticky;
        let execute = self.execute & self.everyone();
        if set | execute == 0 {
            return;
        }
        if self.operator == b'-' {
            changes.push(Change::Clear(set));
        } else {
            if self.operator == b'=' && !self.assigned {
                let sticky = if self.who == 0 { 0 } else { self.sticky };
                changes.push(Change::Clear(self.everyone() | sticky));
                self.assigned = true;
            }
            changes.push(Change::Set(set));
            changes.push(Change::SetExecute(execute));
        }
        (self.bits, self.execute, self.sticky) = (0, 0, 0);
    }

    fn copy(&mut self, from: u32, changes: &mut Vec<Change>) {
        self.flush(changes);
        self.assigned |= self.operator == b'=';
        changes.push(Change::Copy { from, operator: self.operator, who: self.everyone() & 0o777 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_bsd_chmod_does() {
        use Executable::{Directory, File};
        let cases = [
            ("644", 0o755, File, 0o644),
            ("0", 0o755, File, 0),
            ("07777", 0, Directory, 0o7777),
            ("go-w", 0o777, File, 0o755),
            ("u=rw,g=r,o=r", 0o777, File, 0o644),
            ("a+X", 0o644, File, 0o644),
            ("a+X", 0o744, File, 0o755),
            ("a+X", 0o644, Directory, 0o755),
            ("+X", 0o010, File, 0o111),
            ("u+X", 0o001, File, 0o101),
            ("-X", 0o777, File, 0o777),
            ("u+rw,g+r,o-x,o+w", 0o111, File, 0o752),
            ("u=rwX,go=rX", 0o700, Directory, 0o755),
            ("u=rwX,go=rX", 0o600, File, 0o644),
            ("u=rwX,go=rX", 0o777, File, 0o755),
            ("=rw,+X", 0o766, File, 0o777),
            ("+x", 0o644, File, 0o755),
            ("g=u", 0o741, File, 0o771),
            ("go=u", 0o700, File, 0o777),
            ("g-u", 0o774, File, 0o704),
            ("o+g", 0o750, File, 0o755),
            ("u+s", 0o755, File, 0o4755),
            ("g+s", 0o755, File, 0o2755),
            ("+s", 0o755, File, 0o6755),
            ("o+s", 0o755, File, 0o755),
            ("u=", 0o4755, File, 0o055),
            ("a=r", 0o7777, File, 0o1444),
            ("+t", 0o777, Directory, 0o1777),
            ("u+t", 0o777, Directory, 0o1777),
            ("a-t", 0o1777, Directory, 0o777),
            ("u+r-w", 0o200, File, 0o400),
            ("a+", 0o644, File, 0o644),
            ("ug+rw,o=", 0o007, File, 0o660),
        ];
        for (text, mode, kind, expected) in cases {
            let found = Chmod::parse(text).unwrap().apply(mode, kind);
            assert_eq!(found, expected, "{text} on {mode:o}: {found:o}");
        }
    }

    #[test]
    fn texts_that_are_no_mode_are_refused() {
        for text in ["8", "77777", "0o755", "12x", "10000", "99999999999999999999"] {
            let error = Chmod::parse(text).unwrap_err().to_string();
            let words = format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
            assert_eq!(error, words);
        }
        for text in ["", "u", "u+z", "r", "u+r,", ",u+r", "u+r g+r", "-1", "foo", "u++q"] {
            assert!(matches!(Chmod::parse(text), Err(InvalidChmod::Symbolic(_))), "{text}");
        }
    }

    #[test]
    fn directories_made_on_the_way_take_octal_modes_without_special_bits() {
        assert_eq!(Chmod::parse("4711").unwrap().implicit_directory(), Some(0o711));
        assert_eq!(Chmod::parse("go-w").unwrap().implicit_directory(), None);
    }
}
