//! Paths as the Dockerfile means them: slashes only, cleaned by text, never looked up.

/// Joins to a directory unless absolute, and cleans: no `.`, no `..`, no double or trailing slash (Go's `path.Clean`).
pub(super) fn absolute(directory: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let joined = if path.starts_with('/') { ["", path] } else { [directory, path] };
    for part in joined.iter().flat_map(|text| text.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// As [`absolute`], with the final slash kept where the text asks for a directory: it is empty, or ends in `/` or `.`.
pub(super) fn destination(directory: &str, path: &str) -> String {
    let mut clean = absolute(directory, path);
    let last = path.rsplit('/').next().unwrap_or_default();
    if matches!(last, "" | ".") && !clean.ends_with('/') {
        clean.push('/');
    }
    clean
}

/// Cleans a path and leaves it relative where it is (Go's `path.Clean`): the default id of a cache mount.
pub(super) fn clean(path: &str) -> String {
    if path.starts_with('/') {
        return absolute("/", path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// The last component; empty for the root.
pub(super) fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_cannot_leave_the_root() {
        for (directory, path, clean) in [
            ("/a", "b/./c//d/", "/a/b/c/d"),
            ("/a", "/b", "/b"),
            ("/a", "../../..", "/"),
            ("/", "", "/"),
            ("", "x", "/x"),
            ("/a", "..x/...", "/a/..x/..."),
        ] {
            assert_eq!(absolute(directory, path), clean, "{directory} {path}");
        }
    }

    #[test]
    fn a_destination_keeps_the_slash_that_makes_it_a_directory() {
        for (path, clean) in [
            ("", "/w/"),
            (".", "/w/"),
            ("./", "/w/"),
            ("x/", "/w/x/"),
            ("x/.", "/w/x/"),
            ("x", "/w/x"),
            ("/", "/"),
            ("..", "/"),
            ("x/y/..", "/w/x"),
        ] {
            assert_eq!(destination("/w", path), clean, "{path}");
        }
    }

    #[test]
    fn a_relative_path_stays_relative() {
        for (path, clean_path) in
            [("", "."), ("a/../..", ".."), ("../../x/", "../../x"), ("a//b/.", "a/b"), ("/a/..", "/")]
        {
            assert_eq!(clean(path), clean_path, "{path}");
        }
    }

    #[test]
    fn the_last_component_ignores_final_slashes() {
        assert_eq!((base_name("/a/b/"), base_name("id"), base_name("/")), ("b", "id", ""));
    }
}
