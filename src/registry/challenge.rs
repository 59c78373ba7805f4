//! Reads `WWW-Authenticate` (RFC 9110 §11.6.1) as registries write it.

/// One way in which a registry wants to be convinced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from a token server.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenge to answer: a Bearer one where there is one, for Basic sends the password each time.
pub(super) fn choose<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = headers.into_iter().flat_map(parse).collect();
    let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(all.first()).cloned()
}

fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after_space = after.trim_start_matches([' ', '\t']);
        if let Some(value) = after_space.strip_prefix('=') {
            let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']));
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            found.push((word.to_ascii_lowercase(), Vec::new()));
            rest = after_space;
        }
        rest = rest.trim_start_matches([' ', '\t', ',', '=']);
    }
    found.into_iter().filter_map(|(scheme, parameters)| challenge(&scheme, &parameters)).collect()
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let value = |name: &str| {
        parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            Some(Challenge::Bearer { realm: value("realm")?, service: value("service"), scope: value("scope") })
        }
        _ => None,
    }
}

/// A token or a quoted string, and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
    }

    #[test]
    fn challenges_of_real_registries_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push""#;
        assert_eq!(
            choose([hub]),
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:library/x:pull,push"))
        );
        assert_eq!(choose([r#"Basic realm="Registry Realm""#]), Some(Challenge::Basic));
        assert_eq!(choose(["BASIC"]), Some(Challenge::Basic));
        assert_eq!(
            choose([r#"Basic realm="x", Bearer realm=https://a/t , service = "s\"q""#]),
            bearer("https://a/t", Some("s\"q"), None)
        );
        assert_eq!(choose(["Negotiate", r#"Bearer realm="https://a/t""#]), bearer("https://a/t", None, None));
    }

    #[test]
    fn nonsense_is_no_challenge_and_ends() {
        for text in
            ["", ",,,", "Bearer", "Bearer realm=", "Bearer realm=\"", "=\"x\"", "Digest realm=\"x\"", "\"", "= ="]
        {
            assert_eq!(choose([text]), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(text in r#"(Bearer|Basic|realm|service|scope|[ ,="\\é\t]|[a-z]{1,4}){0,24}"#) {
            choose([text.as_str()]);
        }

        #[test]
        fn a_quoted_value_comes_back(value in "[ -~]{1,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!(r#"Basic realm="x", Bearer service="{quoted}",realm="https://a/t""#);
            proptest::prop_assert_eq!(choose([header.as_str()]), bearer("https://a/t", Some(&value), None));
        }
    }
}
