//! Secrets in what a command writes, replaced by `***` before anybody sees or keeps it.
//!
//! Contract: a value is found as it is, whole or line by line, wherever a pipe cuts it. What a command makes of it first
//! (base64, a hash, one letter at a time) is not. Values and lines of less than [`SHORTEST`] bytes are left alone: they
//! are no secrets worth the name, and every `no` and `1` of a log would be hidden with them.

/// Bytes that a value, or a line of one, has at least to be masked.
const SHORTEST: usize = 4;

/// What takes the place of a secret.
const MASK: &[u8] = b"***";

/// The values that a command must not show.
#[derive(Clone, Default)]
pub(super) struct Secrets {
    /// Longest first, so that of two that begin alike the whole one is found.
    patterns: Vec<Vec<u8>>,
}

impl Secrets {
    /// Adds a value, and each line of it: tools print a key or a configuration line by line.
    pub(super) fn add(&mut self, value: &[u8]) {
        let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let whole = std::iter::once(value.trim_ascii());
        self.patterns.extend(whole.chain(lines).filter(|text| text.len() >= SHORTEST).map(<[u8]>::to_vec));
        self.patterns.sort_by(|left, right| right.len().cmp(&left.len()).then_with(|| left.cmp(right)));
        self.patterns.dedup();
    }
}

/// One stream of a command.
pub(super) struct Masked {
    patterns: Vec<Vec<u8>>,
    /// Whether some pattern begins with a byte: most bytes of a log begin none.
    begins: [bool; 256],
    /// What may be the beginning of a secret, as the rest of it has not come.
    held: Vec<u8>,
}

/// What is found at a place.
enum Found {
    Nothing,
    Secret(usize),
    /// More has to come before it can be told.
    Perhaps,
}

impl Masked {
    /// A stream in which these values are masked.
    pub(super) fn new(secrets: &Secrets) -> Masked {
        let mut begins = [false; 256];
        for pattern in &secrets.patterns {
            begins[usize::from(pattern[0])] = true;
        }
        Masked { patterns: secrets.patterns.clone(), begins, held: Vec::new() }
    }

    /// Takes the next bytes in; gives what can be shown by now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.patterns.is_empty() {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        let text = std::mem::take(&mut self.held);
        let mut shown = Vec::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            match self.find(&text[at..]) {
                Found::Nothing => {
                    shown.push(text[at]);
                    at += 1;
                }
                Found::Secret(length) => {
                    shown.extend_from_slice(MASK);
                    at += length;
                }
                Found::Perhaps => break,
            }
        }
        self.held = text[at..].to_vec();
        shown
    }

    /// Gives what was held back; the stream has ended.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let text = std::mem::take(&mut self.held);
        let mut shown = Vec::new();
        let mut at = 0;
        while at < text.len() {
            match self.patterns.iter().find(|pattern| text[at..].starts_with(pattern)) {
                Some(pattern) => {
                    shown.extend_from_slice(MASK);
                    at += pattern.len();
                }
                None => {
                    shown.push(text[at]);
                    at += 1;
                }
            }
        }
        shown
    }

    fn find(&self, rest: &[u8]) -> Found {
        if !self.begins[usize::from(rest[0])] {
            return Found::Nothing;
        }
        for pattern in &self.patterns {
            if rest.starts_with(pattern) {
                return Found::Secret(pattern.len());
            }
            // Longest first: a longer one that may still come is waited for even where a shorter one is whole.
            if pattern.starts_with(rest) {
                return Found::Perhaps;
            }
        }
        Found::Nothing
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let mut secrets = Secrets::default();
        for value in values {
            secrets.add(value.as_bytes());
        }
        secrets
    }

    /// What is shown of pieces.
    fn shown(values: &[&str], pieces: &[&[u8]]) -> String {
        let mut masked = Masked::new(&secrets(values));
        let mut all: Vec<u8> = pieces.iter().flat_map(|piece| masked.push(piece)).collect();
        all.extend(masked.finish());
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn a_value_is_masked_without_the_line_end_that_its_file_has() {
        assert_eq!(shown(&["hunter22\n"], &[b"token=hunter22;\n"]), "token=***;\n");
        assert_eq!(shown(&["hunter22\r\n"], &[b"hunter22hunter22\n"]), "******\n");
        assert_eq!(shown(&["hunter22"], &[b"hunter2 hunter2"]), "hunter2 hunter2");
    }

    #[test]
    fn short_values_and_short_lines_are_left_alone() {
        assert_eq!(shown(&["abc", "", "\n"], &[b"abc abcd\n"]), "abc abcd\n");
        assert_eq!(shown(&["{\n  \"key\": \"abc\"\n}\n"], &[b"{ }\n\"key\": \"abc\"\n"]), "{ }\n***\n");
    }

    #[test]
    fn a_value_of_several_lines_is_masked_as_a_whole_and_line_by_line() {
        let key = "-----BEGIN KEY-----\nAAAABBBB\nCCCCDDDD\n-----END KEY-----\n";
        assert_eq!(shown(&[key], &[key.as_bytes()]), "***\n");
        assert_eq!(shown(&[key], &[b"1 -----BEGIN KEY-----\n2 AAAABBBB\n3 CCCC"]), "1 ***\n2 ***\n3 CCCC");
    }

    #[test]
    fn of_values_that_begin_alike_the_longest_is_masked() {
        assert_eq!(shown(&["secret", "secret-long"], &[b"secret", b"-lo", b"ng secret-lo secret"]), "*** ***-lo ***");
    }

    #[test]
    fn what_begins_no_secret_is_not_held_back() {
        let mut masked = Masked::new(&secrets(&["hunter22"]));
        assert_eq!(masked.push(b"a prompt? "), b"a prompt? ");
        assert_eq!(masked.push(b"hunt"), b"");
        assert_eq!(masked.push(b"ing"), b"hunting");
    }

    proptest! {
        #[test]
        fn no_cut_shows_a_secret(cuts in prop::collection::vec(0..40_usize, 0..6), before in "[abs]{0,8}", after in "[abs]{0,8}") {
            let text = format!("{before}absabbs{after}");
            let whole = shown(&["absabbs", "bsab"], &[text.as_bytes()]);
            prop_assert!(!whole.contains("absabbs"));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(shown(&["absabbs", "bsab"], &pieces), whole);
        }
    }
}
