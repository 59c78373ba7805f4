//! Text in paragraphs of `Name: value` fields, as Debian's control files and mail headers have them.

/// The fields of one paragraph. Where a name comes twice the first one counts for [`Paragraph::field`].
#[derive(Debug, Default)]
pub(super) struct Paragraph<'a> {
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Paragraph<'a> {
    /// A field's first line, without the spaces around it; `None` where it is empty. Names are compared without case.
    pub(super) fn field(&self, name: &str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// All fields of a name.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let has_name = move |(other, _): &&(&str, &str)| other.eq_ignore_ascii_case(name);
        self.fields.iter().filter(has_name).map(|(_, value)| *value).filter(|value| !value.is_empty())
    }
}

/// Splits a text at its empty lines. Lines that continue a field (they begin with a space) and lines that are no field are passed
/// over.
pub(super) fn paragraphs(text: &str) -> impl Iterator<Item = Paragraph<'_>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut paragraph = Paragraph::default();
        let mut is_begun = false;
        for line in lines.by_ref() {
            if line.trim().is_empty() {
                if is_begun {
                    return Some(paragraph);
                }
                continue;
            }
            is_begun = true;
            if line.starts_with([' ', '\t']) {
                continue;
            }
            if let Some((name, value)) = line.split_once(':') {
                paragraph.fields.push((name.trim(), value.trim()));
            }
        }
        is_begun.then_some(paragraph)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_end_at_empty_lines_and_fields_at_line_ends() {
        let text = "\n\nPackage: a\nDescription: one\n more: text\n .\nno field\n\n \nPACKAGE: b\r\nEmpty:\nTwice: 1\nTwice: 2";
        let found: Vec<_> = paragraphs(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].field("package"), found[0].field("more")), (Some("a"), None));
        assert_eq!((found[1].field("Package"), found[1].field("Empty")), (Some("b"), None));
        assert_eq!(found[1].all("twice").collect::<Vec<_>>(), ["1", "2"]);
    }
}
