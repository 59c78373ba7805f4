//! What the sources of a copy name: paths, wildcards, and the patterns of `--parents`.

use std::io;

use super::{CopyError, CopyRequest, shown};
use crate::context::ignore::IgnoreRules;
use crate::context::pattern::{Wildcard, has_wildcards};
use crate::diagnostic::did_you_mean;
use crate::tree::{Kind, Last, Node, View, base_name, clean, components, join, parent, resolve};

/// One thing that a source names.
pub(super) struct Found {
    /// The path without any link in it.
    pub(super) path: Vec<u8>,
    /// What is there.
    pub(super) node: Node,
    /// The name that it was found by, which a link's target does not change.
    pub(super) name: Vec<u8>,
    /// With `--parents`: which paths below it are copied, and how that was written.
    pub(super) include: Option<Include>,
}

/// The part of a `--parents` source after its pivot.
pub(super) struct Include {
    /// "Excludes" what is to be copied; without a rule, that is everything.
    pub(super) rules: IgnoreRules,
    /// The path that has to exist, where the source has no wildcard.
    pub(super) required: Option<Vec<u8>>,
}

/// Finds what a source names.
pub(super) fn find(
    request: &CopyRequest,
    view: &dyn View,
    pattern: &str,
    exclude: &IgnoreRules,
    warnings: &mut Vec<String>,
) -> Result<Vec<Found>, CopyError> {
    let search = Search { request, view, pattern };
    // `/./` marks where the kept part of the path begins; without it, all of it is kept.
    let (root, below) = match pattern.split_once("/./") {
        _ if !request.parents => (pattern, None),
        Some((root, below)) => (root, Some(below)),
        None => ("", Some(pattern)),
    };
    let mut found = if has_wildcards(root.as_bytes()) {
        let found = search.wildcard(root)?;
        if found.is_empty() {
            warnings.push(format!("{pattern:?} matches nothing, so nothing is copied"));
        }
        found.into_iter().filter(|found| !exclude.excludes(&found.name) || found.node.is_directory()).collect()
    } else {
        vec![search.literal(&clean(root.as_bytes()))?]
    };
    if let Some(below) = below {
        for found in &mut found {
            found.include = Some(include(root, below)?);
        }
    }
    Ok(found)
}

fn include(root: &str, below: &str) -> Result<Include, CopyError> {
    let path = clean(below.as_bytes());
    let literal = !has_wildcards(root.as_bytes()) && !has_wildcards(below.as_bytes());
    let required = literal.then(|| clean(&[clean(root.as_bytes()), path.clone()].join(&b'/')));
    let rules = IgnoreRules::from_patterns(&[String::from_utf8_lossy(&path).into_owned()]).map_err(CopyError::Rules)?;
    Ok(Include { rules, required })
}

struct Search<'a> {
    request: &'a CopyRequest<'a>,
    view: &'a dyn View,
    pattern: &'a str,
}

impl Search<'_> {
    /// A path without wildcards: it has to exist.
    fn literal(&self, path: &[u8]) -> Result<Found, CopyError> {
        let found = match resolve(self.view, path, Last::Follow) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(self.not_found(path)),
            Err(source) => return Err(CopyError::View { path: shown(path), source }),
        };
        let node = found.node.ok_or_else(|| self.not_found(path))?;
        Ok(Found { path: found.path, node, name: base_name(path).to_vec(), include: None })
    }

    /// A path with wildcards. What stands before the first one may lead through links; a wildcard never does.
    fn wildcard(&self, pattern: &str) -> Result<Vec<Found>, CopyError> {
        let parts = components(&clean(pattern.as_bytes()));
        let first = parts.iter().position(|part| has_wildcards(part)).unwrap_or(parts.len());
        let base = parts[..first].join(&b'/');
        let start = match resolve(self.view, &base, Last::Follow) {
            Ok(found) if found.node.as_ref().is_some_and(Node::is_directory) => found.path,
            Ok(_) => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Vec::new()),
            Err(source) => return Err(CopyError::View { path: shown(&base), source }),
        };
        let mut directories = vec![start];
        let wildcards: Vec<Wildcard> =
            parts[first..].iter().map(|part| self.compile(part)).collect::<Result<_, _>>()?;
        let mut names = Vec::new();
        for (depth, wildcard) in wildcards.iter().enumerate() {
            let last = depth + 1 == wildcards.len();
            let mut next = Vec::new();
            for directory in &directories {
                for name in self.names(directory)?.into_iter().filter(|name| wildcard.matches(name)) {
                    let path = join(directory, &name);
                    if last {
                        names.push(path);
                    } else if self.node(&path)?.is_some_and(|node| node.is_directory()) {
                        next.push(path);
                    }
                }
            }
            directories = next;
        }
        names.iter().map(|path| self.literal(path)).collect()
    }

    fn compile(&self, part: &[u8]) -> Result<Wildcard, CopyError> {
        Wildcard::parse(part).map_err(|source| CopyError::Pattern { pattern: self.pattern.to_owned(), source })
    }

    fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, CopyError> {
        self.view.names(path).map_err(|source| CopyError::View { path: shown(path), source })
    }

    fn node(&self, path: &[u8]) -> Result<Option<Node>, CopyError> {
        self.view.node(path).map_err(|source| CopyError::View { path: shown(path), source })
    }

    fn not_found(&self, path: &[u8]) -> CopyError {
        not_found(self.request, self.view, path)
    }
}

/// The error for a path that is not there, with the reason where one can be seen.
pub(super) fn not_found(request: &CopyRequest, view: &dyn View, path: &[u8]) -> CopyError {
    let hint = if request.ignored.is_some_and(|ignored| ignored(path)) {
        Some("it is excluded by the ignore file (.dockerignore)".to_owned())
    } else {
        // A hint is a kindness: an error on the way to it must not hide the real one.
        dangling(view, path).or_else(|| similar(view, path))
    };
    CopyError::NotFound { path: shown(path), hint }
}

fn dangling(view: &dyn View, path: &[u8]) -> Option<String> {
    let found = resolve(view, path, Last::Keep).ok()?;
    match found.node?.kind {
        Kind::Symlink(target) => {
            Some(format!("it is a symbolic link to {:?}, which does not exist", String::from_utf8_lossy(&target)))
        }
        _ => None,
    }
}

/// Names the path that may be meant: the first component that does not exist, replaced by its neighbour.
fn similar(view: &dyn View, path: &[u8]) -> Option<String> {
    let mut missing = path;
    let directory = loop {
        let found = resolve(view, parent(missing), Last::Follow).ok();
        if let Some(found) = found.filter(|found| found.node.as_ref().is_some_and(Node::is_directory)) {
            break found.path;
        }
        if missing.is_empty() {
            return None;
        }
        missing = parent(missing);
    };
    let names = view.names(&directory).ok()?;
    let names: Vec<String> = names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let wrong = String::from_utf8_lossy(base_name(missing)).into_owned();
    let meant = names.iter().find(|name| name.eq_ignore_ascii_case(&wrong)).map(String::as_str);
    let meant = meant.or_else(|| did_you_mean(&wrong, names.iter().map(String::as_str)))?;
    let rest = &path[missing.len()..];
    let path = [&join(parent(missing), meant.as_bytes()), rest].concat();
    Some(format!("did you mean {:?}?", shown(&path)))
}
