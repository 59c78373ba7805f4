//! The options of `RUN --mount`, once their variables are expanded.
//!
//! Contract: the order of options means nothing (in BuildKit `required` and `size` must follow `type`); where one is given
//! twice the last counts. What is not given stays `None`: defaults that depend on the working directory, the target or the
//! stage belong to the plan.

use crate::diagnostic::did_you_mean;

/// What a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that is kept between builds.
    Cache,
    /// A directory in memory.
    Tmpfs,
    /// A secret, as a file or a variable.
    Secret,
    /// The socket of an ssh agent.
    Ssh,
}

impl MountKind {
    /// The name in `type=`.
    pub fn name(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Cache => "cache",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Secret => "secret",
            MountKind::Ssh => "ssh",
        }
    }
}

/// How a cache mount is used by several builds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// All use it together.
    #[default]
    Shared,
    /// Each gets one that no other is using.
    Private,
    /// Each waits for the other.
    Locked,
}

/// A mount with checked options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `type`; a bind mount where it is not given.
    pub kind: MountKind,
    /// `target`, not cleaned and perhaps relative.
    pub target: Option<String>,
    /// `source`, not cleaned.
    pub source: Option<String>,
    /// `from`, as written.
    pub from: Option<String>,
    /// `id`.
    pub id: Option<String>,
    /// What `readonly` or `readwrite` say, where one is given. Not given, bind, secret and ssh are read-only.
    pub read_only: Option<bool>,
    /// `sharing`.
    pub sharing: Sharing,
    /// `size` of a tmpfs, in bytes.
    pub size: Option<u64>,
    /// `mode`, octal.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// `env` of a secret; empty text asks for the default name.
    pub env: Option<String>,
    /// `required`.
    pub required: bool,
}

/// Why options are refused, in BuildKit's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MountError {
    /// The option at fault, where it is one: an index into the fields.
    pub field: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// The word that was perhaps meant.
    pub suggestion: Option<String>,
}

impl MountError {
    fn new(field: usize, message: impl Into<String>) -> MountError {
        MountError { field: Some(field), message: message.into(), suggestion: None }
    }

    fn suggest(mut self, word: &str, candidates: &[&str]) -> MountError {
        // Longer words are not typing mistakes, and comparing them costs time.
        if word.len() <= 32 {
            self.suggestion = did_you_mean(word, candidates.iter().copied()).map(str::to_owned);
        }
        self
    }
}

const KEYS: [&str; 18] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "env",
];

/// An option with the field that it came from.
type Given<T> = Option<(usize, T)>;

#[derive(Default)]
struct Options {
    kind: Option<MountKind>,
    target: Given<String>,
    source: Given<String>,
    from: Given<String>,
    id: Given<String>,
    read_only: Given<bool>,
    sharing: Given<Sharing>,
    size: Given<u64>,
    mode: Given<u32>,
    uid: Given<u32>,
    gid: Given<u32>,
    env: Given<String>,
    required: Given<bool>,
}

/// Reads options: keys as written, values expanded, `None` where an option has no equals sign.
pub fn parse(fields: &[(String, Option<String>)]) -> Result<Mount, MountError> {
    let mut options = Options::default();
    for (at, (key, value)) in fields.iter().enumerate() {
        let name = key.to_lowercase();
        match value {
            Some(value) => {
                options.set(at, &name, value).map_err(|error| error.unwrap_or_else(|| unknown(at, key, value)))?
            }
            None => options.set_bare(at, &name, key)?,
        }
    }
    options.check()
}

fn unknown(at: usize, key: &str, value: &str) -> MountError {
    let name = key.to_lowercase();
    MountError::new(at, format!("unexpected key '{name}' in '{key}={value}'")).suggest(&name, &KEYS)
}

impl Options {
    fn set_bare(&mut self, at: usize, name: &str, written: &str) -> Result<(), MountError> {
        match name {
            "readonly" | "ro" => self.read_only = Some((at, true)),
            "readwrite" | "rw" => self.read_only = Some((at, false)),
            "required" => self.required = Some((at, true)),
            _ => {
                let error = MountError::new(at, format!("invalid field '{written}' must be a key=value pair"));
                return Err(error.suggest(name, &["readonly", "readwrite", "required"]));
            }
        }
        Ok(())
    }

