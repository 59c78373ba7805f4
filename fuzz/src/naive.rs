//! Patternmatcher once more, read from its source as directly as can be: slow, recursive, and without a thought for
//! anything but the characters `* ? ! / .` and letters. The real matcher has to agree with it.

/// Whether patterns exclude a path. The patterns are clean: nothing to trim, no empty, `.` or `..` components.
pub fn excludes(lines: &[&str], path: &str) -> bool {
    let mut matched = false;
    for line in lines {
        let (exception, pattern) = line.strip_prefix('!').map_or((false, *line), |rest| (true, rest));
        if exception != matched {
            continue;
        }
        let ends = path.char_indices().filter(|(_, found)| *found == '/').map(|(at, _)| at).chain([path.len()]);
        if ends.into_iter().any(|end| matches(pattern, &path[..end])) {
            matched = !exception;
        }
    }
    matched
}

fn matches(pattern: &str, path: &str) -> bool {
    if let Some(rest) = pattern.strip_prefix("**")
        && !rest.contains(['*', '?'])
    {
        return path.ends_with(rest) || rest.strip_prefix('/') == Some(path);
    }
    expression(pattern.as_bytes(), path.as_bytes())
}

fn expression(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => {
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            rest.is_empty()
                || expression(rest, path)
                || (0..path.len()).any(|at| path[at] == b'/' && expression(rest, &path[at + 1..]))
        }
        [b'*', rest @ ..] => {
            let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
            (0..=end).any(|at| expression(rest, &path[at..]))
        }
        [b'?', rest @ ..] => path.first().is_some_and(|byte| *byte != b'/') && expression(rest, &path[1..]),
        [byte, rest @ ..] => path.first() == Some(byte) && expression(rest, &path[1..]),
    }
}
