//! The little XML that Amazon's services speak: elements of text, each of which is there once.

/// The text of the first element of a name.
pub(super) fn text(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    Some(plain.iter().fold(inner.trim().to_owned(), |text, (entity, letter)| text.replace(entity, letter)))
}

/// A text as it is in an element.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_and_written() {
        let document =
            "<?xml version=\"1.0\"?>\n<Error><Code>A</Code><Message> a &lt;&amp;lt;&quot; </Message><Empty/></Error>";
        assert_eq!(text(document, "Code").as_deref(), Some("A"));
        assert_eq!(text(document, "Message").as_deref(), Some("a <&lt;\""));
        assert_eq!(text(document, "Empty"), None);
        assert_eq!(text("<Code>no end", "Code"), None);
        assert_eq!(escaped("\"a&b\"<c>"), "&quot;a&amp;b&quot;&lt;c&gt;");
    }
}