    /// Takes one option; `Err(None)` says that no option has this name.
    fn set(&mut self, at: usize, name: &str, value: &str) -> Result<(), Option<MountError>> {
        let text = || Some((at, value.to_owned()));
        match name {
            "type" => self.kind = Some(kind(at, value)?),
            "from" => self.from = text(),
            "source" | "src" => self.source = text(),
            "target" | "dst" | "destination" => self.target = text(),
            "id" => self.id = text(),
            "env" => self.env = text(),
            "readonly" | "ro" => self.read_only = Some((at, boolean(at, name, value)?)),
            "readwrite" | "rw" => self.read_only = Some((at, !boolean(at, name, value)?)),
            "required" => self.required = Some((at, boolean(at, name, value)?)),
            "size" => self.size = Some((at, bytes(value).ok_or_else(|| invalid(at, name, value))?)),
            "sharing" => self.sharing = Some((at, sharing(at, value)?)),
            "mode" => self.mode = Some((at, number(at, name, value, 8)?)),
            "uid" => self.uid = Some((at, number(at, name, value, 10)?)),
            "gid" => self.gid = Some((at, number(at, name, value, 10)?)),
            _ => return Err(None),
        }
        Ok(())
    }

    fn check(self) -> Result<Mount, MountError> {
        let kind = self.kind.unwrap_or(MountKind::Bind);
        self.check_keys(kind)?;
        if kind == MountKind::Secret {
            self.check_secret()?;
        }
        if let Some((at, _)) = self.sharing.filter(|_| kind != MountKind::Cache) {
            return Err(MountError::new(at, format!("invalid cache sharing set for {} mount", kind.name())));
        }
        // BuildKit cannot tell an empty text from none, except in `env`.
        let text = |given: Given<String>| given.map(|(_, text)| text).filter(|text| !text.is_empty());
        Ok(Mount {
            kind,
            target: text(self.target),
            source: text(self.source),
            from: text(self.from),
            id: text(self.id),
            read_only: self.read_only.map(|(_, value)| value),
            sharing: self.sharing.map(|(_, sharing)| sharing).unwrap_or_default(),
            size: self.size.map(|(_, size)| size),
            mode: self.mode.map(|(_, mode)| mode),
            uid: self.uid.map(|(_, uid)| uid),
            gid: self.gid.map(|(_, gid)| gid),
            env: self.env.map(|(_, env)| env),
            required: self.required.is_some_and(|(_, required)| required),
        })
    }

    fn check_keys(&self, kind: MountKind) -> Result<(), MountError> {
        let unexpected = |at, key: &str| {
            Err(MountError::new(at, format!("unexpected key '{key}' for mount type '{}'", kind.name())))
        };
        if let Some((at, _)) = self.required.filter(|_| !matches!(kind, MountKind::Secret | MountKind::Ssh)) {
            return unexpected(at, "required");
        }
        if let Some((at, _)) = self.size.filter(|_| kind != MountKind::Tmpfs) {
            return unexpected(at, "size");
        }
        if matches!(kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, given) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if let Some((at, _)) = given {
                    return Err(MountError::new(at, format!("{key} not allowed for {:?} type mounts", kind.name())));
                }
            }
        }
        Ok(())
    }

    fn check_secret(&self) -> Result<(), MountError> {
        let place = |given: &Given<String>| given.as_ref().filter(|(_, text)| !text.is_empty()).map(|(at, _)| *at);
        if let Some(at) = place(&self.from) {
            return Err(MountError::new(at, "secret mount should not have a from"));
        }
        if let Some((at, _)) = self.sharing {
            return Err(MountError::new(at, "secret mount should not define sharing"));
        }
        match (place(&self.source), place(&self.id)) {
            (Some(_), Some(at)) => Err(MountError::new(at, "both source and id can't be set")),
            (None, None) if place(&self.target).is_none() => Err(MountError {
                field: None,
                message: "invalid secret mount. one of source, target required".to_owned(),
                suggestion: None,
            }),
            _ => Ok(()),
        }
    }
}

fn invalid(at: usize, name: &str, value: &str) -> MountError {
    MountError::new(at, format!("invalid value for {name}: {value}"))
}

fn kind(at: usize, value: &str) -> Result<MountKind, MountError> {
    let kinds = [MountKind::Bind, MountKind::Cache, MountKind::Tmpfs, MountKind::Secret, MountKind::Ssh];
    let lower = value.to_lowercase();
    kinds.into_iter().find(|kind| kind.name() == lower).ok_or_else(|| {
        let error = MountError::new(at, format!("unsupported mount type {value:?}"));
        error.suggest(&lower, &kinds.map(MountKind::name))
    })
}

fn sharing(at: usize, value: &str) -> Result<Sharing, MountError> {
    let lower = value.to_lowercase();
    match lower.as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => {
            let error = MountError::new(at, format!("unsupported sharing value {value:?}"));
            Err(error.suggest(&lower, &["shared", "private", "locked"]))
        }
    }
}

/// Go's `strconv.ParseBool`.
fn boolean(at: usize, name: &str, value: &str) -> Result<bool, MountError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(at, name, value)),
    }
}

/// Go's `strconv.ParseUint` of 32 bits, which takes no sign.
fn number(at: usize, name: &str, value: &str, radix: u32) -> Result<u32, MountError> {
    let error = || MountError::new(at, format!("invalid value {value} for {name}"));
    if value.starts_with('+') {
        return Err(error());
    }
    u32::from_str_radix(value, radix).map_err(|_| error())
}

/// A size such as `64m`, `1.5 GiB` or `512`: units are powers of 1024, in any case, with or without `b` or `ib`.
fn bytes(text: &str) -> Option<u64> {
    let last = text.rfind(|letter: char| letter.is_ascii_digit() || matches!(letter, '.' | ' '))?;
    let (number, unit) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if !number.bytes().all(|digit| digit.is_ascii_digit() || digit == b'.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.to_lowercase();
    let mut letters = unit.chars();
    let scale = match letters.next() {
        None => 0,
        Some('b') => return letters.next().is_none().then_some(number as u64),
        Some(letter) => "kmgtp".find(letter)? as i32 + 1,
    };
    matches!(letters.as_str(), "" | "b" | "ib").then_some((number * 1024_f64.powi(scale)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &str) -> Result<Mount, MountError> {
        let fields: Vec<_> = options
            .split(',')
            .map(|field| match field.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (field.to_owned(), None),
            })
            .collect();
        parse(&fields)
    }

    #[test]
    fn options_may_stand_in_any_order() {
        let one = read("type=secret,required,id=a,target=/b,mode=0440,uid=1,gid=2").expect("a mount");
        let other = read("gid=2,uid=1,mode=0440,required=true,TARGET=/b,id=a,type=Secret").expect("a mount");
        assert_eq!(one, other);
        assert_eq!((one.mode, one.required, one.read_only), (Some(0o440), true, None));
        assert_eq!(read("size=1k,type=tmpfs,dst=/t").expect("a mount").size, Some(1024));
    }

    #[test]
    fn what_is_not_given_is_left_to_the_plan() {
        let mount = read("target=/x,from=,rw").expect("a mount");
        assert_eq!((mount.kind, mount.read_only, mount.sharing), (MountKind::Bind, Some(false), Sharing::Shared));
        assert_eq!((mount.from, mount.env, mount.size), (None, None, None));
        assert_eq!(read("type=secret,id=a,env=").expect("a mount").env.as_deref(), Some(""));
    }

    #[test]
    fn faults_are_told_in_buildkits_words() {
        let cases = [
            ("type=cahce", Some(0), "unsupported mount type \"cahce\"", Some("cache")),
            ("target=/x,sourec=/y", Some(1), "unexpected key 'sourec' in 'sourec=/y'", Some("source")),
            ("target", Some(0), "invalid field 'target' must be a key=value pair", None),
            ("", Some(0), "invalid field '' must be a key=value pair", None),
            ("required", Some(0), "unexpected key 'required' for mount type 'bind'", None),
            ("target=/x,type=cache,size=1", Some(2), "unexpected key 'size' for mount type 'cache'", None),
            ("mode=0755", Some(0), "mode not allowed for \"bind\" type mounts", None),
            ("type=tmpfs,gid=1", Some(1), "gid not allowed for \"tmpfs\" type mounts", None),
            ("type=tmpfs,size=x", Some(1), "invalid value for size: x", None),
            ("ro=maybe", Some(0), "invalid value for ro: maybe", None),
            ("type=cache,mode=9", Some(1), "invalid value 9 for mode", None),
            ("type=cache,uid=+1", Some(1), "invalid value +1 for uid", None),
            ("sharing=locked", Some(0), "invalid cache sharing set for bind mount", None),
            ("type=cache,sharing=lock", Some(1), "unsupported sharing value \"lock\"", None),
            ("type=cache,sharing=sharde", Some(1), "unsupported sharing value \"sharde\"", Some("shared")),
            ("type=secret,id=a,from=b", Some(2), "secret mount should not have a from", None),
            ("type=secret,id=a,sharing=locked", Some(2), "secret mount should not define sharing", None),
            ("type=secret,env=A", None, "invalid secret mount. one of source, target required", None),
            ("type=secret,id=a,src=b", Some(1), "both source and id can't be set", None),
        ];
        for (options, field, message, suggestion) in cases {
            let error = read(options).expect_err(options);
            assert_eq!((error.field, error.message.as_str()), (field, message), "{options}");
            assert_eq!(error.suggestion.as_deref(), suggestion, "{options}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        let cases = [
            ("512", Some(512)),
            ("1k", Some(1024)),
            ("1.5 KiB", Some(1536)),
            ("64MB", Some(64 << 20)),
            ("2gib", Some(2 << 30)),
            ("10b", Some(10)),
            ("1bb", None),
            ("1kx", None),
            ("-1", None),
            ("m", None),
            ("1e3", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
